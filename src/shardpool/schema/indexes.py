"""What a killed CONCURRENTLY leaves behind: invalid indexes, partitions half detached; found, and put right."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from time import monotonic
from typing import Any

from psycopg import AsyncConnection, sql

from ..control.own_sql import qualified
from ..errors import MigrationError
from .session import ShardSession, one, rows_of
from .steps import Step

_INDEX = qualified("""
SELECT n.nspname, c.relname, i.indisvalid AND i.indisready, i.indrelid
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relname = %s
  AND i.indrelid = pg_catalog.to_regclass(%s)
""")

_NAMED = "SELECT pg_catalog.to_regclass(%s) IS NOT NULL"

# Who builds or vacuums holds this lock on the table; a leftover is one that nobody is at work on.
_BUSY = qualified("""
SELECT a.pid, a.application_name FROM pg_catalog.pg_locks l
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'relation' AND l.relation = %s AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
  AND l.mode = 'ShareUpdateExclusiveLock'
  AND l.database = (SELECT oid FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
""")

INVALID = qualified("""
SELECT n.nspname, c.relname, t.relname, pg_catalog.pg_get_indexdef(i.indexrelid), i.indrelid
FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
JOIN pg_catalog.pg_class t ON t.oid = i.indrelid
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE NOT (i.indisvalid AND i.indisready) AND c.relkind = 'i' AND n.nspname <> 'pg_toast'
  AND NOT pg_catalog.starts_with(n.nspname::pg_catalog.text, 'pg_toast_')
ORDER BY 1, 2
""")

_DETACHING = qualified("""
SELECT i.inhdetachpending FROM pg_catalog.pg_inherits i
WHERE i.inhrelid = pg_catalog.to_regclass(%s) AND i.inhparent = pg_catalog.to_regclass(%s)
""")


@dataclass(frozen=True, slots=True)
class Invalid:
    """An index that PostgreSQL keeps up and does not use. `is_copy`: what REINDEX CONCURRENTLY was building."""

    shard: str
    schema: str
    name: str
    table: str
    definition: str
    table_oid: int

    @property
    def is_copy(self) -> bool:
        stem = self.name.rstrip("0123456789")
        return stem.endswith(("_ccnew", "_ccold"))

    def as_dict(self) -> dict[str, str]:
        return {"shard": self.shard, "index": f"{self.schema}.{self.name}", "table": self.table}


def _quoted(schema: str, name: str) -> str:
    parts = [*filter(None, schema.split(".")), name]
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


async def before(session: ShardSession, step: Step, begun: bool) -> bool:
    """Make ready for a step that does not run in a transaction; True when it has been done already.

    `begun` is whether an earlier run has begun it and has not said how it ended.
    """
    conn = session.worker
    match step.kind:
        case "create index":
            return await _before_build(session, step, begun)
        case "drop index":
            return begun and not (await one(conn, _NAMED, (_quoted(step.schema, step.name),)))[0]
        case "reindex":
            await _drop_copies(session, step)
        case "detach":
            return await _before_detach(conn, step, begun)
    return False


async def _before_build(session: ShardSession, step: Step, begun: bool) -> bool:
    table = _quoted(step.table_schema, step.table)
    until = monotonic() + (session.limits.concurrently_timeout or 3600.0)
    while True:
        index = await one(session.worker, _INDEX, (step.name, table))
        if index is None:
            return False
        schema, name, is_valid, oid = index
        if is_valid:
            return begun
        busy = await rows_of(session.worker, _BUSY, (oid,))
        if not busy:
            break
        if monotonic() >= until:
            raise MigrationError(
                f"index {name} on shard {session.shard} is invalid, and its table is being worked on",
                detail=f"by pid {busy[0][0]} ({busy[0][1] or 'no name'}).",
                hint="Run it again when that has ended.",
            )
        await asyncio.sleep(0.1)
    session.tell("mend", detail=f"index {name} is a leftover, and invalid: dropped and built again")
    await drop(session.worker, schema, name)
    return False


async def _drop_copies(session: ShardSession, step: Step) -> None:
    """REINDEX CONCURRENTLY that was killed leaves copies beside the old indexes, which go on working."""
    for schema, name, table, definition, oid in await rows_of(session.worker, INVALID):
        left = Invalid(session.shard, schema, name, table, definition, oid)
        if left.is_copy and step.name in (table, _original(name)) and not await rows_of(session.worker, _BUSY, (oid,)):
            session.tell("mend", detail=f"index {name} is a leftover of REINDEX: dropped")
            await drop(session.worker, schema, name)


def _original(name: str) -> str:
    stem = name.rstrip("0123456789")
    return stem.removesuffix("_ccnew").removesuffix("_ccold")


async def _before_detach(conn: AsyncConnection[Any], step: Step, begun: bool) -> bool:
    child, parent = _quoted(step.schema, step.name), _quoted(step.table_schema, step.table)
    row = await one(conn, _DETACHING, (child, parent))
    if row is None:
        return begun
    if row[0]:
        await conn.execute(f"ALTER TABLE {parent} DETACH PARTITION {child} FINALIZE")
        return True
    return False


async def drop(conn: AsyncConnection[Any], schema: str, name: str) -> None:
    """Drop an index without holding anyone up."""
    await conn.execute(sql.SQL("DROP INDEX CONCURRENTLY IF EXISTS {}").format(sql.Identifier(schema, name)))


async def invalid(conn: AsyncConnection[Any], shard: str) -> list[Invalid]:
    """The invalid indexes of a shard, those left out that somebody is at work on."""
    indexes = [Invalid(shard, *row) for row in await rows_of(conn, INVALID)]
    return [index for index in indexes if not await rows_of(conn, _BUSY, (index.table_oid,))]


async def mend(conn: AsyncConnection[Any], index: Invalid) -> str:
    """Build an invalid index again, or drop it when it is a copy that REINDEX has left; what was done, in words."""
    if index.is_copy:
        await drop(conn, index.schema, index.name)
        return "dropped"
    await conn.execute(sql.SQL("REINDEX INDEX CONCURRENTLY {}").format(sql.Identifier(index.schema, index.name)))
    return "rebuilt"
