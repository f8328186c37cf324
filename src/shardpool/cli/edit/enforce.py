"""`topology enforce on|off`: shards that refuse rows which are not theirs."""

from __future__ import annotations

import click

from ..options import json_option, topology_option, topology_path
from ..output import print_json
from .running import run


@click.command("enforce")
@click.argument("state", type=click.Choice(["on", "off"]))
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For all shards.",
)
@topology_option
@json_option
@click.pass_context
def enforce(
    ctx: click.Context, /, state: str, tables: tuple[str, ...], timeout: float, topology_file: str | None, as_json: bool
) -> None:
    """Have the shards refuse rows that belong to other shards, whoever writes them; of all sharded tables by default.

    It costs about 2 µs for each row that is inserted. Edits of the topology keep it; a table or a shard that comes
    later needs it anew, which `shardpool check` tells.
    """
    from ...config import load_topology
    from ...operations import enforce_owners

    topology = load_topology(topology_path(ctx, topology_file))
    done = run(enforce_owners(topology, state == "on", tables, timeout=timeout))
    if as_json:
        print_json({"fleet": topology.fleet, "enforce": state == "on", "tables_by_shard": done})
        return
    for shard, fenced in done.items():
        names = ", ".join(table.removeprefix("public.") for table in fenced)
        click.echo(f"{shard}: {state} for {names or 'no table: none is there'}")
