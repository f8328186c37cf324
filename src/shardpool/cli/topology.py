"""`topology`: the file by itself, and the group of all that is done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from .app import FAILURE
from .edit import COMMANDS
from .fleet import _print_report, _versions
from .groups import Group
from .options import json_option, topology_option, topology_path
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..topology import Topology


@click.group(cls=Group)
def topology() -> None:
    """Check, show or change the topology."""


@topology.command("check")
@click.argument("file", required=False)
@click.option("--offline", is_flag=True, help="Look at the file only, and ask no server.")
@topology_option
@json_option
@click.pass_context
def check(ctx: click.Context, file: str | None, offline: bool, topology_file: str | None, as_json: bool) -> None:
    """Check the file, all problems at once; then, unless --offline, the fleet against it.

    Exits with 2 when the file is wrong, 1 when the fleet differs from it.
    """
    from ..config import load_topology

    path = file or topology_path(ctx, topology_file)
    loaded = load_topology(path)
    if offline:
        if as_json:
            print_json({"file": path, "ok": True, "fleet": loaded.fleet, "epoch": loaded.epoch})
        else:
            click.echo(f"{path}: {_in_short(loaded)}")
        return
    from .. import Router

    with Router(loaded) as router:
        report = router.check(timeout=60)
    if as_json:
        print_json({**report.as_dict(), "versions": _versions()})
    else:
        _print_report(report)
    ctx.exit(0 if report.ok else FAILURE)


def _in_short(loaded: Topology) -> str:
    tables = len(loaded.placements)
    return (
        f"fleet {loaded.fleet}, epoch {loaded.epoch}, {len(loaded.shards)} shards, "
        f"{len(loaded.keyspaces)} keyspaces, {tables} tables: no problems"
    )


@topology.command("show")
@topology_option
@json_option
@click.pass_context
def show(ctx: click.Context, topology_file: str | None, as_json: bool) -> None:
    """Show what the file says, with variables filled in and secrets masked."""
    from ..config import describe, load_topology

    loaded = load_topology(topology_path(ctx, topology_file))
    if as_json:
        print_json(describe(loaded))
        return
    click.echo(f"fleet {loaded.fleet}, epoch {loaded.epoch}\n")
    rows = [(s.name, e.name, e.address, e.pool.max_size) for s in loaded.shards.values() for e in s.endpoints]
    print_table(["shard", "endpoint", "address", "max connections"], rows)
    click.echo()
    print_table(["table", "placed by", "on"], _placements(loaded))


def _placements(loaded: Topology) -> list[tuple[Any, ...]]:
    from ..topology import Sharded, Single

    rows: list[tuple[Any, ...]] = []
    for table, placement in loaded.placements.items():
        name = table.removeprefix("public.")
        match placement:
            case Sharded(keyspace, columns):
                shards = loaded.keyspaces[keyspace].shard_names()
                rows.append((name, f"{keyspace}: {', '.join(columns)}", ", ".join(shards)))
            case Single(shard):
                rows.append((name, "single", shard))
            case _:
                rows.append((name, "reference", "every shard"))
    return rows


@topology.command("schema")
def schema() -> None:
    """Print the JSON Schema of the file, for editors."""
    import json

    from ..config import topology_schema

    click.echo(json.dumps(topology_schema(), indent=2, ensure_ascii=False))


for _command in COMMANDS:
    topology.add_command(_command)
