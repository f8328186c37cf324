"""Another shard numbers the rows of the fleet: the sequences of the one that leaves are carried over to it.

A router that knows nothing of it yet goes on drawing from the shard that leaves. So its sequences get an end, some way
from where they are, and those of the other shard go on behind that: no number is given twice, whoever draws where.
See docs/adr/0053-numbers-come-in-blocks.md.
"""

from __future__ import annotations

from contextlib import suppress
from typing import NamedTuple

import psycopg
from psycopg import sql

from ..changes import renamed, renames
from ..errors import EditRefused, ScatterError
from ..topology import Topology
from .connections import Conn, Connections, one, rows

# How many numbers of a sequence routers may still draw from the shard that leaves.
_LEFT = 1_000_000

_SEQUENCES = """
    select n.nspname, c.relname, q.seqincrement, q.seqmin, q.seqmax,
           coalesce(pg_catalog.pg_sequence_last_value(q.seqrelid), q.seqstart - q.seqincrement)
    from pg_catalog.pg_sequence q join pg_catalog.pg_class c on c.oid = q.seqrelid
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where c.relpersistence <> 't' and n.nspname <> 'shardpool' and not q.seqcycle
"""


class Position(NamedTuple):
    """Where a sequence is, and its bounds."""

    schema: str
    name: str
    step: int
    lowest: int
    highest: int
    last: int

    @property
    def end(self) -> int:
        """Where it ends for those who still draw from it."""
        bound = self.highest if self.step > 0 else self.lowest
        left = min(_LEFT, abs(bound - self.last) // 2 // abs(self.step))
        return self.last + left * self.step

    def behind(self, end: int) -> int:
        """The first of its own numbers from `end` on."""
        return self.last + max(0, -((self.last - end) // self.step)) * self.step


def numbering_shards(old: Topology, new: Topology) -> tuple[str, str] | None:
    """The shard that has numbered so far, and the one that does from now on; None where it is the same.

    Raises `EditRefused` where the first one stays in the fleet.
    """
    before, after = renamed(old, renames(old, new)).numbering_shard, new.numbering_shard
    if before == after:
        return None
    if before in new.shards:
        raise EditRefused(
            f"shard {after} would come before {before}, whose sequences number the rows of all shards",
            hint=f"Keep {before} the first of the shards in the file.",
        )
    return before, after


async def carry_over(conns: Connections, source: str, target: str) -> list[Position]:
    """Let the sequences of one shard go on behind those of another, which end; gives those that do, as they were.

    All are as they were after `EditRefused` and `ScatterError`.
    """
    ended: list[Position] = []

    async def carry(name: str, conn: Conn) -> None:
        others = {(found.schema, found.name): found for found in await _positions(conns[target])}
        for position in await _positions(conn):
            other = others.get((position.schema, position.name))
            if other is not None and (other.step > 0) is (position.step > 0):
                ended.append(position)
                await _end_at(conn, position, position.end)
                await _go_on(conns[target], other, position.end)

    try:
        await conns.on([source], carry, "carrying sequences over")
    except (EditRefused, ScatterError):
        await give_back(conns[source], ended)
        raise
    return ended


async def give_back(source: Conn, ended: list[Position]) -> None:
    """Let the sequences go on as they did."""
    for position in ended:
        with suppress(psycopg.Error):
            await _end_at(source, position, position.highest if position.step > 0 else position.lowest)


async def _go_on(conn: Conn, position: Position, end: int) -> None:
    value = position.behind(end)
    if value != position.last:
        name = sql.Identifier(position.schema, position.name).as_string()
        try:
            await one(conn, "select pg_catalog.setval(%s::regclass, %s)", (name, value))
        except psycopg.errors.NumericValueOutOfRange as error:
            raise EditRefused(f"sequence {name} has no numbers left behind {end}") from error


async def _positions(conn: Conn) -> list[Position]:
    return [Position(*row) for row in await rows(conn, _SEQUENCES)]


async def _end_at(conn: Conn, position: Position, end: int) -> None:
    bound = sql.SQL("maxvalue" if position.step > 0 else "minvalue")
    name = sql.Identifier(position.schema, position.name)
    await conn.execute(sql.SQL("alter sequence {} {} {}").format(name, bound, end))
