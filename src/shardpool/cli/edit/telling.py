"""What an edit, or a plan of one, has to say."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ..output import print_json

if TYPE_CHECKING:
    from ...operations import Plan
    from ...topology import Topology


def nothing(topology: Topology, as_json: bool) -> None:
    if as_json:
        print_json({"fleet": topology.fleet, "epoch": topology.epoch, "changes": []})
    else:
        click.echo(f"nothing to change: fleet {topology.fleet} is so already, at epoch {topology.epoch}")


def print_edit(topology: Topology, plan: Plan | None, resumed: bool, as_json: bool) -> None:
    if as_json:
        data = plan.as_dict() if plan is not None else {}
        print_json({"fleet": topology.fleet, **data, "epoch": topology.epoch, "resumed": resumed})
        return
    if plan is not None:
        print_changes(plan)
    click.echo(f"fleet {topology.fleet} is at epoch {topology.epoch}")


def show(plan: Plan, text_diff: str | None, as_json: bool) -> None:
    """A plan that is not applied; exits with 1 when it would be refused."""
    refused = plan.refusal()
    if as_json:
        print_json({"fleet": plan.new.fleet, **plan.as_dict(), "applicable": refused is None})
    else:
        if text_diff:
            click.echo(text_diff)
        print_changes(plan)
        if plan.moves and plan.shards_counted:
            click.echo(f"{_count(plan.buckets, 'bucket')} and {_count(plan.rows, 'row')} would change owner")
    if refused is not None:
        raise refused


def print_changes(plan: Plan) -> None:
    for line in plan.changes or ["no difference"]:
        click.echo(line)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
