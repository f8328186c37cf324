"""`topology history`: what the shards have recorded."""

from __future__ import annotations

import click

from ..options import json_option, topology_option, topology_path
from ..output import print_json, print_table
from .running import first, run


@click.command("history")
@click.option("-n", "limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many.")
@topology_option
@json_option
@click.pass_context
def history(ctx: click.Context, /, limit: int, topology_file: str | None, as_json: bool) -> None:
    """Who changed the topology, when and what, as the shards have recorded it; the newest first."""
    from ...config import load_topology
    from ...operations import edit_history

    topology = load_topology(topology_path(ctx, topology_file))
    edits, unreached = run(edit_history(topology, limit))
    if as_json:
        changes = [change.as_dict() for change in edits]
        print_json({"fleet": topology.fleet, "changes": changes, "unreached": unreached})
        return
    for shard, why in unreached.items():
        click.echo(f"shard {shard} is not asked: {why}", err=True)
    rows = []
    for change in edits:
        outcome = change.outcome
        if change.unfinished and len(change.unfinished) < len(change.shards):
            outcome = f"unfinished on {', '.join(change.unfinished)}"
        when = change.begun_at.astimezone().isoformat(" ", "seconds")
        rows.append((change.epoch, when, change.author, outcome, first(change.change)))
    print_table(["epoch", "begun", "author", "outcome", "change"], rows)
