"""`rebalance`, `drain`, `split`: moves of more than one kind of thing, one after another or several at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..options import _keyspaces, shards, topology_path
from ..route import parse_key
from .move import make
from .options import dry_run_option, finish_option, many_options, move_options, options_of

if TYPE_CHECKING:
    from ...reshard.counting import By
    from ...topology import RunningMove, Topology


@click.command("rebalance")
@click.argument("keyspace", required=False, shell_complete=_keyspaces)
@click.option(
    "--by",
    type=click.Choice(["rows", "bytes", "buckets"]),
    default="rows",
    show_default=True,
    help="What each shard is to have about as much of; rows, and the bytes that they take, are counted on the shards.",
)
@many_options
@dry_run_option
@move_options
@click.pass_context
def rebalance(
    ctx: click.Context,
    /,
    keyspace: str | None,
    by: By,
    at_once: int,
    parallel: int,
    topology_file: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Spread the rows of a keyspace over all shards, those as well that were added; each move is finished."""

    async def moves(topology: Topology) -> list[RunningMove]:
        from ...reshard import requests
        from ...reshard.counting import weights

        space = topology.keyspace(keyspace)
        weight = await weights(topology, space, by)
        planned = requests.rebalance(topology, space, weight, at_once)
        now, then = requests.loads(topology, space, weight), requests.loads(topology, space, weight, planned)
        loads.update({shard: (round(now[shard]), round(then[shard])) for shard in now})
        return planned

    loads: dict[str, tuple[int, int]] = {}
    made = options_of({**options, "finish": True})
    make(topology_path(ctx, topology_file), moves, made, dry_run, as_json, parallel=parallel, loads=(by, loads))


@click.command("drain")
@click.argument("shard", shell_complete=shards)
@click.option(
    "--to",
    "targets",
    multiple=True,
    metavar="SHARD",
    help="Who gets what it has; may be repeated. [default: all others]",
    shell_complete=shards,
)
@many_options
@dry_run_option
@move_options
@click.pass_context
def drain(
    ctx: click.Context,
    /,
    shard: str,
    targets: tuple[str, ...],
    at_once: int,
    parallel: int,
    topology_file: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Move all that a shard owns to others, with its rows; each move is finished. Then it can be removed."""

    async def moves(topology: Topology) -> list[RunningMove]:
        from ...reshard import requests

        return requests.drain(topology, shard, targets, at_once)

    made = options_of({**options, "finish": True})
    make(topology_path(ctx, topology_file), moves, made, dry_run, as_json, parallel=parallel)


@click.command("split")
@click.argument("keyspace", required=False, shell_complete=_keyspaces)
@click.option("--at", "key", required=True, metavar="KEY", help="The first key of the upper part.")
@click.option("--to", "target", required=True, metavar="SHARD", help="Who gets the upper part.", shell_complete=shards)
@finish_option
@dry_run_option
@move_options
@click.pass_context
def split(
    ctx: click.Context,
    /,
    keyspace: str | None,
    key: str,
    target: str,
    topology_file: str | None,
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Divide a range at a key, and move the upper part of it with its rows."""
    path = topology_path(ctx, topology_file)

    async def moves(topology: Topology) -> list[RunningMove]:
        from ... import edits
        from ...partitioning import Range
        from ...reshard import AsyncMoves, move_of_buckets

        space = edits.find_keyspace(topology, keyspace, Range)
        value = parse_key(key, len(space.key_types))
        if dry_run:
            return [move_of_buckets(topology, space, [space.partitioning.bucket(value)], target)]
        return [await AsyncMoves(path).plan_split(space.name, at=value, to=target)]

    make(path, moves, options_of(options), dry_run, as_json)
