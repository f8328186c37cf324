"""A new shard, made like another: its schema, the rows of its reference tables, and what it knows of migrations."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection, sql

from . import drift, state
from .errors import BadMigration, MigrationError
from .programs import environment
from .session import ShardSession, connect, one, rows_of, who

if TYPE_CHECKING:
    from .._async.router import AsyncRouter

# What psql reads and the server does not.
_FOR_PSQL = re.compile(r"^\\(?:un)?restrict\b.*$", re.MULTILINE)
_PUBLIC = re.compile(r"^(?:CREATE SCHEMA public;|COMMENT ON SCHEMA public .*)$", re.MULTILINE)
# What pg_dump sets from version 17 on, and an earlier server does not know.
_OF_17 = re.compile(r"^SET transaction_timeout = 0;$", re.MULTILINE)
_BIND = "SHARDPOOL_PG_BINDIR"


async def provision(
    router: AsyncRouter, session: ShardSession, like: str, pg_dump: str | None, ignore: Sequence[str]
) -> int:
    """Make the shard of the session like `like`, all or nothing; gives how many rows of reference tables were copied.

    Raises `BadMigration` for a shard that has a schema of its own, `MigrationError` when the two are not equal at the
    end.
    """
    target = session.worker
    source = await connect(router, like, readonly=True)
    try:
        await source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # All that is read of the other shard is of this moment.
        snapshot = (await one(source, "SELECT pg_catalog.pg_export_snapshot()"))[0]
        await _refuse_unless_empty(router, session, ignore)
        before = await _dumped(router, like, source, "pre-data", snapshot, pg_dump)
        after = await _dumped(router, like, source, "post-data", snapshot, pg_dump)
        async with target.transaction():
            await target.execute(_known(before, target), prepare=False)
            rows = 0
            for table in router.topology.reference_tables:
                rows += await _copy(source, target, table)
            await target.execute(_known(after, target), prepare=False)
            await _copy(source, target, "shardpool.migrations")
            values = {"version": "-", "event": "provisioned", "step": None, "seconds": None, "detail": f"like {like}"}
            await target.execute(state.LOG, {**values, "by": who()}, prepare=False)
            await _compare(router, session.shard, target, like, source, ignore)
        return rows
    finally:
        await source.close()


def _known(dumped: str, target: AsyncConnection[Any]) -> str:
    return dumped if target.info.server_version >= 170000 else _OF_17.sub("", dumped)


async def _refuse_unless_empty(router: AsyncRouter, session: ShardSession, ignore: Sequence[str]) -> None:
    found = await _things(router, session.worker, ignore)
    there = [name for kind, name in found if kind not in ("schema", "extension")]
    if there:
        raise BadMigration(
            f"shard {session.shard} is not empty",
            detail=f"It has {', '.join(there[:5])}{' …' if len(there) > 5 else ''}.",
            hint="A shard that is provisioned has nothing but the schema shardpool of `shardpool init`.",
        )


async def _things(
    router: AsyncRouter, conn: AsyncConnection[Any], ignore: Sequence[str]
) -> dict[drift.Key, drift.Thing]:
    async with conn.transaction():
        await conn.execute("SET LOCAL search_path = ''", prepare=False)
        found = drift.things(await rows_of(conn, drift.query()), router.topology, ignore)
        await conn.execute("RESET search_path", prepare=False)
    return found


async def _compare(
    router: AsyncRouter,
    shard: str,
    target: AsyncConnection[Any],
    like: str,
    source: AsyncConnection[Any],
    ignore: Sequence[str],
) -> None:
    both = {like: await _things(router, source, ignore), shard: await _things(router, target, ignore)}
    differences = drift.compare(both, like)
    if differences:
        raise MigrationError(
            f"shard {shard} is not like {like}; nothing was kept", detail="; ".join(map(str, differences[:10]))
        )
    for table in router.topology.reference_tables:
        query = _CONTENT.format(sql.Identifier(*table.split("."))).as_string(target)
        if await one(source, query) != await one(target, query):
            raise MigrationError(f"the rows of {table} on shard {shard} are not those of {like}; nothing was kept")


_CONTENT = sql.SQL(
    "select pg_catalog.count(*), coalesce(pg_catalog.sum(pg_catalog.hashtextextended(t::text, 0)::numeric), 0)::text "
    "from {} t"
)


async def _copy(source: AsyncConnection[Any], target: AsyncConnection[Any], table: str) -> int:
    name = sql.Identifier(*table.split("."))
    columns = await rows_of(
        source,
        "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass(%s) AND attnum > 0 "
        "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum",
        (name.as_string(source),),
    )
    if not columns:
        raise MigrationError(f"reference table {table} is not there to be copied")
    listed = sql.SQL(", ").join(sql.Identifier(row[0]) for row in columns)
    reader, writer = source.cursor(), target.cursor()
    async with (
        reader.copy(sql.SQL("COPY {} ({}) TO STDOUT").format(name, listed)) as out,
        writer.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(name, listed)) as into,
    ):
        async for data in out:
            await into.write(data)
    return writer.rowcount


async def _dumped(
    router: AsyncRouter, shard: str, conn: AsyncConnection[Any], section: str, snapshot: str, program: str | None
) -> str:
    """The SQL of one section of the schema."""
    variables, _ = await environment(router, shard, conn)
    left_out = [f"--exclude-table={table}" for table in router.topology.single_tables]
    command = [
        program or find_pg_dump(),
        "--schema-only",
        "--no-owner",
        f"--section={section}",
        f"--snapshot={snapshot}",
        "--exclude-schema=shardpool",
        *left_out,
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await process.communicate()
    except BaseException:
        if process.returncode is None:
            process.terminate()
            await process.wait()
        raise
    if process.returncode != 0:
        lines = err.decode(errors="replace").strip().splitlines() or ["no word"]
        raise MigrationError(
            f"pg_dump of shard {shard} failed",
            detail="; ".join(lines[:3]),
            hint="It has to be of the servers' version or a later one: --pg-dump PROGRAM.",
        )
    return _PUBLIC.sub("", _FOR_PSQL.sub("", out.decode()))


def find_pg_dump() -> str:
    """The program: in the folder that SHARDPOOL_PG_BINDIR names, or on the PATH; raises `BadMigration`."""
    folder = os.environ.get(_BIND)
    named = str(Path(folder) / "pg_dump") if folder else shutil.which("pg_dump")
    if named is None:
        raise BadMigration("pg_dump is not there", hint="Install PostgreSQL's client programs, or: --pg-dump PROGRAM.")
    return named
