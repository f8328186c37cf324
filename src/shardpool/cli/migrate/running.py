"""`status`, `plan`, `up`, `down`, `exec`: what is where, and what is run."""

from __future__ import annotations

from typing import Any

import click

from ..app import FAILURE
from ..options import json_option, timeout_option, topology_option
from ..output import print_json
from .options import folder_option, limit_options, limits_of, reported, rollout_of, rollout_options, run, shard_option
from .output import print_plan, print_status

PENDING = 3
"""The exit code of `status` when all is well, and migrations are not run yet."""


@click.command()
@folder_option
@shard_option
@click.option("--all", "show_all", is_flag=True, help="Also the migrations that are on every shard.")
@timeout_option("For a shard to answer.", 10.0)
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
    answer = run(ctx, topology_file, lambda m: m.status(folder, shards=shard_names or None, timeout=timeout))
    if as_json:
        print_json(answer.as_dict())
    else:
        print_status(answer, show_all)
    ctx.exit(FAILURE if answer.needs_looking_at else PENDING if answer.pending else 0)


@click.command()
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


@click.command()
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
    rollout, limits = rollout_of(options), limits_of(options)
    reported(
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


@click.command()
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
    rollout, limits = rollout_of(options), limits_of(options)
    if not yes:
        made = run(ctx, topology_file, lambda m: m.plan_down(folder, count=count, to=to, shards=shard_names or None))
        print_plan(made, False)
        if not made.problems:
            click.confirm("What these have made is lost. Take them back?", abort=True, err=True)
    reported(
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


@click.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@shard_option
@rollout_options
@limit_options
@topology_option
@json_option
@click.pass_context
def execute(
    ctx: click.Context,
    /,
    command: tuple[str, ...],
    shard_names: tuple[str, ...],
    topology_file: str | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run a program once for each shard: shardpool migrate exec -- dbmate up

    Its environment has DATABASE_URL, PGHOST and the like, and SHARDPOOL_SHARD. The shard's lock is held meanwhile; the
    stages and the report are those of `up`.
    """
    rollout, limits = rollout_of(options), limits_of(options)
    reported(
        ctx,
        topology_file,
        as_json,
        lambda m, progress: m.execute(
            command, shards=shard_names or None, rollout=rollout, limits=limits, progress=progress
        ),
    )
