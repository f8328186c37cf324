"""`route`: where keys live."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .options import json_option, keyspace_options, topology_option, topology_path
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..topology import Keyspace, Topology


@click.command()
@click.argument("keys", nargs=-1, required=True, metavar="KEY...")
@keyspace_options
@topology_option
@json_option
@click.pass_context
def route(
    ctx: click.Context,
    keys: tuple[str, ...],
    keyspace: str | None,
    table: str | None,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Show the bucket and the shard of keys. Reads the topology file only: no server is asked.

    A key is written as PostgreSQL would read it; one of several parts as a JSON array: '["de", 42]'. Write -- before a
    negative number.
    """
    from ..config import load_topology

    topology = load_topology(topology_path(ctx, topology_file))
    space = topology.keyspace(keyspace, table=table)
    routes = [_route(topology, space, parse_key(key, len(space.key_types))) for key in keys]
    if as_json:
        print_json({"fleet": topology.fleet, "routes": routes})
    else:
        columns = ["key", "type", "encoded", "bucket", "shard", "address", "epoch"]
        print_table(columns, [[route[column] for column in columns] for route in routes])


def parse_key(text: str, parts: int) -> Any:
    """The key as it stands on a command line: text, or a JSON array for one of several parts."""
    if parts == 1:
        return text
    try:
        key = json.loads(text)
    except ValueError:
        key = None
    if not isinstance(key, list):
        raise click.UsageError(f"the key has {parts} parts: write it as a JSON array, not {text!r}")
    return tuple(key)


def _route(topology: Topology, keyspace: Keyspace, key: Any) -> dict[str, Any]:
    from ..keys import canonical_key, encode_canonical, key_parts, key_text

    canonical = canonical_key(key, keyspace.key_types)
    bucket = keyspace.partitioning.bucket(canonical)
    shard = keyspace.shard_by_bucket[bucket]
    return {
        "key": ", ".join(key_text(part) for part in key_parts(canonical)),
        "keyspace": keyspace.name,
        "type": ", ".join(keyspace.key_types),
        "encoded": encode_canonical(canonical, keyspace.key_types).hex(),
        "bucket": bucket,
        "shard": shard,
        "address": topology.shards[shard].primary.address,
        "epoch": keyspace.epoch_by_bucket[bucket],
    }
