"""Shards that refuse rows which belong to others, whoever writes them: a net under all that places rows."""

from __future__ import annotations

from collections.abc import Iterable

from ..control.fence import fence_statement, unfence_statement
from ..control.identity import IDENTITY_QUERY, NOT_INSTALLED_HINT, check_identity
from ..errors import EditRefused, UnknownTable, nearest
from ..quoting import quote_table
from ..topology import Sharded, Topology, qualified
from .agreement import check_owners
from .connections import Conn, connected, one, rows
from .fences import moved_before, patiently

_EXISTS = "select pg_catalog.to_regclass(%s) is not null"


async def enforce_owners(
    topology: Topology, on: bool, tables: Iterable[str] = (), *, timeout: float = 60.0
) -> dict[str, list[str]]:
    """Have each shard refuse (SQLSTATE RS001) rows of these sharded tables that it does not own: {shard: tables}.

    Without `tables` of all. It costs about 2 µs for each row that is inserted, and for each whose key is changed. Edits
    of the topology keep it; a shard or a table that comes later needs it anew. With `on` False it ends, but for what
    earlier edits refuse on shards that have given keys away.

    Idempotent. `timeout` seconds bounds the whole; writers at work on a table are waited for. Raises `UnknownTable`,
    `EditRefused` where the shards do not agree with the topology, `ScatterError` when some could not do it.
    """
    if topology.control == "none":
        raise EditRefused("control: none: the shards carry no shardpool schema, by which they could tell")
    names = _named(topology, tables)

    async def step(name: str, conn: Conn) -> list[str]:
        await _check_shard(topology, name, conn)
        keeps = on or await moved_before(conn)
        there = [table for table in names if await one(conn, _EXISTS, (quote_table(table),))]
        for table in there:
            statement = fence_statement(topology, table, name, enforced=on)
            await patiently(conn, statement if keeps else unfence_statement(table), table)
        return there

    async with connected(dict.fromkeys(topology.shards, topology), timeout) as conns:
        return await conns.on(conns.names, step, "enforcing" if on else "ending the enforcement")


def _named(topology: Topology, tables: Iterable[str]) -> list[str]:
    sharded = [table for table, placement in topology.placements.items() if isinstance(placement, Sharded)]
    names = [qualified(table) for table in tables]
    for table in names:
        if table not in sharded:
            short, *known = [name.removeprefix("public.") for name in (table, *sharded)]
            raise UnknownTable(f'no sharded table "{short}" in the topology', hint=nearest(short, known))
    return names or sharded


async def _check_shard(topology: Topology, name: str, conn: Conn) -> None:
    """The right server, with the owners of the topology, and the newest function that refuses."""
    if not await one(conn, "select pg_catalog.to_regclass('shardpool.self') is not null"):
        raise EditRefused(f"shard {name} carries no shardpool schema", hint=NOT_INSTALLED_HINT)
    problem = check_identity((await rows(conn, IDENTITY_QUERY))[0], topology, name)
    if problem is not None:
        raise EditRefused(f"shard {name} is not as the topology says", detail=problem)
    await check_owners(conn, topology, name)
