"""What is done with the whole fleet beside running migrations: compare, verify, take over, repair, run a program."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from .. import report as reports
from ..control.own_sql import qualified
from ..errors import BadMigration, MigrationError, ScatterError, ShardpoolError, first_line, summary
from . import baseline as stamping
from . import drift as drifting
from . import indexes, state
from .files import Folder, Migration
from .inspecting import on_each, things_of
from .locks import Limits
from .plan import shards_of
from .programs import run_program
from .reading import read_states
from .records import values_of
from .report import Happened, MigrationReport, Progress, ShardReport
from .rollout import Rollout, roll_out
from .session import ShardSession, one, who
from .status import status

if TYPE_CHECKING:
    from .._async.fleet.fleet import AsyncFleet

Work = Callable[[ShardSession], Awaitable[None]]


async def drift(
    fleet: AsyncFleet, shards: Sequence[str], reference: str | None, ignore: Sequence[str], timeout: float
) -> drifting.Drift:
    """See `AsyncMigrations.drift`."""
    things_by_shard, failed = await things_of(fleet, shards, timeout, [*stamping.TABLES, *ignore])
    if reference is not None and reference not in things_by_shard:
        raise MigrationError(f"the reference shard {reference} does not answer", detail=summary(failed[reference]))
    digests = {name: drifting.digest(things) for name, things in things_by_shard.items()}
    differences = drifting.compare(things_by_shard, reference) if len(set(digests.values())) > 1 else ()
    return drifting.Drift(digests, differences, failed)


async def verify(fleet: AsyncFleet, folder: Folder, shards: Sequence[str], timeout: float) -> reports.Report:
    """See `AsyncMigrations.verify`."""
    topology = fleet.topology
    states = await read_states(fleet, shards, timeout)
    state = status(folder, topology, states)
    findings = [reports.Finding("error", name, summary(error)) for name, error in state.unreached.items()]
    findings += [reports.Finding("error", p.shard or "migrations", p.message) for p in state.problems]
    for line in state.lines:
        for name, at in line.here.items():
            if "step" in at or "failed" in at or "down" in at:
                findings.append(reports.Finding("error", name, f"{line.label}: {at}"))

    async def look(shard: str, conn: AsyncConnection[Any]) -> list[reports.Finding]:
        findings = [
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
                findings += await _verified(conn, shard, migration, query)
        applied = sum(row.is_applied for row in states[shard].rows.values())
        return findings or [reports.Finding("ok", shard, f"{applied} migrations, {asked} queries, no invalid index")]

    reached = [name for name in shards if name not in state.unreached]
    findings_by_shard, failed = await on_each(fleet, reached, timeout, look)
    for name in reached:
        findings += findings_by_shard.get(name, [])
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


async def on_all(fleet: AsyncFleet, shards: Sequence[str], limits: Limits, work: Work, what: str) -> None:
    """`work` on all shards at once, each in a session that holds its lock; raises `ScatterError`, or the one error."""

    async def on(shard: str) -> Exception | None:
        try:
            async with ShardSession(fleet, shard, limits, _silent) as session:
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
    fleet: AsyncFleet,
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
            fleet, shards, timeout, lambda shard, conn: stamping.history(conn, shard, tool)
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
        mine = [migration for migration in marked if session.shard in shards_of(migration, fleet.topology)]
        rows = [values_of(fleet, m.version, m.name, m.checksum, "baseline") for m in mine]
        rows += [values_of(fleet, version, name, None, "baseline", origin=tool) for version, name in imported]
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

    await on_all(fleet, shards, limits, work, "baseline")
    return {name: versions[name] for name in shards}


async def execute(
    fleet: AsyncFleet,
    shards: Sequence[str],
    command: Sequence[str],
    rollout: Rollout,
    limits: Limits,
    progress: Progress,
    drain: Callable[[str], Awaitable[None]],
) -> MigrationReport:
    """See `AsyncMigrations.execute`."""
    made = {name: ShardReport(name) for name in shards}
    begun = monotonic()

    async def on(shard: str) -> bool:
        report, began = made[shard], monotonic()
        try:
            async with ShardSession(fleet, shard, limits, progress) as session:
                await run_program(fleet, session, command, lambda line: session.tell("output", detail=line))
            report.outcome = "done"
            report.done[command[0]] = monotonic() - began
        except Exception as error:
            report.outcome, report.error = "failed", error
            progress(Happened("failed", shard, detail=summary(error)))
        report.seconds = monotonic() - began
        await drain(shard)
        return report.error is None

    await roll_out(rollout, shards, on)
    return MigrationReport("exec", made, monotonic() - begun)


def _silent(happened: Happened) -> None: ...
