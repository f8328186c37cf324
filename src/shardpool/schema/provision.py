"""A new shard, made like another: its schema, what it has of all shards, and what it knows of migrations."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection

from ..control.fence import FENCED_QUERY, fence_statement
from ..control.own_sql import OWN_SESSION
from ..errors import BadMigration, MigrationError
from ..topology import Topology
from . import contents, drift, state
from .baseline import TABLES
from .contents import quoted
from .programs import end, environment
from .session import ShardSession, connect, one, rows_of, while_answering, who

if TYPE_CHECKING:
    from .._async.fleet.fleet import AsyncFleet

# What psql reads and the server does not.
_FOR_PSQL = re.compile(r"^\\(?:un)?restrict\b.*$", re.MULTILINE)
# What is there already, and may belong to another.
_THERE = re.compile(r"^(?:CREATE SCHEMA public;|COMMENT ON (?:SCHEMA public|EXTENSION) .*)$", re.MULTILINE)
# What pg_dump sets from version 17 on, and an earlier server does not know.
_OF_17 = re.compile(r"^SET transaction_timeout = 0;$", re.MULTILINE)
_BIND = "SHARDPOOL_PG_BINDIR"


async def provision(
    fleet: AsyncFleet, session: ShardSession, like: str, pg_dump: str | None, ignore: Sequence[str]
) -> int:
    """Make the shard of the session like `like`, all or nothing; gives how many rows of reference tables were copied.

    Raises `BadMigration` for a shard that has a schema of its own, `MigrationError` when the two are not equal at the
    end, or the other one does not answer any more.
    """
    return await while_answering(fleet, like, _provision(fleet, session, like, pg_dump, ignore))


async def _provision(
    fleet: AsyncFleet, session: ShardSession, like: str, pg_dump: str | None, ignore: Sequence[str]
) -> int:
    target = session.worker
    source = await connect(fleet, like, readonly=True)
    try:
        # Other tools find theirs by the search_path of the role. Where nothing was ever migrated there is none.
        histories = await contents.known(source, ("shardpool.migrations", *TABLES))
        for conn in (source, target):
            # Rows are copied, and compared, as texts.
            await conn.execute(OWN_SESSION, prepare=False)
        await source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        # All that is read of the other shard is of this moment.
        snapshot = (await one(source, "SELECT pg_catalog.pg_export_snapshot()"))[0]
        await _refuse_unless_empty(fleet, session, ignore)
        # Rows that the role is not let see are an error, and not left out.
        await source.execute("SET row_security = off")
        left_out = await contents.sequences_of(source, fleet.topology.single_tables)
        left_out += [quoted(table) for table in fleet.topology.single_tables]
        before = await _dumped(fleet, like, source, "pre-data", snapshot, pg_dump, left_out)
        after = await _dumped(fleet, like, source, "post-data", snapshot, pg_dump, left_out)
        async with target.transaction():
            await target.execute(_known(before, target), prepare=False)
            rows = 0
            for table in fleet.topology.reference_tables:
                rows += await contents.copy(source, target, table)
            await target.execute(_known(after, target), prepare=False)
            await _draw_fences(fleet.topology, session.shard, target)
            await contents.set_sequences(source, target)
            await contents.fill_views(source, target)
            for table in histories:
                await contents.copy(source, target, table)
            values = {"version": "-", "event": "provisioned", "step": None, "seconds": None, "detail": f"like {like}"}
            await target.execute(state.LOG, {**values, "by": who()}, prepare=False)
            await _compare(fleet, session.shard, target, like, source, ignore)
        return rows
    finally:
        await source.close()


def _known(dumped: str, target: AsyncConnection[Any]) -> str:
    return dumped if target.info.server_version >= 170000 else _OF_17.sub("", dumped)


async def _draw_fences(topology: Topology, shard: str, target: AsyncConnection[Any]) -> None:
    """The fences that have come with the tables let in what the other shard has: here they let in what this one has."""
    for table, enforced in await rows_of(target, FENCED_QUERY):
        await target.execute(fence_statement(topology, table, shard, enforced=enforced), prepare=False)


async def _refuse_unless_empty(fleet: AsyncFleet, session: ShardSession, ignore: Sequence[str]) -> None:
    things = await _things(fleet, session.worker, ignore)
    there = [name for kind, name in things if kind not in ("schema", "extension")]
    if there:
        raise BadMigration(
            f"shard {session.shard} is not empty",
            detail=f"It has {', '.join(there[:5])}{' …' if len(there) > 5 else ''}.",
            hint="A shard that is provisioned has nothing but the schema shardpool of `shardpool init`.",
        )


async def _things(fleet: AsyncFleet, conn: AsyncConnection[Any], ignore: Sequence[str]) -> dict[drift.Key, drift.Thing]:
    async with conn.transaction():
        await conn.execute("SET LOCAL search_path = ''", prepare=False)
        thing_by_key = drift.things(await rows_of(conn, drift.query()), fleet.topology, ignore)
        await conn.execute("RESET search_path", prepare=False)
    return thing_by_key


async def _compare(
    fleet: AsyncFleet,
    shard: str,
    target: AsyncConnection[Any],
    like: str,
    source: AsyncConnection[Any],
    ignore: Sequence[str],
) -> None:
    both = {like: await _things(fleet, source, ignore), shard: await _things(fleet, target, ignore)}
    differences = drift.compare(both, like)
    if differences:
        raise MigrationError(
            f"shard {shard} is not like {like}; nothing was kept", detail="; ".join(map(str, differences[:10]))
        )
    for table in fleet.topology.reference_tables:
        if await contents.digest(source, table) != await contents.digest(target, table):
            raise MigrationError(f"the rows of {table} on shard {shard} are not those of {like}; nothing was kept")


async def _dumped(
    fleet: AsyncFleet,
    shard: str,
    conn: AsyncConnection[Any],
    section: str,
    snapshot: str,
    program: str | None,
    left_out: Sequence[str],
) -> str:
    """The SQL of one section of the schema."""
    variables, _ = await environment(fleet, shard, conn)
    command = [
        program or find_pg_dump(),
        "--schema-only",
        "--no-owner",
        f"--section={section}",
        f"--snapshot={snapshot}",
        "--exclude-schema=shardpool",
        # Two that read from one slot take each other's rows.
        "--no-subscriptions",
        *(f"--exclude-table={table}" for table in left_out),
    ]
    process = await asyncio.create_subprocess_exec(
        *command,
        env={**os.environ, **variables},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = await process.communicate()
    except BaseException:
        await end(process)
        raise
    if process.returncode != 0:
        lines = err.decode(errors="replace").strip().splitlines() or ["no word"]
        raise MigrationError(
            f"pg_dump of shard {shard} failed",
            detail="; ".join(lines[:3]),
            hint="It has to be of the servers' version or a later one: --pg-dump PROGRAM.",
        )
    return _THERE.sub("", _FOR_PSQL.sub("", out.decode()))


def find_pg_dump() -> str:
    """The program: in the folder that SHARDPOOL_PG_BINDIR names, or on the PATH; raises `BadMigration`."""
    folder = os.environ.get(_BIND)
    named = str(Path(folder) / "pg_dump") if folder else shutil.which("pg_dump")
    if named is None:
        raise BadMigration("pg_dump is not there", hint="Install PostgreSQL's client programs, or: --pg-dump PROGRAM.")
    return named
