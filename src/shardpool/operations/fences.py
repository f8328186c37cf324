"""Fences on the shards that give keys away, and their end when the edit is undone."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

import psycopg

from ..control.fence import FENCED_QUERY, fence_statement, unfence_statement
from ..quoting import quote_table
from ..topology import Topology
from .connections import Conn, one, rows

# How long a fence may wait for the writers at work on a table before it lets others pass, and how often it is tried.
_LOCK_TIMEOUT = "500ms"
_LOCK_TRIES = 20
_LOCK_PAUSE = 0.2

_BLOCKERS = """
    select string_agg(distinct format('process %%s of %%s (%%s, for %%s s)', a.pid, a.usename, a.state,
      extract(epoch from clock_timestamp() - a.xact_start)::int), ', ')
    from pg_catalog.pg_locks l join pg_catalog.pg_stat_activity a using (pid)
    where l.relation = pg_catalog.to_regclass(%s) and l.granted and l.pid <> pg_catalog.pg_backend_pid()
      and l.mode not in ('AccessShareLock', 'RowShareLock')
"""


_MOVED_BEFORE = """
    select exists (select from shardpool.history where outcome = 'done'
      and (plan->'owners' <> '{}' or plan->'settle' = 'true'))
"""


async def moved_before(conn: Conn) -> bool:
    """Whether an edit may have drawn fences on the shard."""
    return bool(await one(conn, _MOVED_BEFORE))


async def draw_fences(conn: Conn, topology: Topology, shard: str, tables: Collection[str]) -> None:
    """Fence these tables of a shard as the topology says, and draw those anew that have a fence already."""
    fenced = dict(await rows(conn, FENCED_QUERY))
    for table in topology.placements:
        if table in fenced or (
            table in tables and await one(conn, "select pg_catalog.to_regclass(%s) is not null", (quote_table(table),))
        ):
            statement = fence_statement(topology, table, shard, enforced=fenced.get(table, False))
            await patiently(conn, statement, table)


async def undo_fences(conn: Conn, topology: Topology, shard: str, keep: bool) -> None:
    """Fences back to how `topology` has them: with `keep` they stay, since earlier edits have drawn some.

    Those that were asked for by `enforce` stay in any case.
    """
    for table, enforced in await rows(conn, FENCED_QUERY):
        if (keep or enforced) and shard in topology.shards and table in topology.placements:
            await patiently(conn, fence_statement(topology, table, shard, enforced=enforced), table)
        else:
            await patiently(conn, unfence_statement(table), table)


async def patiently(
    conn: Conn, statement: str, table: str, *, lock_timeout: str = _LOCK_TIMEOUT, tries: int = _LOCK_TRIES
) -> None:
    """A statement that locks a table: it gives way to others again and again, rather than hold up all writers."""
    for attempt in range(tries):
        try:
            async with conn.transaction():
                await conn.execute(f"set local lock_timeout = '{lock_timeout}'")
                await conn.execute(statement)
            return
        except psycopg.errors.LockNotAvailable as error:
            if attempt == tries - 1:
                blockers = await one(conn, _BLOCKERS, (quote_table(table),))
                raise psycopg.errors.LockNotAvailable(
                    f"table {table.removeprefix('public.')} is held by writers: {blockers or 'they have just ended'}"
                ) from error
            await asyncio.sleep(_LOCK_PAUSE)
