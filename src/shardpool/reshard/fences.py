"""Fences, guards and filters of a move: triggers on its tables that say which rows may be written, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..control import fence, guard
from ..operations.connections import Conn, one, rows
from ..operations.fences import patiently
from ..quoting import quote_table
from . import replication
from .links import link
from .tables import read_tables
from .work import Work


class Fences:
    """Draws and lifts them on the shards of one move."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._topology = work.topology
        self._move = work.move

    async def draw_stale_fences(self) -> None:
        """Whoever declares no epoch, or an older one, writes none of the tables on either shard."""
        for shard in self._work.shards:
            await self._on_tables(shard, lambda table: guard.stale_fence(table, self._topology.epoch))

    async def draw_row_guards(self) -> None:
        """Whoever writes a row that moves, on either shard, is asked for it, whatever session it is."""
        for shard in self._work.shards:
            await self._on_tables(shard, partial(guard.row_guard, self._topology, self._move))

    async def lift_row_guards(self) -> None:
        for shard in self._work.shards:
            await self._on_tables(shard, partial(guard.lift_row_guard, self._move))

    async def lift_stale_fences(self) -> None:
        """Unless another move hands rows of the same tables over on that shard: then it lifts them."""
        handing = [move for move in self._topology.moves.values() if move.state == "guarded" and move != self._move]
        for shard in self._work.shards:
            others = [move for move in handing if shard in (move.source, move.target)]
            if not any(move.keyspace == self._move.keyspace and move.table == self._move.table for move in others):
                await self._on_tables(shard, guard.lift_stale_fence)

    async def draw_row_fences(self, shard: str, *, anew: bool) -> None:
        """The shard refuses rows that are not its own by this topology; with `anew` only where it does so already."""
        async with link(self._topology, shard) as conn:
            fenced = dict(await rows(conn, fence.FENCED_QUERY))
            for table in self._work.table_names:
                if table in fenced or not anew:
                    enforced = fenced.get(table, False)
                    statement = fence.fence_statement(self._topology, table, shard, enforced=enforced)
                    await _gently(conn, statement, table)

    async def draw_change_fences(self) -> None:
        """No TRUNCATE, and no change of a key out of what moves or into it, on either shard."""
        for shard in self._work.shards:
            await self._on_tables(shard, partial(guard.change_fence, self._topology, shard_name=shard))

    async def draw_filters(self, shard: str, *, only_there: bool = False) -> None:
        """The shard leaves out, of what is sent to it, all that no move of this topology brings."""
        async with link(self._topology, shard) as conn:
            tables = await read_tables(conn, self._topology, self._move)
            query = "select exists (select from pg_catalog.pg_trigger where tgname = %s and tgrelid = to_regclass(%s))"
            for table, statement in replication.filters(self._topology, tables, shard).items():
                name = f"{guard.FILTER}_insert"
                if not only_there or await one(conn, query, (name, quote_table(table))):
                    await _gently(conn, statement, table)

    async def _on_tables(self, shard: str, statement: Callable[[str], str]) -> None:
        async with link(self._topology, shard) as conn:
            for table in self._work.table_names:
                if await one(conn, "select pg_catalog.to_regclass(%s) is not null", (quote_table(table),)):
                    await _gently(conn, statement(table), table)


async def _gently(conn: Conn, statement: str, table: str) -> None:
    """A statement that locks a table whose writers are to wait for as good as nothing."""
    await patiently(conn, statement, table, lock_timeout="50ms", tries=100)
