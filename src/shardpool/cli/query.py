"""`query`: SQL on one shard, or on all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .options import json_option, keyspace_options, shards, topology_option, topology_path
from .output import print_csv, print_json, print_table
from .route import parse_key

if TYPE_CHECKING:
    from .. import Router
    from ..result import Result


@click.command()
@click.argument("sql")
@click.option("--key", metavar="KEY", help="Run on the shard of this partition key.")
@click.option("--shard", metavar="NAME", help="Run on this shard.", shell_complete=shards)
@click.option("--all-shards", is_flag=True, help="Run on every shard; a first column tells the rows apart.")
@click.option("-p", "--param", "params", multiple=True, metavar="VALUE", help="A parameter for %s; may be repeated.")
@click.option("--readonly", is_flag=True, help="Read from a replica within its lag limit, where there is one.")
@click.option("--timeout", type=float, metavar="SECONDS", help="Default: the topology's.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
@keyspace_options
@topology_option
@json_option
@click.pass_context
def query(
    ctx: click.Context,
    sql: str,
    key: str | None,
    shard: str | None,
    all_shards: bool,
    params: tuple[str, ...],
    readonly: bool,
    timeout: float | None,
    as_csv: bool,
    keyspace: str | None,
    table: str | None,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Run a statement in autocommit and print its rows.

    Without --key, --shard or --all-shards it must read only reference tables, or the single tables of one shard.
    """
    from .. import Router

    if sum([key is not None, shard is not None, all_shards]) > 1:
        raise click.UsageError("give one of --key, --shard and --all-shards")
    values = list(params) or None
    with Router(topology_path(ctx, topology_file)) as router:
        if all_shards:
            _print_all(router.scatter(sql, values, timeout=timeout, readonly=readonly), as_json, as_csv)
            return
        if shard is not None:
            result = router.shard(shard).execute(sql, values, timeout=timeout, readonly=readonly)
        elif key is not None:
            parsed = _key(router, key, keyspace, table)
            route = router.for_key(parsed, keyspace=keyspace, table=table)
            result = route.execute(sql, values, timeout=timeout, readonly=readonly)
        else:
            result = router.execute(sql, values, timeout=timeout, readonly=readonly)
        _print_one(result, as_json, as_csv)


def _key(router: Router, text: str, keyspace: str | None, table: str | None) -> Any:
    return parse_key(text, len(router.topology.keyspace(keyspace, table=table).key_types))


def _print_one(result: Result, as_json: bool, as_csv: bool) -> None:
    if as_json:
        print_json({"shards": list(result.shards), **_as_dict(result)})
    elif result.description is None:
        click.echo(result.statusmessage)
    elif as_csv:
        print_csv(result.columns, result.rows)
    else:
        print_table(result.columns, result.rows, count=True)


def _print_all(results: dict[str, Result], as_json: bool, as_csv: bool) -> None:
    if as_json:
        print_json({"results": {shard: _as_dict(result) for shard, result in results.items()}})
        return
    first = next(iter(results.values()))
    if first.description is None:
        print_table(["shard", "status"], [(shard, result.statusmessage) for shard, result in results.items()])
        return
    columns = ["shard", *first.columns]
    rows = [(shard, *row) for shard, result in results.items() for row in result.rows]
    if as_csv:
        print_csv(columns, rows)
    else:
        print_table(columns, rows, count=True)


def _as_dict(result: Result) -> dict[str, Any]:
    return {
        "status": result.statusmessage,
        "rowcount": result.rowcount,
        "columns": list(result.columns),
        "rows": [list(row) for row in result.rows],
    }
