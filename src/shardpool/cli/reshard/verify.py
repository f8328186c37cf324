"""`verify`: both copies of a move, or the buckets of a keyspace."""

from __future__ import annotations

from dataclasses import asdict

import click

from ..app import FAILURE
from ..edit.running import run
from ..options import _keyspaces, json_option, topology_option, topology_path
from ..output import print_json, print_table


@click.command("verify")
@click.argument("keyspace", required=False, shell_complete=_keyspaces)
@click.option("--move", "number", type=click.IntRange(min=1), help="Compare both copies of what this move moves.")
@click.option("--buckets", is_flag=True, help="List each bucket with its checksum, not only sums for each shard.")
@topology_option
@json_option
@click.pass_context
def verify(
    ctx: click.Context,
    /,
    keyspace: str | None,
    number: int | None,
    buckets: bool,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Read all rows of a keyspace, and say which are on a shard that does not own them; or compare a move's copies.

    The checksum of a bucket does not depend on the order of its rows: it is the same before and after a move. Exits
    with 1 when copies differ, or rows lie where nobody looks for them.
    """
    from ...config import load_topology
    from ...reshard.counting import checksums

    path = topology_path(ctx, topology_file)
    if number is not None:
        _copies(ctx, path, number, as_json)
        return
    topology = load_topology(path)
    space = topology.keyspace(keyspace)
    sums_by_bucket = run(checksums(topology, space))
    moving = set(space.move_by_bucket)
    misplaced = [bucket for bucket in sums_by_bucket if not bucket.owned and bucket.bucket not in moving]
    if as_json:
        print_json(
            {"fleet": topology.fleet, "keyspace": space.name, "buckets": [asdict(bucket) for bucket in sums_by_bucket]}
        )
    elif buckets:
        columns = ["shard", "table", "bucket", "rows", "checksum", "owned"]
        print_table(columns, [[getattr(bucket, name) for name in columns] for bucket in sums_by_bucket])
    else:
        sums: dict[tuple[str, str], int] = {}
        for bucket in sums_by_bucket:
            sums[bucket.shard, bucket.table] = sums.get((bucket.shard, bucket.table), 0) + bucket.rows
        print_table(["shard", "table", "rows"], [[*place, count] for place, count in sums.items()])
    for running in space.moves if not as_json else ():
        keeps = sum(one.rows for one in sums_by_bucket if not one.owned and one.bucket in set(running.bucket_numbers))
        if keeps:
            click.echo(
                f"{keeps:,} of these rows are copies: {running} keeps them (shardpool move status {running.number})"
            )
    for bucket in misplaced if not as_json else ():
        click.echo(f"{bucket.rows} rows of {bucket.table} on {bucket.shard} are of bucket {bucket.bucket}, not its own")
    if misplaced:
        ctx.exit(FAILURE)


def _copies(ctx: click.Context, path: str, number: int, as_json: bool) -> None:
    from ...reshard import AsyncMoves

    done = run(AsyncMoves(path).verify(number))
    if as_json:
        print_json({"move": number, **asdict(done)})
    else:
        click.echo(f"{done.rows:,} rows compared")
        for difference in done.differences:
            click.echo(str(difference))
    if done.differences:
        ctx.exit(FAILURE)
