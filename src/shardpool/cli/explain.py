"""`explain`: how a statement would be run."""

from __future__ import annotations

import click

from .options import json_option, statement, statement_options, timeout_option, topology_option, topology_path
from .output import print_json


@click.command()
@statement_options
@timeout_option("For the call. [default: the topology's]")
@topology_option
@json_option
@click.pass_context
def explain(
    ctx: click.Context,
    sql: str | None,
    file: str | None,
    params: tuple[str, ...],
    timeout: float | None,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Show how `query` would run a statement: its strategy, the shards it asks, and the SQL that each is sent.

    Runs nothing; a shard is asked for its catalog. Exits with 2, and says why, when the statement would be refused. SQL
    may be - for standard input.
    """
    from .. import Router

    text = statement(sql, file)
    with Router(topology_path(ctx, topology_file)) as router:
        plan = router.explain(text, list(params) or None, timeout=timeout)
        if as_json:
            print_json(plan.as_dict())
        else:
            click.echo(plan.describe())
