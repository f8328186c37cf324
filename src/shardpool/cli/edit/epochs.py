"""`topology pull | status`: a file that is behind, and processes that are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..options import json_option, timeout_option, topology_option, topology_path
from ..output import print_json, print_table
from .running import run

if TYPE_CHECKING:
    from ...operations.barrier import Straggler


@click.command("pull")
@click.argument("file", required=False, type=click.Path(exists=True, dir_okay=False))
@click.option("--dry-run", is_flag=True, help="Show what would change in the file, and change nothing.")
@timeout_option("For all shards.", 30.0)
@topology_option
@json_option
@click.pass_context
def pull(
    ctx: click.Context, /, file: str | None, dry_run: bool, timeout: float, topology_file: str | None, as_json: bool
) -> None:
    """Bring a file that is behind up to what the shards have published, in place.

    Owners, moves and new shards are written into it; comments, pools, roles and passwords stay as they are.
    """
    from ...config import locked, read_snapshot, text_diff
    from ...operations.pull import pull

    path = file or topology_path(ctx, topology_file)
    if dry_run:
        before = read_snapshot(path)
        pulled = run(pull(before, timeout))
    else:
        with locked(path) as held:
            before = held.read()
            pulled = run(pull(before, timeout))
            if pulled.text is not None:
                held.replace(before, pulled.text)
    if as_json:
        print_json({"file": path, "epoch": pulled.epoch, "changed": pulled.text is not None, "dry_run": dry_run})
    elif pulled.text is None:
        click.echo(f"{path} is at epoch {pulled.epoch}: the shards have nothing newer")
    else:
        click.echo(text_diff(before.text, pulled.text, path))
        click.echo(f"{path} {'would be' if dry_run else 'is'} at epoch {pulled.epoch}")


@click.command("status")
@click.option("--role", "roles", multiple=True, metavar="ROLE", help="A role of routers that the file does not name.")
@timeout_option("For all shards.", 30.0)
@topology_option
@json_option
@click.pass_context
def status(
    ctx: click.Context, /, roles: tuple[str, ...], timeout: float, topology_file: str | None, as_json: bool
) -> None:
    """Who works by which epoch of the topology, by shard: host, process, application.

    Exits with 1 while a session works by an older epoch than its shard, or a shard tells nothing.
    """
    from ...config import load_topology
    from ...operations.epochs import epochs

    topology = load_topology(topology_path(ctx, topology_file))
    epochs_by_shard, unreached = run(epochs(topology, roles, timeout))
    newest = max([topology.epoch, *(shard.epoch for shard in epochs_by_shard)])
    behind = [one for shard in epochs_by_shard for one in shard.sessions if one.epoch is None or one.epoch < newest]
    if as_json:
        shards = [shard.as_dict() for shard in epochs_by_shard]
        print_json({"fleet": topology.fleet, "file_epoch": topology.epoch, "shards": shards, "unreached": unreached})
    else:
        _print(topology.epoch, newest, epochs_by_shard, behind, unreached)
    ctx.exit(1 if behind or unreached else 0)


def _print(file_epoch: int, newest: int, shards: Any, behind: list[Straggler], unreached: dict[str, str]) -> None:
    for shard, why in unreached.items():
        click.echo(f"shard {shard} is not asked: {why}", err=True)
    if file_epoch < newest:
        click.echo(f"the file is at epoch {file_epoch}, the fleet at epoch {newest}: shardpool topology pull\n")
    table = []
    for each in shards:
        counts = sorted(each.sessions_by_epoch.items(), key=lambda entry: -1 if entry[0] is None else entry[0])
        works = ", ".join(f"{count} by {'none' if epoch is None else epoch}" for epoch, count in counts)
        table.append((each.shard, each.epoch, each.published or "-", each.least, works or "-"))
    print_table(["shard", "epoch", "published", "lets in from", "sessions of routers"], table)
    if behind:
        click.echo()
        lines = [
            (
                one.shard,
                one.epoch or "none",
                one.host or "-",
                one.pid,
                one.application or "-",
                one.role,
                one.state,
            )
            for one in behind
        ]
        print_table(["behind on", "epoch", "host", "pid", "application", "role", "state"], lines)
    if not all(each.sees_all for each in shards):
        click.echo("\nhosts and states of other roles' sessions are shown to those who have pg_read_all_stats")
