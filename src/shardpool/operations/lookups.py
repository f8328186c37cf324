"""Columns that are unique over the fleet: their entries are made, filled, compared with the rows, and mended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from ..control.identity import IDENTITY_QUERY, NOT_INSTALLED_HINT, check_identity
from ..control.lookups import (
    GRANTS_QUERY,
    STATE_QUERY,
    TABLE_QUERY,
    LookupState,
    drop_statements,
    function,
    grant_statements,
    ready_statement,
    state_of,
    state_params,
    table_statement,
    trigger_statements,
)
from ..errors import EditRefused, UnknownTable, nearest
from ..keys import column_problems
from ..quoting import quote_table
from ..topology import Lookup, Sharded, Topology
from .agreement import check_owners
from .connections import Conn, Connections, connected, one, rows
from .fences import patiently

SETTLE = 4.0
"""Seconds in which a router sees that entries are used no more."""


def named(topology: Topology, names: Sequence[str]) -> list[Lookup]:
    """The lookups of these names (`users.email`), all without any. Raises `UnknownTable`."""
    known = {lookup.name: lookup for found in topology.lookups.values() for lookup in found}
    for name in names:
        if name.removeprefix("public.") not in known:
            raise UnknownTable(f'no lookup "{name}" in the topology', hint=nearest(name, known))
    if not known:
        raise EditRefused(
            f"fleet {topology.fleet} has no lookup",
            hint="Write lookup: {table.column: unique} into the keyspace whose key is of the column's type.",
        )
    return [known[name.removeprefix("public.")] for name in names] or list(known.values())


def key_columns(topology: Topology, lookup: Lookup) -> tuple[str, ...]:
    """The columns of the partition key of a lookup's table."""
    placement = topology.placements[lookup.table]
    assert isinstance(placement, Sharded)
    return placement.key_columns


async def create_lookups(
    topology: Topology, names: Sequence[str] = (), *, timeout: float = 60.0
) -> dict[str, dict[str, str]]:
    """Make the tables of entries, and the triggers that keep them, on every shard: {lookup: {shard: its state}}.

    From then on only routers whose topology has the lookup may change the column. Idempotent. `timeout` seconds bounds
    the whole; writers at work on a table are waited for. Raises `EditRefused`, `UnknownTable`, and `ScatterError` when
    some shards could not do it.
    """
    if topology.control == "none":
        raise EditRefused("control: none: the shards carry no shardpool schema, by which they could tell")
    lookups = named(topology, names)
    async with connected(dict.fromkeys(topology.shards, topology), timeout) as conns:

        async def prepare(name: str, conn: Conn) -> None:
            await check_shard(topology, name, conn)
            for lookup in lookups:
                await column_types(topology, lookup, name, conn)

        async def entries(name: str, conn: Conn) -> None:
            await conn.execute(function())
            for lookup in lookups:
                _, types = await column_types(topology, lookup, name, conn)
                keys = key_columns(topology, lookup)
                await conn.execute(table_statement(lookup, types, keys))
                grants = await rows(conn, GRANTS_QUERY, (quote_table(lookup.table),))
                for statement in grant_statements(lookup, grants):
                    await conn.execute(statement)

        async def triggers(name: str, conn: Conn) -> None:
            for lookup in lookups:
                kind, _ = await column_types(topology, lookup, name, conn)
                statement = trigger_statements(lookup, key_columns(topology, lookup), partitioned=kind == "p")
                await patiently(conn, statement, lookup.table)

        await conns.on(conns.names, prepare, "looking at the tables")
        # The entries first: what a trigger collects has to have its place on every shard.
        await conns.on(conns.names, entries, "making the tables of entries")
        await conns.on(conns.names, triggers, "making the triggers")
        return await states(conns, lookups)


async def drop_lookups(
    topology: Topology, names: Sequence[str], *, settle: float = SETTLE, timeout: float = 60.0
) -> dict[str, dict[str, str]]:
    """Take lookups away, and all of their entries, from every shard; the topology loses them afterwards.

    First nobody is to read them any more: `settle` seconds are for routers to see that, which look every two seconds.
    Idempotent. Raises as `create_lookups` does.
    """
    lookups = named(topology, names)
    async with connected(dict.fromkeys(topology.shards, topology), timeout) as conns:

        async def retire(name: str, conn: Conn) -> None:
            await check_shard(topology, name, conn)
            for lookup in lookups:
                if (await state(lookup, conn)).is_ready:
                    await patiently(conn, ready_statement(lookup, ready=False), lookup.entries)

        async def drop(name: str, conn: Conn) -> None:
            for lookup in lookups:
                await patiently(conn, drop_statements(lookup), lookup.table)

        await conns.on(conns.names, retire, "retiring the entries")
        await asyncio.sleep(settle)
        await conns.on(conns.names, drop, "dropping the lookups")
        return await states(conns, lookups)


async def states(conns: Connections, lookups: Sequence[Lookup]) -> dict[str, dict[str, str]]:
    """How each lookup is on each shard, in words."""

    async def step(name: str, conn: Conn) -> dict[str, LookupState]:
        return {lookup.name: await state(lookup, conn) for lookup in lookups}

    by_shard = await conns.on(conns.names, step, "looking at the lookups")
    return {lookup.name: {name: str(found[lookup.name]) for name, found in by_shard.items()} for lookup in lookups}


async def state(lookup: Lookup, conn: Conn) -> LookupState:
    """How a lookup is on one shard."""
    return state_of(lookup, (await rows(conn, STATE_QUERY, state_params(lookup)))[0])


async def check_shard(topology: Topology, name: str, conn: Conn) -> None:
    """The right server, with the owners of the topology. Raises `EditRefused`."""
    if not await one(conn, "select pg_catalog.to_regclass('shardpool.self') is not null"):
        raise EditRefused(f"shard {name} carries no shardpool schema", hint=NOT_INSTALLED_HINT)
    problem = check_identity((await rows(conn, IDENTITY_QUERY))[0], topology, name)
    if problem is not None:
        raise EditRefused(f"shard {name} is not as the topology says", detail=problem)
    await check_owners(conn, topology, name)


async def column_types(topology: Topology, lookup: Lookup, shard: str, conn: Conn) -> tuple[str, list[str]]:
    """The kind of a lookup's table, and the types of its column and key; raises `EditRefused` for what cannot be."""
    facts = {row[1]: row for row in await rows(conn, TABLE_QUERY, (quote_table(lookup.table),))}
    keys = key_columns(topology, lookup)
    missing = [name for name in (lookup.column, *keys) if name not in facts]
    table = lookup.table.removeprefix("public.")
    if missing:
        raise EditRefused(
            f"table {table} on shard {shard} has no column {missing[0]}", hint="Create it on every shard."
        )
    _, name, type_, deterministic, _ = facts[lookup.column]
    key_type = topology.keyspaces[lookup.keyspace].key_types[0]
    problems = column_problems(name, type_, key_type, deterministic=deterministic)
    if problems:
        raise EditRefused(
            f"{lookup.name} cannot be looked up in keyspace {lookup.keyspace}",
            detail=problems[0].replace("key column", "column"),
            hint="Write the lookup into a keyspace whose key is of the column's type.",
        )
    kind = facts[lookup.column][0]
    types = [f"{facts[each][2]}{f' collate {facts[each][4]}' if facts[each][4] else ''}" for each in (name, *keys)]
    return kind, types
