"""What is done with the whole fleet beside running migrations: compare, verify, take over, repair, run a program."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from .. import report as reports
from ..errors import ScatterError, ShardpoolError, first_line, summary
from ..own_sql import qualified
from . import baseline as stamping
from . import drift as drifting
from . import indexes, state
from .errors import BadMigration, MigrationError
from .files import Folder, Migration
from .inspecting import on_each, things_of
from .locks import Limits
from .plan import shards_of
from .programs import run_program
from .reading import read_states
from .report import Happened, Progress, Report, ShardReport
from .rollout import Rollout, roll_out
from .runner import values_of
from .session import ShardSession, one, who
from .status import status

if TYPE_CHECKING:
    from .._async.router import AsyncRouter

Work = Callable[[ShardSession], Awaitable[None]]


async def drift(
    router: AsyncRouter, shards: Sequence[str], reference: str | None, ignore: Sequence[str], timeout: float
) -> drifting.Drift:
    """See `AsyncMigrations.drift`."""
    found, failed = await things_of(router, shards, timeout, [*stamping.TABLES, *ignore])
    if reference is not None and reference not in found:
        raise MigrationError(f"the reference shard {reference} does not answer", detail=summary(failed[reference]))
    digests = {name: drifting.digest(things) for name, things in found.items()}
    differences = drifting.compare(found, reference) if len(set(digests.values())) > 1 else ()
    return drifting.Drift(digests, differences, failed)


async def verify(router: AsyncRouter, folder: Folder, shards: Sequence[str], timeout: float) -> reports.Report:
    """See `AsyncMigrations.verify`."""
    topology = router.topology
    states = await read_states(router, shards, timeout)
    found = status(folder, topology, states)
    findings = [reports.Finding("error", name, summary(error)) for name, error in found.unreached.items()]
    findings += [reports.Finding("error", p.shard or "migrations", p.message) for p in found.problems]
    for line in found.lines:
        for name, at in line.here.items():
            if "step" in at or "failed" in at or "down" in at:
                findings.append(reports.Finding("error", name, f"{line.label}: {at}"))

    async def look(shard: str, conn: AsyncConnection[Any]) -> list[reports.Finding]:
        told = [
            reports.Finding("error", shard, f"index {index.name} of {index.table} is invalid")
            for index in await indexes.invalid(conn, shard)
        ]
        asked = 0
        for migration in folder.migrations:
            row = states[shard].rows.get(migration.version)
            if row is None or not row.is_applied or shard not in shards_of(migration, topology):
                continue
            for query in migration.verifies:
                asked += 1
                told += await _verified(conn, shard, migration, query)
        applied = sum(row.is_applied for row in states[shard].rows.values())
        return told or [reports.Finding("ok", shard, f"{applied} migrations, {asked} queries, no invalid index")]

    reached = [name for name in shards if name not in found.unreached]
    told, failed = await on_each(router, reached, timeout, look)
    for name in reached:
        findings += told.get(name, [])
    findings += [reports.Finding("error", name, summary(error)) for name, error in failed.items()]
    return reports.Report(topology.fleet, topology.epoch, tuple(findings), ())


async def _verified(conn: AsyncConnection[Any], shard: str, migration: Migration, query: str) -> list[reports.Finding]:
    try:
        row = await one(conn, query)
    except psycopg.Error as error:
        return [reports.Finding("error", shard, f"{migration.label}: {query}: {first_line(error)}")]
    if row is None or row[0] is not True:
        return [reports.Finding("error", shard, f"{migration.label}: not true: {query}")]
    return []


async def on_all(router: AsyncRouter, shards: Sequence[str], limits: Limits, work: Work, what: str) -> None:
    """`work` on all shards at once, each in a session that holds its lock; raises `ScatterError`, or the one error."""

    async def on(shard: str) -> Exception | None:
        try:
            async with ShardSession(router, shard, limits, _silent) as session:
                await work(session)
        except (ShardpoolError, psycopg.Error) as error:
            return error
        return None

    outcomes = await asyncio.gather(*map(on, shards))
    failures = {name: error for name, error in zip(shards, outcomes, strict=True) if error is not None}
    for error in failures.values():
        if isinstance(error, BadMigration):
            raise error
    if failures:
        raise ScatterError(f"{what} failed on {len(failures)} of {len(shards)} shards", failures=failures)


async def baseline(
    router: AsyncRouter,
    folder: Folder | None,
    shards: Sequence[str],
    tool: str | None,
    to: str | None,
    limits: Limits,
    timeout: float,
) -> dict[str, list[str]]:
    """See `AsyncMigrations.baseline`."""
    versions: dict[str, list[str]] = {}
    imported: tuple[tuple[str, str], ...] = ()
    if tool is not None:
        histories, failed = await on_each(
            router, shards, timeout, lambda shard, conn: stamping.history(conn, shard, tool)
        )
        if failed:
            raise ScatterError(
                f"the history of {tool} cannot be read on every shard",
                failures=failed,
                hint=f"A shard that {tool} has not seen is left out by naming the others: --shard NAME.",
            )
        stamping.same(histories, tool)
        imported = next(iter(histories.values()))
    marked: tuple[Migration, ...] = ()
    if folder is not None and tool == "dbmate":
        marked, imported = stamping.stamped(folder, [version for version, _ in imported], None), ()
    elif folder is not None and (tool is None or to is not None):
        marked = stamping.stamped(folder, None, to)

    async def work(session: ShardSession) -> None:
        mine = [migration for migration in marked if session.shard in shards_of(migration, router.topology)]
        rows = [values_of(router, m.version, m.name, m.checksum, "baseline") for m in mine]
        rows += [values_of(router, version, name, None, "baseline", origin=tool) for version, name in imported]
        versions[session.shard] = []
        async with session.worker.transaction():
            for values in rows:
                there = await one(
                    session.worker,
                    qualified("SELECT FROM shardpool.migrations WHERE version = %s"),
                    (values["version"],),
                )
                if there is not None:
                    continue
                await session.worker.execute(state.WRITE, values, prepare=False)
                log = {"version": values["version"], "event": "baseline", "step": None, "seconds": None}
                await session.worker.execute(state.LOG, {**log, "detail": tool, "by": who()}, prepare=False)
                versions[session.shard].append(values["version"])

    await on_all(router, shards, limits, work, "baseline")
    return {name: versions[name] for name in shards}


async def execute(
    router: AsyncRouter,
    shards: Sequence[str],
    command: Sequence[str],
    rollout: Rollout,
    limits: Limits,
    progress: Progress,
    drain: Callable[[str], Awaitable[None]],
) -> Report:
    """See `AsyncMigrations.execute`."""
    made = {name: ShardReport(name) for name in shards}
    begun = monotonic()

    async def on(shard: str) -> bool:
        report, began = made[shard], monotonic()
        try:
            async with ShardSession(router, shard, limits, progress) as session:
                await run_program(router, session, command, lambda line: session.tell("output", detail=line))
            report.outcome = "done"
            report.done[command[0]] = monotonic() - began
        except Exception as error:
            report.outcome, report.error = "failed", error
            progress(Happened("failed", shard, detail=summary(error)))
        report.seconds = monotonic() - began
        await drain(shard)
        return report.error is None

    await roll_out(rollout, shards, on)
    return Report("exec", made, monotonic() - begun)


def _silent(happened: Happened) -> None: ...
