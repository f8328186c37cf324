"""Fences, guards and filters of a move: triggers on its tables that say which rows may be written, and by whom."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial

from ..control import fence, guard
from ..control.locks import DRAWING_LOCK_GROUP, LOCK_CLASS
from ..errors import MoveRefused
from ..operations.connections import Conn, one, rows
from ..operations.fences import patiently
from ..quoting import quote_table
from ..topology import Topology
from . import replication
from .links import link
from .tables import read_tables
from .work import Work


class Fences:
    """Draws and lifts them on the shards of one move.

    Moves run side by side, and most of what is drawn says what all moves of a shard do. So one draws at a time, by the
    topology as the file has it then: who draws later has published earlier, or knows what was published.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._topology = work.topology
        self._move = work.move

    async def draw_stale_fences(self) -> None:
        """Whoever declares no epoch, or an older one, writes none of the tables on either shard."""
        epoch = self._topology.epoch
        await self._on_both(lambda shard, now: lambda table: guard.stale_fence(table, epoch))

    async def draw_row_guards(self) -> None:
        """Whoever writes a row that moves, on either shard, is asked for it, whatever session it is."""
        await self._on_both(lambda shard, now: partial(guard.row_guard, self._topology, self._move))

    async def lift_row_guards(self) -> None:
        await self._on_both(lambda shard, now: partial(guard.lift_row_guard, self._move))

    async def lift_stale_fences(self) -> None:
        """Unless another move hands rows of the same tables over on that shard: then it lifts them."""

        def lift(shard: str, now: Topology) -> Callable[[str], str] | None:
            others = [other for other in now.moves.values() if other.number != self._move.number]
            same = [one for one in others if (one.keyspace, one.table) == (self._move.keyspace, self._move.table)]
            handing = any(one.state == "guarded" and shard in (one.source, one.target) for one in same)
            return None if handing else guard.lift_stale_fence

        await self._on_both(lift)

    async def draw_row_fences(self, shard: str, *, anew: bool) -> None:
        """The shard refuses rows that are not its own; with `anew` only where it does so already."""
        async with self._drawing(shard) as (conn, now):
            fenced = dict(await rows(conn, fence.FENCED_QUERY))
            for table in self._work.table_names:
                if table in fenced or not anew:
                    enforced = fenced.get(table, False)
                    await _gently(conn, fence.fence_statement(now, table, shard, enforced=enforced), table)

    async def draw_change_fences(self) -> None:
        """No TRUNCATE, and no change of a key out of what moves or into it, on either shard."""
        await self._on_both(lambda shard, now: partial(guard.change_fence, now, shard_name=shard))

    async def draw_filters(self, shard: str, *, only_there: bool = False) -> None:
        """The shard leaves out, of what is sent to it, all that no move brings."""
        async with self._drawing(shard) as (conn, now):
            tables = await read_tables(conn, self._topology, self._move)
            query = "select exists (select from pg_catalog.pg_trigger where tgname = %s and tgrelid = to_regclass(%s))"
            for table, statement in replication.filters(now, tables, shard).items():
                name = f"{guard.FILTER}_insert"
                if not only_there or await one(conn, query, (name, quote_table(table))):
                    await _gently(conn, statement, table)

    async def _on_both(self, statements: Callable[[str, Topology], Callable[[str], str] | None]) -> None:
        for shard in self._work.shards:
            async with self._drawing(shard) as (conn, now):
                statement = statements(shard, now)
                if statement is None:
                    continue
                for table in self._work.table_names:
                    if await one(conn, "select pg_catalog.to_regclass(%s) is not null", (quote_table(table),)):
                        await _gently(conn, statement(table), table)

    @asynccontextmanager
    async def _drawing(self, shard: str) -> AsyncIterator[tuple[Conn, Topology]]:
        """A connection that nobody else draws beside, and the topology to draw by."""
        async with link(self._topology, shard) as conn:
            await conn.execute("select pg_catalog.pg_advisory_lock(%s, %s)", (LOCK_CLASS, DRAWING_LOCK_GROUP))
            known = await one(conn, "select epoch from shardpool.meta")
            now = self._work.current()
            if now.epoch < known:
                raise MoveRefused(
                    f"shard {shard} works by epoch {known}, and this topology file is of epoch {now.epoch}",
                    detail="Somebody has changed the topology by another copy of the file.",
                    hint=f"shardpool topology pull, and then: shardpool move resume {self._move.number}",
                )
            yield conn, now


async def _gently(conn: Conn, statement: str, table: str) -> None:
    """A statement that locks a table whose writers are to wait for as good as nothing."""
    await patiently(conn, statement, table, lock_timeout="50ms", tries=100)
