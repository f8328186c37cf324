"""A topology as the shards publish it: what the file says of the map, and of where shards are. It holds no secret.

Text and not `jsonb`: the order of pins and of listed keys is part of the map.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..partitioning.hash_file import written_range
from ..topology import Endpoint, Keyspace, RunningMove, Shard, Topology
from ._load import parse_data

# Where an endpoint is. All other keywords, and the password, are its reader's own.
WHERE = ("dbname", "host", "hostaddr", "port", "target_session_attrs")


def document(topology: Topology) -> str:
    """The topology as JSON, of the shape of the file; `read_document` reads it."""
    return json.dumps(document_data(topology), ensure_ascii=False, separators=(",", ":"))


def document_data(topology: Topology) -> dict[str, Any]:
    """The topology as plain data of the shape of the file, without what only concerns its reader."""
    moves = [_move(topology, move) for move in topology.moves.values()]
    return {
        "version": 1,
        "fleet": topology.fleet,
        "epoch": topology.epoch,
        "shards": {name: shard_data(shard) for name, shard in topology.shards.items()},
        "keyspaces": {name: keyspace_data(keyspace) for name, keyspace in topology.keyspaces.items()},
        "reference_tables": [*topology.reference_tables],
        "single_tables": dict(topology.single_tables),
        **({"moves": moves} if moves else {}),
    }


def read_document(text: str) -> Topology:
    """The topology that `document` wrote. Raises `ConfigError` for what is none."""
    return parse_data(json.loads(text), file="what the shards have published")


def shard_data(shard: Shard) -> dict[str, Any]:
    """Where a shard is, as the file has it."""
    if shard.finds_primary:
        hosts = [{key: end.param(key) for key in ("host", "port") if end.param(key)} for end in shard.endpoints]
        dbname = shard.primary.param("dbname")
        beside = {"pooler": shard.primary.pooler, **({"connect": {"dbname": dbname}} if dbname else {})}
        return {"hosts": hosts, **beside}
    replicas = [_endpoint(replica) for replica in shard.replicas]
    return {"primary": _endpoint(shard.primary), **({"replicas": replicas} if replicas else {})}


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    fields: dict[str, Any] = {key: endpoint.param(key) for key in WHERE if endpoint.param(key)}
    if endpoint.pooler != "none":
        fields["pooler"] = endpoint.pooler
    if endpoint.max_lag is not None:
        fields["max_lag"] = f"{endpoint.max_lag:.6f}s"
    return fields


def keyspace_data(keyspace: Keyspace) -> dict[str, Any]:
    """A keyspace as the file has it."""
    types = keyspace.key_types
    entries = {lookup.entries for lookup in keyspace.lookups}
    lookup = {f"{one.table}.{one.column}": "unique" for one in keyspace.lookups}
    return {
        "key": types[0] if len(types) == 1 else [*types],
        **keyspace.partitioning.written(keyspace.shard_by_bucket),
        "tables": {
            table: columns[0] if len(columns) == 1 else [*columns]
            for table, columns in keyspace.tables.items()
            if table not in entries
        },
        **({"lookup": lookup} if lookup else {}),
    }


def _move(topology: Topology, move: RunningMove) -> Mapping[str, Any]:
    fields: dict[str, Any] = {"number": move.number}
    if move.keyspace is None:
        fields["table"] = move.table
    else:
        space = topology.keyspaces[move.keyspace]
        fields |= {"keyspace": move.keyspace}
        written = space.partitioning.written_move([*move.bucket_numbers], move.buckets)
        fields |= written or {"buckets": [written_range(*entry) for entry in move.buckets]}
    return {**fields, "from": move.source, "to": move.target, "state": move.state}
