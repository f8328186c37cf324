"""`migrate`: schema migrations of the whole fleet."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from .app import FAILURE, MISTAKE, print_error
from .migrate_output import print_plan, print_report, print_status
from .options import json_option, shards, topology_option, topology_path
from .output import print_json

if TYPE_CHECKING:
    from ..schema import AsyncMigrations, Limits, Report, Rollout
    from ..schema.report import Progress

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

PENDING = 3
"""The exit code of `status` when all is well, and migrations are not run yet."""


class _Group(click.Group):
    """Mistakes in the files or the call exit with 2, as elsewhere."""

    def invoke(self, ctx: click.Context) -> Any:
        from ..schema import BadMigration

        try:
            return super().invoke(ctx)
        except BadMigration as error:
            print_error(error)
            ctx.exit(MISTAKE)


@click.group(cls=_Group)
def migrate() -> None:
    """Change the schema of the whole fleet with plain SQL files.

    Files are in dbmate's format, in the folder `migrations` or, when only that is there, `db/migrations`. Each shard's
    own table shardpool.migrations says what is applied there.
    """


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


def _rollout(options: dict[str, Any]) -> Rollout:
    from ..schema import Rollout

    canary = options["canary"]
    return Rollout("" if canary == "none" else canary, options["parallel"], options["on_error"])


def _limits(options: dict[str, Any]) -> Limits:
    from ..schema import Limits
    from ..schema.files import seconds

    times = {
        key: seconds(options[key]) for key in ("lock_timeout", "statement_timeout", "concurrently_timeout", "wait")
    }
    return Limits(lock_retries=options["lock_retries"], **times)


def run(ctx: click.Context, topology_file: str | None, work: Callable[[AsyncMigrations], Awaitable[T]]) -> T:
    """Call `work` with the migrations of a router of its own."""
    from .. import AsyncRouter

    path = topology_path(ctx, topology_file)

    async def inside() -> T:
        async with AsyncRouter(path, reload_interval=None) as router:
            return await work(router.migrations)

    return asyncio.run(inside())


# -- files ---------------------------------------------------------------------------------------------------------


@migrate.command()
@click.argument("name")
@click.option("--no-transaction", is_flag=True, help="For statements such as CREATE INDEX CONCURRENTLY.")
@folder_option
def new(name: str, no_transaction: bool, folder: str | None) -> None:
    """Make an empty migration NAME, with the time as its version, and add it to migrations.sum."""
    from ..schema.files import read_folder
    from ..schema.migrations import default_folder
    from ..schema.sums import FILE, sum_text

    place = Path(folder) if folder else default_folder()
    place.mkdir(parents=True, exist_ok=True)
    before = read_folder(place)
    latest = int(before.migrations[-1].version) if before.migrations else 0
    version = max(int(datetime.now(UTC).strftime("%Y%m%d%H%M%S")), latest + 1)
    words = re.sub(r"\W+", "_", name.strip().lower()).strip("_")
    if not words:
        raise click.UsageError("the name has no letter")
    file = place / f"{version}_{words}.sql"
    option = " transaction:false" if no_transaction else ""
    file.write_text(f"-- migrate:up{option}\n\n-- migrate:down{option}\n", encoding="utf-8")
    # A folder of dbmate without a sum file stays one.
    if before.has_sum or not before.migrations:
        if before.sum_problems:
            click.echo(f"{FILE} was left as it is: {before.sum_problems[0]}", err=True)
        else:
            after = read_folder(place)
            (place / FILE).write_text(sum_text({m.file: m.checksum for m in after.migrations}), encoding="utf-8")
    click.echo(str(file))


# -- the fleet -----------------------------------------------------------------------------------------------------


@migrate.command()
@folder_option
@shard_option
@click.option("--all", "show_all", is_flag=True, help="Also the migrations that are on every shard.")
@click.option(
    "--timeout", type=float, default=10.0, show_default=True, metavar="SECONDS", help="For a shard to answer."
)
@topology_option
@json_option
@click.pass_context
def status(
    ctx: click.Context,
    folder: str | None,
    shard_names: tuple[str, ...],
    show_all: bool,
    timeout: float,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Show migrations by shards, what deviates first.

    Exits with 0 when every migration is on every shard, 3 when some are only not run yet, 1 when something has to be
    looked at: shards differ, a migration has failed or was changed, or a shard does not answer.
    """
    found = run(ctx, topology_file, lambda m: m.status(folder, shards=shard_names or None, timeout=timeout))
    if as_json:
        print_json(found.as_dict())
    else:
        print_status(found, show_all)
    ctx.exit(FAILURE if found.needs_looking_at else PENDING if found.pending else 0)


