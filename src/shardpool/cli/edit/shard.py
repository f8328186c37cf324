"""`topology shard add | remove | drain`."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from typing import Any

import click

from ..app import FAILURE
from ..groups import Group
from ..options import shards, topology_path
from .options import edit_options
from .running import in_place, run


@click.group("shard", cls=Group)
def shard_group() -> None:
    """Add, empty or remove a shard."""


@shard_group.command("add")
@click.argument("name")
@click.argument("address")
@click.option("--replica", "replicas", multiple=True, metavar="ADDRESS", help="A replica; may be repeated.")
@edit_options
@click.pass_context
def add(
    ctx: click.Context, /, name: str, address: str, replicas: tuple[str, ...], topology_file: str | None, **options: Any
) -> None:
    """Add a shard that owns nothing yet, and install the shardpool schema on it.

    ADDRESS is host, host:port or a postgresql:// URL; the rest comes from the file's defaults.
    """
    from ...edits import add_shard

    value: dict[str, Any] = {"primary": _endpoint(address)}
    if replicas:
        value["replicas"] = [_endpoint(replica) for replica in replicas]
    change = shlex.join(["shard", "add", name, _without_password(address), *map(_without_password, replicas)])
    in_place(ctx, topology_file, change, options, lambda _, topology: add_shard(topology, name, value))


def _without_password(address: str) -> str:
    from ...config import masked_url

    return masked_url(address).partition("?")[0]


def _endpoint(address: str) -> Any:
    if "://" in address:
        return address
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and not address.startswith("/"):
        return {"host": host.strip("[]"), "port": int(port)}
    return {"host": address.strip("[]")}


@shard_group.command("remove")
@click.argument("name", shell_complete=shards)
@edit_options
@click.pass_context
def remove(ctx: click.Context, /, name: str, topology_file: str | None, **options: Any) -> None:
    """Remove a shard that owns nothing. Its server is not touched, and need not be there."""
    from ...edits import remove_shard

    change = shlex.join(["shard", "remove", name])
    in_place(ctx, topology_file, change, options, lambda data, topology: remove_shard(data, topology, name))


@shard_group.command("drain")
@click.argument("name", shell_complete=shards)
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="SHARD",
    help="Who gets them; may be repeated. [default: all others]",
    shell_complete=shards,
)
@click.option("--empty", is_flag=True, help="Give away the buckets that hold no rows, and leave the others.")
@edit_options
@click.pass_context
def drain(
    ctx: click.Context, /, name: str, targets: tuple[str, ...], empty: bool, topology_file: str | None, **options: Any
) -> None:
    """Give all buckets of a shard to others, evenly. Refused, with the numbers, while they hold rows.

    With --empty those that hold none are given away now; exits with 1 while others are left.
    """
    from ...config import load_topology
    from ...edits import drain_shard
    from ...errors import EditRefused
    from ...operations import occupied_buckets

    kept: Mapping[str, Collection[int]] = {}
    if empty:
        topology = load_topology(topology_path(ctx, topology_file))
        occupied = run(occupied_buckets(topology, name, options["timeout"]))
        kept = occupied.buckets

    words = [*(["--empty"] if empty else []), *(word for target in targets for word in ("--to", target))]
    change = shlex.join(["shard", "drain", name, *words])
    make = lambda data, topology: drain_shard(data, topology, name, targets, kept)  # noqa: E731
    if empty and occupied.rows:
        click.echo(f"shard {name} keeps what holds rows: {occupied}", err=True)
    try:
        in_place(ctx, topology_file, change, options, make)
    except EditRefused as error:
        if not empty and "would change their owner" in error.message:
            error.add_note("HINT:  With --empty the buckets that hold no rows are given away now.")
        raise
    if empty and occupied.rows:
        ctx.exit(FAILURE)
