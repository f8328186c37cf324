"""`topology diff | plan | apply`: whole files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..options import json_option, timeout_option, topology_option, topology_path
from ..output import print_json
from .options import edit_options, how
from .running import edit, run
from .telling import print_changes, show

if TYPE_CHECKING:
    from ...config import FileSnapshot
    from ...topology import Topology


@click.command("diff")
@click.argument("old", type=click.Path(exists=True, dir_okay=False))
@click.argument("new", type=click.Path(exists=True, dir_okay=False))
@json_option
def diff(old: str, new: str, as_json: bool) -> None:
    """Say in words what changes from one topology file to another. Asks no server."""
    from ...changes import moves
    from ...config import load_topology
    from ...operations.edit_plan import first_plan

    before, after = load_topology(old), load_topology(new)
    plan = first_plan(before, after)
    if as_json:
        print_json({"fleet": after.fleet, **plan.as_dict(), "rows": None})
        return
    print_changes(plan)
    if moves(before, after):
        click.echo("Rows are counted on the shards: shardpool topology plan NEW")


@click.command("plan")
@click.argument("new", type=click.Path(exists=True, dir_okay=False))
@timeout_option("For all shards.", 60.0)
@topology_option
@json_option
@click.pass_context
def plan(ctx: click.Context, /, new: str, timeout: float, topology_file: str | None, as_json: bool) -> None:
    """Say what a new file would change, and how many buckets and rows would change owner, counted on the shards.

    Changes nothing. Exits with 1 when `apply` would refuse.
    """
    from ...config import load_topology
    from ...operations import plan_edit

    path = topology_path(ctx, topology_file)
    before, after = load_topology(path), load_topology(new)
    _check_epoch(after, new, before, path)
    show(run(plan_edit(before, after, timeout)), None, as_json)


@click.command("apply")
@click.argument("new", type=click.Path(exists=True, dir_okay=False))
@edit_options
@click.pass_context
def apply(ctx: click.Context, /, new: str, topology_file: str | None, **options: Any) -> None:
    """Put a new topology in force: on the shards, and in the place of the topology file.

    NEW is a copy of the topology file with changes; its epoch stays as it is, and is raised here. It is refused when
    the topology file has a later epoch by now, and when buckets that hold rows would change their owner.
    """
    from ...config import parse_topology, read_text

    path = topology_path(ctx, topology_file)
    if Path(path).exists() and Path(new).samefile(path):
        raise click.UsageError("NEW is the topology file itself: change a copy of it, and apply that")
    given = read_text(new)

    def text_of(current: FileSnapshot, topology: Topology, epoch: int) -> str | None:
        wanted = parse_topology(given, file=new, folder=Path(path).parent)
        if wanted.epoch < topology.epoch and _with_epoch(given, topology.epoch) == current.text:
            return None
        _check_epoch(wanted, new, topology, path)
        return None if given == current.text else _with_epoch(given, epoch)

    edit(path, f"apply {Path(new).name}", how(options), text_of)


def _check_epoch(wanted: Topology, new: str, topology: Topology, path: str) -> None:
    from ...errors import EditRefused

    if wanted.epoch != topology.epoch:
        raise EditRefused(
            f"{new} is of epoch {wanted.epoch}, and {path} of epoch {topology.epoch}",
            hint="Somebody else was first: make the changes again in a copy of the newer file."
            if wanted.epoch < topology.epoch
            else f"Leave the epoch as it is in {path}: it is raised when the change is applied.",
        )


def _with_epoch(text: str, epoch: int) -> str:
    from ...config import edit_text
    from ...patches import Put

    return edit_text(text, [Put(("epoch",), epoch)])
