"""What an edit of the topology would do to the fleet: counted on the shards, changing nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from ..changes import (
    Move,
    check_moves_stay,
    check_successor_file,
    describe_changes,
    handed_over,
    moves,
    renamed,
    renames,
    resettled,
    source_shards,
    target_shards,
)
from ..control.identity import NOT_INSTALLED_HINT
from ..control.rows import misplaced_by_change_query, unplaced_rows_query
from ..errors import EditRefused
from ..quoting import quote_table
from ..topology import Keyspace, Reference, Single, Topology
from .agreement import check_owners
from .connections import Conn, Connections, connected, one, rows
from .numbering import numbering_shards


@dataclass(frozen=True, slots=True)
class Lost:
    """Rows of a table on a shard that would not own them any more, and of how many buckets they are.

    0 buckets: the table as a whole is placed in another way.
    """

    shard: str
    table: str
    rows: int
    buckets: int

    def __str__(self) -> str:
        text = f"shard {self.shard}: {_count_of(self.rows, 'row')} of {self.table.removeprefix('public.')}"
        return f"{text} in {_count_of(self.buckets, 'bucket')}" if self.buckets else text


@dataclass(frozen=True)
class EditPlan:
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
        if any(not lost.buckets for lost in self.lost):
            return EditRefused(
                f"{counted_rows(self.rows)} where nobody would look for {'it' if self.rows == 1 else 'them'}",
                detail="; ".join(map(str, self.lost)),
                hint="A table that holds rows is not placed in another way: its rows have to be moved first.",
            )
        if self.lost:
            return EditRefused(
                f"{counted_rows(self.rows)} in buckets that would change their owner",
                detail="; ".join(map(str, self.lost)),
                hint="Buckets that hold rows are not given away: their rows have to be moved first.",
            )
        if self.missing:
            tables = ", ".join(f"{table.removeprefix('public.')} on {shard}" for shard, table in self.missing)
            return EditRefused(
                "a shard would be asked for tables that it does not have",
                detail=f"Missing: {tables}.",
                hint="Create the tables there first, as they are on the other shards. A new shard is made like another "
                "with a copy of the file that has it: shardpool -t COPY init, shardpool -t COPY migrate provision "
                "SHARD, and then: shardpool topology apply COPY",
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


def _count_of(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def counted_rows(number: int) -> str:
    """`1 row lies`, `2 rows lie`."""
    return f"{_count_of(number, 'row')} {'lies' if number == 1 else 'lie'}"


def reached(old: Topology, new: Topology) -> dict[str, Topology]:
    """The shards that an edit has to reach, with the topology that says where each is.

    All of the new topology, and of the old those that give something away and are gone then.
    """
    names = renames(old, new)
    handing = numbering_shards(old, new) or ()
    holding = [
        *handing[:1],
        *source_shards(moves(old, new)),
        *(shard for shards in resettled(old, new).values() for shard in shards),
    ]
    gone = dict.fromkeys(shard for shard in holding if shard not in new.shards)
    return {**dict.fromkeys(new.shards, new), **dict.fromkeys(gone, renamed(old, names))}


def first_plan(old: Topology, new: Topology, mover: int | None = None) -> EditPlan:
    """The plan as far as the two files tell it; no I/O. Raises `EditRefused` when one can never follow the other.

    `mover` is the number of the move whose step the edit is: rows that it has handed over need not be counted.
    """
    check_successor_file(new, old)
    check_moves_stay(new, old, mover)
    numbering_shards(old, new)
    changes = tuple(describe_changes(old, new))
    old = old if mover is None else handed_over(old, new)
    moved = tuple(moves(old, new))
    if moved and "none" in (old.control, new.control):
        raise EditRefused(
            f"{sum(move.buckets for move in moved)} buckets would change their owner, and nobody can count their rows",
            detail="control: none: the shards carry no shardpool schema.",
            hint="Set control: required by itself, run shardpool init, and then make the change.",
        )
    return EditPlan(old, new, changes, moved, shards_counted=not moved and not resettled(old, new))


async def plan_edit(old: Topology, new: Topology, timeout: float = 60.0) -> EditPlan:
    """What the change would do, with the rows counted on the shards; raises `EditRefused`, `ScatterError`."""
    plan = first_plan(old, new)
    if old.control == "none":
        return plan
    before = renamed(old, renames(old, new))

    async def agrees(name: str, conn: Conn) -> None:
        if await one(conn, "select pg_catalog.to_regclass('shardpool.owner') is not null"):
            await check_owners(conn, old, name)

    async with connected(reached(old, new), timeout) as conns:
        known = [name for name in conns.names if name in before.shards]
        await conns.on(known, agrees, "the look at the owners")
        return await counted(plan, conns)


async def counted(plan: EditPlan, conns: Connections) -> EditPlan:
    """The plan with what the shards say."""
    before = renamed(plan.old, renames(plan.old, plan.new))

    async def lost(name: str, conn: Conn) -> list[Lost]:
        return await _lost(conn, before, plan, name)

    async def missing(name: str, conn: Conn) -> list[tuple[str, str]]:
        tables = [table for space in _gained(plan, name) for table in plan.new.keyspaces[space].tables]
        tables += joined if name in joining else []
        return [(name, table) for table in dict.fromkeys(tables) if not await _exists(conn, table)]

    async def there(name: str, conn: Conn) -> list[str]:
        return [table for table in _common(plan.new) if await _exists(conn, table)]

    anew = resettled(plan.old, plan.new)

    async def unplaced(name: str, conn: Conn) -> list[Lost]:
        return await _unplaced(conn, plan.new, [table for table, shards in anew.items() if name in shards], name)

    counts = await conns.on(source_shards(plan.moves), lost, "counting rows")
    placed_anew = await conns.on(conns.names, unplaced, "counting rows")
    placed_anew["reference tables"] = await _not_everywhere(plan.new, anew, conns)
    joining = [name for name in plan.new.shards if name not in before.shards]
    staying = [name for name in conns.names if name in before.shards and name in plan.new.shards]
    by_shard = await conns.on(staying if joining else (), there, "looking for tables")
    joined = [table for table in _common(plan.new) if any(table in tables for tables in by_shard.values())]
    absent = await conns.on(dict.fromkeys([*target_shards(plan.moves), *joining]), missing, "looking for tables")
    return EditPlan(
        plan.old,
        plan.new,
        plan.changes,
        plan.moves,
        tuple(one for several in (*counts.values(), *placed_anew.values()) for one in several),
        tuple(one for several in absent.values() for one in several),
    )


def _common(topology: Topology) -> list[str]:
    """The tables that routers expect on every shard as soon as it is in the topology.

    Reference tables are read from any shard and written on all of them, where all tables have to be alike. Without
    reference tables nobody asks a shard that owns nothing.
    """
    if not topology.reference_tables:
        return []
    return [table for table, placement in topology.placements.items() if not isinstance(placement, Single)]


def _gained(plan: EditPlan, shard: str) -> list[str]:
    return list(dict.fromkeys(move.keyspace for move in plan.moves if move.target == shard))


def given_away(moves: Sequence[Move], shard: str) -> list[str]:
    """The keyspaces of which a shard gives keys away."""
    return list(dict.fromkeys(move.keyspace for move in moves if move.source == shard))


async def _lost(conn: Conn, before: Topology, plan: EditPlan, name: str) -> list[Lost]:
    losses = []
    for space in given_away(plan.moves, name):
        old, new = before.keyspaces[space], plan.new.keyspaces[space]
        for table in old.tables:
            # One that is placed in another way as a whole is counted by that.
            if plan.new.placements.get(table) in (None, plan.old.placements[table]) and await _exists(conn, table):
                count, buckets = await _count(conn, old, new, table, name)
                if count:
                    losses.append(Lost(name, table, count, buckets))
    return losses


async def _unplaced(conn: Conn, new: Topology, tables: Sequence[str], name: str) -> list[Lost]:
    losses = []
    for table in tables:
        query = unplaced_rows_query(new, table, name)
        if query is not None and await _exists(conn, table):
            count = await one(conn, query)
            if count:
                losses.append(Lost(name, table, count, 0))
    return losses


async def _not_everywhere(new: Topology, anew: Mapping[str, Sequence[str]], conns: Connections) -> list[Lost]:
    """Rows of tables that become reference tables, where not every shard has as many."""
    tables = [table for table in anew if isinstance(new.placements[table], Reference)]

    async def count(name: str, conn: Conn) -> list[int]:
        counts = [f"select count(*) from {quote_table(table)}" for table in tables]
        return [await one(conn, counts[at]) if await _exists(conn, table) else 0 for at, table in enumerate(tables)]

    by_shard = await conns.on(conns.names if tables else (), count, "counting rows")
    return [
        Lost(name, table, counts[at], 0)
        for at, table in enumerate(tables)
        for name, counts in by_shard.items()
        if counts[at] and len({others[at] for others in by_shard.values()}) > 1
    ]


async def _count(conn: Conn, old: Keyspace, new: Keyspace, table: str, name: str) -> tuple[int, int]:
    try:
        ((count, buckets),) = await rows(conn, misplaced_by_change_query(old, new, table, name))
    except (psycopg.errors.UndefinedFunction, psycopg.errors.InvalidSchemaName):
        raise EditRefused(
            f"shard {name} carries no shardpool schema, and cannot count by bucket", hint=NOT_INSTALLED_HINT
        ) from None
    return count, buckets


async def _exists(conn: Conn, table: str) -> bool:
    return bool(await one(conn, "select pg_catalog.to_regclass(%s) is not null", (quote_table(table),)))
