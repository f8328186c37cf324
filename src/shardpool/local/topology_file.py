"""The text of a local fleet's topology file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .server import Server

BUCKETS = 4096

# Without tables yet: name the own tables with their key columns here.
DEFAULT_KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {owners}
    tables: {}
"""


def topology_text(
    fleet: str,
    servers: Sequence[Server],
    password_file: Path,
    keyspaces: str,
    epoch: int,
    control: str,
    database: str | None,
) -> str:
    """The whole file; `{owners}` in the keyspaces stands for 4096 buckets dealt out evenly."""
    primaries = [server for server in servers if server.role == "primary"]
    lines = [
        "# Servers of a local fleet, made by `shardpool local up`.",
        "version: 1",
        f"fleet: {fleet}",
        f"epoch: {epoch}",
        f"control: {control}",
        "defaults:",
        f"  connect: {{dbname: {database or servers[0].database}, user: app, password_file: '{password_file}'}}",
        "shards:",
    ]
    for primary in primaries:
        lines += [f"  {primary.shard}:", f"    primary: {{host: 127.0.0.1, port: {primary.port}}}"]
        replicas = [s for s in servers if s.role == "replica" and s.shard == primary.shard]
        if replicas:
            lines.append("    replicas:")
            lines += [f"      - {{host: 127.0.0.1, port: {replica.port}, max_lag: 5s}}" for replica in replicas]
    return "\n".join(lines) + "\n" + keyspaces.replace("{owners}", owners([p.shard for p in primaries]))


def owners(shards: Sequence[str]) -> str:
    """The buckets of a keyspace in as many even ranges as there are shards, as YAML."""
    ends = [BUCKETS * number // len(shards) for number in range(len(shards) + 1)]
    ranges = [f"{shard}: {ends[number]}-{ends[number + 1] - 1}" for number, shard in enumerate(shards)]
    return "{" + ", ".join(ranges) + "}"
