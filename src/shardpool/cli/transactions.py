"""`transactions`: those over several shards that have not ended, and their end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from .app import FAILURE
from .groups import Group
from .options import json_option, timeout_option, topology_option, topology_path
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..control.transactions import InDoubt, Transactions


@click.group(cls=Group)
def transactions() -> None:
    """Show and end what transactions over several shards have left behind."""


@transactions.command("list")
@topology_option
@timeout_option("For all shards together.", 30.0)
@json_option
@click.pass_context
def list_(ctx: click.Context, topology_file: str | None, timeout: float, as_json: bool) -> None:
    """Show the transactions of which a part is still prepared on some shard, the oldest first.

    Those that are just being committed are among them. Exits with 1 when a shard could not be asked.
    """
    from .. import Router

    with Router(topology_path(ctx, topology_file)) as router:
        transactions = router.in_doubt(timeout=timeout)
    ctx.exit(_print(router.topology.fleet, transactions, as_json))


@transactions.command()
@click.argument("transaction_id", metavar="[ID]", required=False)
@topology_option
@timeout_option("For all shards together.", 30.0)
@json_option
@click.pass_context
def recover(
    ctx: click.Context, transaction_id: str | None, topology_file: str | None, timeout: float, as_json: bool
) -> None:
    """End what is left: commit what its home has committed, roll back what it never will.

    Every router does so by itself, within a minute or two. What still goes on is left alone. Never end a prepared
    transaction by hand: on the other shards it may have been decided otherwise. Exits with 1 when something is left
    that could not be ended.
    """
    from .. import Router

    with Router(topology_path(ctx, topology_file)) as router:
        transactions = router.recover(transaction_id, timeout=timeout)
    left = [
        one for one in transactions if not one.ended and one.state != "running" and transaction_id in (None, one.id)
    ]
    ctx.exit(_print(router.topology.fleet, transactions, as_json) or (FAILURE if left else 0))


def _print(fleet: str, transactions: Transactions, as_json: bool) -> int:
    from ..errors import summary

    unreached = {shard: summary(error) for shard, error in transactions.missing.items()}
    if as_json:
        print_json({"fleet": fleet, "transactions": [one.as_dict() for one in transactions], "unreached": unreached})
        return FAILURE if unreached else 0
    for shard, why in unreached.items():
        click.echo(f"shard {shard} is not asked: {why}", err=True)
    rows = [
        (one.id, one.home, ", ".join(one.parts), f"{one.age.total_seconds():.0f} s", _state(one))
        for one in transactions
    ]
    print_table(["transaction", "home", "prepared on", "age", "state"], rows)
    return FAILURE if unreached else 0


def _state(one: InDoubt) -> str:
    if one.ended:
        return f"{one.state}, ended"
    return f"{one.state or 'not known'}{f': {one.problem}' if one.problem else ''}"
