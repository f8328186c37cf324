"""What `migrate` prints: the matrix, the plan, the report, and progress while it runs."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..output import print_json, print_table

if TYPE_CHECKING:
    from ...schema import Happened, Plan, Report, Status
    from ...schema.status import Line


# Statements of one migration that a plan shows.
_SHOWN = 20


def print_status(status: Status, show_all: bool) -> None:
    """What deviates, what is pending, and on request the rest; last, one line of sums."""
    for shard, error in status.unreached.items():
        click.echo(click.style(f"{shard}: {_first(error)}", fg="red"))
    for problem in status.problems:
        click.echo(click.style(str(problem), fg="red") + (f"\n    HINT:  {problem.hint}" if problem.hint else ""))
    for shard, runner in status.running.items():
        click.echo(click.style(f"{shard}: is being migrated now by {runner.application}", fg="yellow"))
    deviating = status.deviations
    pending = [line for line in status.pending if line not in deviating]
    rest = [line for line in status.lines if line not in deviating and line not in pending] if show_all else []
    lines = [*deviating, *pending, *rest]
    if lines:
        _matrix(status.shards, lines)
    applied = len(status.lines) - len(status.pending)
    click.echo(
        f"{len(status.lines)} migrations on {len(status.shards)} shards: {applied} applied everywhere, "
        f"{len(pending)} pending, {len(deviating)} deviating"
    )


def _matrix(shards: Sequence[str], lines: Sequence[Line]) -> None:
    wide = max(len("migration"), *(len(line.label) for line in lines))
    for shard in shards:
        wide += 2 + max(len(shard), *(len(line.here[shard]) for line in lines))
    # Where nobody looks on, lines may be of any length.
    width = shutil.get_terminal_size((sys.maxsize, 0)).columns
    if wide > width:
        _folded(lines, width)
        return
    print_table(["migration", *shards], [[line.label, *(line.here[shard] for shard in shards)] for line in lines])


def _folded(lines: Sequence[Line], width: int) -> None:
    """The matrix for a terminal that is narrower: of each migration the shards by what they say."""
    for line in lines:
        click.echo(click.style(line.label, bold=True))
        shards_by_state: dict[str, list[str]] = {}
        for shard, at in line.here.items():
            shards_by_state.setdefault(at, []).append(shard)
        for at, names in shards_by_state.items():
            text = f"{at} on {len(names)}: {', '.join(names)}"
            click.echo(textwrap.fill(text, width, initial_indent="  ", subsequent_indent="    "))


def print_plan(made: Plan, as_json: bool) -> None:
    """The stages with their migrations and shards."""
    if as_json:
        print_json(plan_as_dict(made))
        return
    for number, stage in enumerate(made.stages, 1):
        click.echo(click.style(f"stage {number} of {len(made.stages)}", bold=True))
        for migration in stage.migrations:
            block = migration.up if made.direction == "up" else migration.down
            notes = [] if block is None or block.transactional else ["no transaction"]
            notes += [migration.phase] if migration.phase == "contract" else []
            more = f"  ({', '.join(notes)})" if notes else ""
            click.echo(f"  {migration.label}{more}: {', '.join(stage.shards_by_version[migration.version])}")
            sql = statements(made, migration)
            for statement in sql[:_SHOWN]:
                click.echo(f"      {statement}")
            if len(sql) > _SHOWN:
                click.echo(f"      … and {len(sql) - _SHOWN:,} more")
    for problem in made.problems:
        click.echo(click.style(str(problem), fg="red") + (f"\n    HINT:  {problem.hint}" if problem.hint else ""))
    if made.is_empty and not made.problems:
        click.echo("nothing to do")


def statements(made: Plan, migration: Any) -> list[str]:
    """What would be sent, each statement in one line."""
    from ...schema.steps import shortened
    from ...schema.steps import statements as statements_of

    block = migration.up if made.direction == "up" else migration.down
    return [shortened(statement, 100) for statement, _ in statements_of(block)] if block is not None else []


def plan_as_dict(made: Plan) -> dict[str, Any]:
    """JSON-ready."""
    return {
        "direction": made.direction,
        "stages": [
            [
                {
                    "version": migration.version,
                    "name": migration.label,
                    "phase": migration.phase,
                    "shards": list(stage.shards_by_version[migration.version]),
                    "statements": statements(made, migration),
                }
                for migration in stage.migrations
            ]
            for stage in made.stages
        ],
        "problems": [{"shard": p.shard or None, "problem": p.message, "hint": p.hint or None} for p in made.problems],
    }


def print_report(report: Report) -> None:
    """One line for each shard, and one of sums."""
    if report.ok and not report.changed:
        click.echo(f"nothing to do on {len(report.shards)} shards ({report.seconds:.2f} s)")
        return
    from ...schema.steps import shortened

    is_program = report.direction == "exec"
    rows = [
        [
            name,
            shard.outcome,
            *([] if is_program else [len(shard.done)]),
            f"{shard.seconds:.2f} s",
            # The whole of it follows on standard error.
            shortened(_first(shard.error), 60) if shard.error else "",
        ]
        for name, shard in report.shards.items()
    ]
    print_table(["shard", "outcome", *([] if is_program else ["migrations"]), "time", "error"], rows)
    what = f"run on {report.changed} of" if is_program else f"{report.changed} migrations run on"
    click.echo(f"{what} {len(report.shards)} shards in {report.seconds:.2f} s")


def _first(error: BaseException) -> str:
    from ...errors import summary

    return summary(error)


_STATUS_WORDS = {
    "wait": "waits for {detail}",
    "begin": "{label}",
    "blocked": "{label} waits for {detail}",
    "retry": "{label} again in {seconds:.1f} s: {detail}",
    "mend": "{detail}",
    "stepped": "{label} step {step} of {steps} done",
    "applied": "{label} applied in {seconds:.2f} s",
    "reverted": "{label} taken back in {seconds:.2f} s",
    "output": "{detail}",
    "failed": "failed: {detail}",
}


def sentence(happened: Happened) -> str:
    """What happened in words; empty for what is not worth a line."""
    text = _STATUS_WORDS.get(happened.what, "")
    return text.format(
        label=happened.label,
        detail=happened.detail,
        step=happened.step,
        steps=happened.steps,
        seconds=happened.seconds,
    )


class Lines:
    """Progress for a log: what has come to its end, and what holds it up."""

    def __call__(self, happened: Happened) -> None:
        text = sentence(happened)
        if text and happened.what != "begin":
            click.echo(f"{happened.shard}  {text}", err=True)


class Live:
    """Progress on a terminal: one line for each shard that is being worked on, and above them what has ended."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        self._now: dict[str, str] = {}
        self._console = Console(stderr=True, highlight=False)
        self._live = RichLive(console=self._console, transient=True, refresh_per_second=8)

    def __enter__(self) -> Live:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def __call__(self, happened: Happened) -> None:
        from rich.text import Text

        text = sentence(happened)
        if happened.what in ("done", "failed"):
            self._now.pop(happened.shard, None)
        elif text:
            self._now[happened.shard] = text
        if text and happened.what in ("applied", "reverted", "mend", "retry", "output", "failed"):
            self._console.print(Text(f"{happened.shard}  {text}"))
        self._live.update(Text("\n".join(f"{shard}  {now}" for shard, now in self._now.items())))
