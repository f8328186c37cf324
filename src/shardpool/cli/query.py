"""`query`: SQL wherever its rows are, or on named shards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .answers import Printer, execute
from .options import (
    csv_option,
    fanout_option,
    json_option,
    keyspace_options,
    shards,
    statement,
    statement_options,
    timeout_option,
    topology_option,
    topology_path,
)
from .route import parse_key

if TYPE_CHECKING:
    from .. import Router
    from ..query.choices import Fanout


@click.command()
@statement_options
@click.option("--key", metavar="KEY", help="Run on the shard of this partition key.")
@click.option("--shard", metavar="NAME", help="Run on this shard.", shell_complete=shards)
@click.option("--all-shards", is_flag=True, help="Run on every shard; a first column tells the rows apart.")
@click.option("--plan", is_flag=True, help="Print the plan before the rows, on standard error.")
@fanout_option
@click.option("--readonly", is_flag=True, help="Read from a replica within its lag limit, where there is one.")
@timeout_option("For the call. [default: the topology's]")
@csv_option
@keyspace_options
@topology_option
@json_option
@click.pass_context
def query(
    ctx: click.Context,
    sql: str | None,
    file: str | None,
    key: str | None,
    shard: str | None,
    all_shards: bool,
    params: tuple[str, ...],
    plan: bool,
    fanout: Fanout | None,
    readonly: bool,
    timeout: float | None,
    as_csv: bool,
    keyspace: str | None,
    table: str | None,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Run a statement in autocommit and print its rows. SQL may be - for standard input.

    Without --key, --shard or --all-shards it is answered as one PostgreSQL with all the rows would answer it, by
    however many shards that takes, or refused. `shardpool explain` shows how.
    """
    from .. import Router

    targets = sum([key is not None, shard is not None, all_shards])
    if targets > 1:
        raise click.UsageError("give one of --key, --shard and --all-shards")
    if targets and (plan or fanout):
        raise click.UsageError("--plan and --fanout are for a statement without --key, --shard and --all-shards")
    text, values = statement(sql, file), list(params) or None
    printer = Printer(as_json, as_csv)
    options: dict[str, Any] = {"timeout": timeout, "readonly": readonly}
    with Router(topology_path(ctx, topology_file)) as router:
        if all_shards:
            printer.results(router.scatter(text, values, **options))
        elif shard is not None:
            printer.result(router.shard(shard).execute(text, values, **options))
        elif key is not None:
            route = router.for_key(_key(router, key, keyspace, table), keyspace=keyspace, table=table)
            printer.result(route.execute(text, values, **options))
        else:
            printer.result(execute(router, text, values, plan, fanout=fanout, **options))


def _key(router: Router, text: str, keyspace: str | None, table: str | None) -> Any:
    return parse_key(text, len(router.topology.keyspace(keyspace, table=table).key_types))
