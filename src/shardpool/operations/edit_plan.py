"""What an edit of the topology would do to the fleet: counted on the shards, changing nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from .. import control
from ..bucket_sql import quote_table
from ..changes import Move, check_successor_file, describe_changes, gainers, losers, moves, renamed, renames
from ..errors import EditRefused
from ..topology import Keyspace, Topology
from .connections import Conn, Connections, connected, one, rows


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows of a table on a shard that would not own them any more, and of how many buckets they are."""

    shard: str
    keyspace: str
    table: str
    rows: int
    buckets: int


@dataclass(frozen=True)
class Plan:
    """An edit before it is made. `changes` are lines for people; `missing` are (shard, table) that would be needed."""

    old: Topology
    new: Topology
    changes: tuple[str, ...]
    moves: tuple[Move, ...]
    lost: tuple[Lost, ...] = ()
    missing: tuple[tuple[str, str], ...] = ()
    shards_counted: bool = field(default=True)

    @property
    def buckets(self) -> int:
        """How many buckets change their owner."""
        return sum(move.buckets for move in self.moves)

    @property
    def rows(self) -> int:
        """How many rows would change their owner: they would have to be moved first."""
        return sum(lost.rows for lost in self.lost)

    def refusal(self) -> EditRefused | None:
        """Why it cannot be applied, or None."""
        if self.lost:
            return EditRefused(
                f"{self.rows} rows lie in buckets that would change their owner",
                detail="; ".join(_told(lost) for lost in self.lost),
                hint="Buckets that hold rows are not given away: their rows have to be moved first.",
            )
        if self.missing:
            tables = ", ".join(f"{table.removeprefix('public.')} on {shard}" for shard, table in self.missing)
            return EditRefused(
                "a shard would own keys of tables that it does not have",
                detail=f"Missing: {tables}.",
                hint="Create the tables there first, as they are on the other shards.",
            )
        return None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "epoch": self.old.epoch,
            "changes": list(self.changes),
            "buckets": self.buckets,
            "rows": self.rows if self.shards_counted else None,
            "lost": [
                {"shard": lost.shard, "table": lost.table, "rows": lost.rows, "buckets": lost.buckets}
                for lost in self.lost
            ],
            "missing": [{"shard": shard, "table": table} for shard, table in self.missing],
        }


def _told(lost: Lost) -> str:
    table = lost.table.removeprefix("public.")
    return f"shard {lost.shard}: {lost.rows} rows of {table} in {lost.buckets} bucket{'' if lost.buckets == 1 else 's'}"


def reached(old: Topology, new: Topology) -> dict[str, Topology]:
    """The shards that an edit has to reach, with the topology that says where each is.

    All of the new topology, and of the old those that give something away and are gone then.
    """
    names = renames(old, new)
    gone = [shard for shard in losers(moves(old, new)) if shard not in new.shards]
    return {**dict.fromkeys(new.shards, new), **dict.fromkeys(gone, renamed(old, names))}


def first_plan(old: Topology, new: Topology) -> Plan:
    """The plan as far as the two files tell it; no I/O. Raises `EditRefused` when one can never follow the other."""
    check_successor_file(new, old)
    found = tuple(moves(old, new))
    changes = tuple(describe_changes(old, new))
    if found and new.control == "none":
        raise EditRefused(
            f"{sum(move.buckets for move in found)} buckets would change their owner, and nobody can count their rows",
            detail="control: none: the shards carry no shardpool schema.",
            hint="Set control: required, and run: shardpool init",
        )
    return Plan(old, new, changes, found, shards_counted=not found)


async def plan_edit(old: Topology, new: Topology, timeout: float = 60.0) -> Plan:
    """What the change would do, with the rows counted on the shards; raises `EditRefused`, `ScatterError`."""
    plan = first_plan(old, new)
    if new.control == "none":
        return plan
    async with connected(reached(old, new), timeout) as conns:
        return await counted(plan, conns)


async def counted(plan: Plan, conns: Connections) -> Plan:
    """The plan with what the shards say."""
    before = renamed(plan.old, renames(plan.old, plan.new))

    async def lost(name: str, conn: Conn) -> list[Lost]:
        return await _lost(conn, before, plan, name)

    async def missing(name: str, conn: Conn) -> list[tuple[str, str]]:
        tables = [table for space in _gained(plan, name) for table in plan.new.keyspaces[space].tables]
        return [(name, table) for table in tables if not await _exists(conn, table)]

    found = await conns.on(losers(plan.moves), lost, "counting rows")
    absent = await conns.on(gainers(plan.moves), missing, "looking for tables")
    return Plan(
        plan.old,
        plan.new,
        plan.changes,
        plan.moves,
        tuple(one for several in found.values() for one in several),
        tuple(one for several in absent.values() for one in several),
    )


def _gained(plan: Plan, shard: str) -> list[str]:
    return list(dict.fromkeys(move.keyspace for move in plan.moves if move.target == shard))


def given_away(found: Sequence[Move], shard: str) -> list[str]:
    """The keyspaces of which a shard gives keys away."""
    return list(dict.fromkeys(move.keyspace for move in found if move.source == shard))


async def _lost(conn: Conn, before: Topology, plan: Plan, name: str) -> list[Lost]:
    found = []
    for space in given_away(plan.moves, name):
        old, new = before.keyspaces[space], plan.new.keyspaces[space]
        for table in old.tables:
            if await _exists(conn, table):
                count, buckets = await _count(conn, old, new, table, name)
                if count:
                    found.append(Lost(name, space, table, count, buckets))
    return found


async def _count(conn: Conn, old: Keyspace, new: Keyspace, table: str, name: str) -> tuple[int, int]:
    try:
        ((count, buckets),) = await rows(conn, control.lost_rows_query(old, new, table, name))
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
        raise EditRefused(
            f"shard {name} carries no shardpool schema, and cannot count by bucket", hint=control.NOT_INSTALLED_HINT
        ) from None
    return count, buckets


async def _exists(conn: Conn, table: str) -> bool:
    return bool(await one(conn, "select pg_catalog.to_regclass(%s) is not null", (quote_table(table),)))
