"""Carries out a plan on the shards: stage by stage, as the rollout says, with a report of what came of it on each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from ..errors import BadMigration, MigrationError, summary
from .locks import Limits
from .plan import MigrationPlan, Obstacle, Stage
from .report import Happened, MigrationReport, Progress, ShardReport
from .rollout import Rollout, roll_out
from .runner import Execute, Runner
from .session import ShardSession
from .state import ShardState
from .steps import check

if TYPE_CHECKING:
    from .._async.fleet.fleet import AsyncFleet


class Execution:
    """Of plans on one fleet; `execute` runs the statements that go wherever their rows are."""

    def __init__(self, fleet: AsyncFleet, execute: Execute) -> None:
        self._fleet = fleet
        self._execute = execute

    async def run(
        self,
        made: MigrationPlan,
        states: Mapping[str, ShardState],
        rollout: Rollout,
        limits: Limits,
        progress: Progress,
        begun: float,
    ) -> MigrationReport:
        """What has come of it; raises `BadMigration` before anything is run, and `MigrationError` with the report."""
        refuse(checked(made).problems)
        if made.stages:
            self.refuse_while_rows_move()
        reports = {name: ShardReport(name) for name in states}
        busy = {shard for stage in made.stages for shard in stage.shards}
        for name, state in states.items():
            if state.error is not None:
                reports[name].outcome, reports[name].error = "failed", state.error
                progress(Happened("failed", name, detail=summary(state.error)))
            elif name not in busy:
                reports[name].outcome = "nothing to do"
        unreached = any(state.error is not None for state in states.values())
        if not (unreached and rollout.on_error == "stop"):
            await self._stages(made, reports, rollout, limits, progress)
        report = MigrationReport(made.direction, reports, monotonic() - begun)
        if not report.ok:
            raise failure(report)
        return report

    async def _stages(
        self,
        made: MigrationPlan,
        reports: Mapping[str, ShardReport],
        rollout: Rollout,
        limits: Limits,
        progress: Progress,
    ) -> None:
        async def on(stage: Stage, shard: str) -> bool:
            report = reports[shard]
            if report.error is not None:
                return False
            began = monotonic()
            try:
                async with ShardSession(self._fleet, shard, limits, progress) as session:
                    await Runner(session, report, self._execute).run(stage.of(shard), made.direction)
                report.outcome = "done"
            except Exception as error:
                report.outcome, report.error = "failed", error
            report.seconds += monotonic() - began
            if report.done:
                await self.drain(shard)
            error_text = summary(report.error) if report.error is not None else ""
            progress(Happened("failed" if report.error else "done", shard, detail=error_text, seconds=report.seconds))
            return report.error is None

        for stage in made.stages:
            # One that could not be asked is not the first: the others are done without it.
            shards = [name for name in stage.shards if reports[name].error is None or name == rollout.canary]
            well = await roll_out(rollout, shards, lambda shard, stage=stage: on(stage, shard))  # type: ignore[misc]
            # What a shard has missed keeps what takes away from being begun anywhere.
            if not well or any(report.error is not None for report in reports.values()):
                break

    async def drain(self, shard: str) -> None:
        """What this router has prepared or knows of the shard's tables is out of date."""
        self._fleet.schema.changed()
        pools = self._fleet.snapshot.shards.get(shard)
        for pool in pools.endpoints if pools is not None else ():
            with suppress(Exception):
                await pool.drain()

    def refuse_while_rows_move(self) -> None:
        """What a migration does to a table is not sent to the shard that gets rows of it."""
        for move in self._fleet.topology.moves.values():
            raise MigrationError(
                f"{move} is running",
                detail="Tables stay as they are while rows of them move.",
                hint=f"Finish it first, or undo it: shardpool move status {move.number}",
            )


def refuse(problems: Sequence[Obstacle]) -> None:
    """Raise `BadMigration` with all of them, when there are any."""
    if not problems:
        return
    hints = dict.fromkeys(problem.hint for problem in problems if problem.hint)
    raise BadMigration(
        f"{len(problems)} thing{'s' if len(problems) > 1 else ''} to be put right first; nothing was run",
        detail="\n         ".join(map(str, problems)),
        hint="\n       ".join(hints) or None,
    )


def checked(made: MigrationPlan) -> MigrationPlan:
    """Raises `BadMigration` for what would be run and cannot; what is applied is history, however it was done."""
    for stage in made.stages:
        for migration in stage.migrations:
            check(migration)
    return made


def failure(report: MigrationReport) -> MigrationError:
    """The error that tells of a report in which something has failed."""
    failed = report.failures
    left = [name for name, shard in report.shards.items() if shard.outcome == "not begun"]
    parts = [f"{name}: {summary(error)}" for name, error in failed.items()]
    if left:
        parts.append(f"not begun: {', '.join(left)}")
    hints = dict.fromkeys(hint for error in failed.values() if (hint := getattr(error, "hint", None)))
    is_program = report.direction == "exec"
    again = "it is run again on every shard." if is_program else "it goes on where it ended."
    return MigrationError(
        f"{'the program' if is_program else f'migrating {report.direction}'} failed on {len(failed)} of "
        f"{len(report.shards)} shards",
        detail="\n         ".join(parts),
        hint="\n       ".join(hints) or f"Run it again when that is mended: {again}",
        report=report,
    )
