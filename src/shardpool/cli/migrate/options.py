"""Options that several commands of `migrate` have, and how they run."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..app import FAILURE, print_error
from ..options import shards, topology_path
from ..output import print_json
from .output import Lines, Live, print_report

if TYPE_CHECKING:
    from ...schema import AsyncMigrations, Limits, Report, Rollout
    from ...schema.report import Progress

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


_INTERRUPTED = (
    "What was not committed is undone. See `shardpool migrate status` for what is applied; the same command goes on."
)


def folder_option(command: F) -> F:
    """`--dir`: where the files are."""
    return click.option(
        "-d", "--dir", "folder", metavar="FOLDER", help="The files. [default: migrations, or db/migrations]"
    )(command)


def shard_option(command: F) -> F:
    """`--shard`: only these."""
    return click.option(
        "--shard",
        "shard_names",
        multiple=True,
        metavar="NAME",
        shell_complete=shards,
        help="Only on this shard; may be repeated.",
    )(command)


def rollout_options(command: F) -> F:
    """Who goes first, how many follow at once, and what happens after a failure."""
    for option in (
        click.option(
            "--on-error",
            type=click.Choice(["stop", "continue"]),
            default="stop",
            show_default=True,
            help="After a shard has failed: begin no other, or go on with the rest of its wave.",
        ),
        click.option(
            "--parallel", type=click.IntRange(1), default=4, show_default=True, metavar="N", help="Shards at a time."
        ),
        click.option(
            "--canary",
            metavar="SHARD",
            shell_complete=shards,
            help="The shard that goes first, alone; `none` for no such. [default: the first]",
        ),
    ):
        command = option(command)
    return command


def limit_options(command: F) -> F:
    """How long statements may wait and run."""
    times = (
        ("--lock-timeout", "2s", "For each lock; what does not get it is undone and tried again."),
        ("--statement-timeout", "0", "For each statement; 0 is no limit."),
        ("--concurrently-timeout", "1h", "For each statement that is run CONCURRENTLY."),
        ("--wait", "5min", "For another runner that is at work on the shard."),
    )
    for name, default, text in reversed(times):
        command = click.option(name, default=default, show_default=True, metavar="TIME", help=text)(command)
    return click.option(
        "--lock-retries",
        type=click.IntRange(0),
        default=10,
        show_default=True,
        metavar="N",
        help="How often a migration that did not get its locks is tried again.",
    )(command)


def rollout_of(options: dict[str, Any]) -> Rollout:
    from ...schema import Rollout

    canary = options["canary"]
    return Rollout("" if canary == "none" else canary, options["parallel"], options["on_error"])


def limits_of(options: dict[str, Any]) -> Limits:
    from ...schema import Limits
    from ...schema.files import seconds

    times = {
        key: seconds(options[key]) for key in ("lock_timeout", "statement_timeout", "concurrently_timeout", "wait")
    }
    return Limits(lock_retries=options["lock_retries"], **times)


def run(ctx: click.Context, topology_file: str | None, work: Callable[[AsyncMigrations], Awaitable[T]]) -> T:
    """Call `work` with the migrations of a router of its own."""
    import asyncio

    from ... import AsyncRouter

    path = topology_path(ctx, topology_file)

    async def inside() -> T:
        async with AsyncRouter(path, reload_interval=None) as router:
            return await work(router.migrations)

    return asyncio.run(inside())


def reported(
    ctx: click.Context,
    topology_file: str | None,
    as_json: bool,
    work: Callable[[AsyncMigrations, Progress], Awaitable[Report]],
) -> None:
    """Run it with progress on standard error, and its report on standard output, also of one that failed."""
    from ...demo.signals import termination_as_interrupt
    from ...schema import MigrationError

    error: MigrationError | None = None
    report: Report | None
    with termination_as_interrupt(), progress_of(as_json) as progress:
        try:
            report = run(ctx, topology_file, lambda migrations: work(migrations, progress))
        except MigrationError as failed:
            error, report = failed, failed.report
        except KeyboardInterrupt as interrupt:
            interrupt.add_note(_INTERRUPTED)
            raise
    if report is not None:
        if as_json:
            print_json(report.as_dict())
        else:
            print_report(report)
    if error is not None:
        print_error(error)
        ctx.exit(FAILURE)


@contextmanager
def progress_of(quiet: bool) -> Iterator[Progress]:
    """What happens, as it does: a line for each shard on a terminal, a line for each event elsewhere."""
    if quiet:
        yield lambda happened: None
    elif sys.stderr.isatty():
        with Live() as live:
            yield live
    else:
        yield Lines()