@migrate.command()
@folder_option
@shard_option
@click.option("--to", metavar="VERSION", help="Up to this one.")
@click.option("--allow-missing", is_flag=True, help="Also those that are earlier than the latest that is applied.")
@click.option("--expand-only", is_flag=True, help="Stop before the first one of the phase contract.")
@topology_option
@json_option
@click.pass_context
def plan(
    ctx: click.Context,
    folder: str | None,
    shard_names: tuple[str, ...],
    to: str | None,
    allow_missing: bool,
    expand_only: bool,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Show what `up` would run, where, and in which stages; and what would keep it from that.

    Exits with 1 when something would.
    """
    made = run(
        ctx,
        topology_file,
        lambda m: m.plan(
            folder, to=to, shards=shard_names or None, allow_missing=allow_missing, expand_only=expand_only
        ),
    )
    print_plan(made, as_json)
    ctx.exit(FAILURE if made.problems else 0)


@migrate.command()
@folder_option
@shard_option
@click.option("--to", metavar="VERSION", help="Up to this one.")
@click.option("--allow-missing", is_flag=True, help="Also those that are earlier than the latest that is applied.")
@click.option("--expand-only", is_flag=True, help="Stop before the first one of the phase contract.")
@rollout_options
@limit_options
@topology_option
@json_option
@click.pass_context
def up(
    ctx: click.Context,
    /,
    folder: str | None,
    shard_names: tuple[str, ...],
    to: str | None,
    allow_missing: bool,
    expand_only: bool,
    topology_file: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run what is pending: one shard first, then the others in waves.

    Run it again after any failure or interruption: it goes on where it ended.
    """
    rollout, limits = _rollout(options), _limits(options)
    _reported(
        ctx,
        topology_file,
        as_json,
        lambda m, progress: m.up(
            folder,
            to=to,
            shards=shard_names or None,
            allow_missing=allow_missing,
            expand_only=expand_only,
            rollout=rollout,
            limits=limits,
            progress=progress,
        ),
    )


@migrate.command()
@folder_option
@shard_option
@click.option("-n", "--count", type=click.IntRange(1), default=1, show_default=True, help="How many of the latest.")
@click.option("--to", metavar="VERSION", help="Back to this one, which stays.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@rollout_options
@limit_options
@topology_option
@json_option
@click.pass_context
def down(
    ctx: click.Context,
    /,
    folder: str | None,
    shard_names: tuple[str, ...],
    count: int,
    to: str | None,
    yes: bool,
    topology_file: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Take back the latest migrations, each on the shards that have it."""
    rollout, limits = _rollout(options), _limits(options)
    if not yes:
        made = run(ctx, topology_file, lambda m: m.plan_down(folder, count=count, to=to, shards=shard_names or None))
        print_plan(made, False)
        if not made.problems:
            click.confirm("What these have made is lost. Take them back?", abort=True, err=True)
    _reported(
        ctx,
        topology_file,
        as_json,
        lambda m, progress: m.down(
            folder,
            count=count,
            to=to,
            shards=shard_names or None,
            rollout=rollout,
            limits=limits,
            progress=progress,
        ),
    )


def _reported(
    ctx: click.Context,
    topology_file: str | None,
    as_json: bool,
    work: Callable[[AsyncMigrations, Progress], Awaitable[Report]],
) -> None:
    """Run it with progress on standard error, and its report on standard output, also of one that failed."""
    from ..schema import MigrationError

    error: MigrationError | None = None
    report: Report | None
    with progress_of(as_json) as progress:
        try:
            report = run(ctx, topology_file, lambda migrations: work(migrations, progress))
        except MigrationError as failed:
            error, report = failed, failed.report
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
    from .migrate_output import Lines, Live

    if quiet:
        yield lambda happened: None
    elif sys.stderr.isatty():
        with Live() as live:
            yield live
    else:
        yield Lines()
