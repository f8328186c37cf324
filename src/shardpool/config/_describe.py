"""A topology as plain data for JSON, with its secrets masked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, assert_never

from ..partitioning import Hash, KeyValue, List, Partitioning, Range, key_text
from ..topology import Endpoint, Keyspace, Shard, Topology

MASK = "***"


def describe(topology: Topology) -> dict[str, Any]:
    """The topology as dicts, lists, text and numbers; a password shows as `***`, and keys as PostgreSQL writes them."""
    return {
        "fleet": topology.fleet,
        "epoch": topology.epoch,
        "timeout": topology.timeout,
        "control": topology.control,
        "shards": {name: _shard(shard) for name, shard in topology.shards.items()},
        "keyspaces": {name: _keyspace(keyspace) for name, keyspace in topology.keyspaces.items()},
        "reference_tables": list(topology.reference_tables),
        "single_tables": dict(topology.single_tables),
    }


def _shard(shard: Shard) -> dict[str, Any]:
    return {"primary": _endpoint(shard.primary), "replicas": [_endpoint(replica) for replica in shard.replicas]}


def _endpoint(endpoint: Endpoint) -> dict[str, Any]:
    return {
        "name": endpoint.name,
        "role": endpoint.role,
        "params": dict(endpoint.params),
        "password": None if endpoint.password is None else MASK,
        "password_file": endpoint.password_file,
        "max_lag": endpoint.max_lag,
        "pooler": endpoint.pooler,
        "pool": asdict(endpoint.pool),
    }


def _keyspace(keyspace: Keyspace) -> dict[str, Any]:
    return {
        "key": list(keyspace.key_types),
        **_partitioning(keyspace.partitioning),
        "owners": [asdict(entry) for entry in keyspace.owners],
        "tables": {table: list(columns) for table, columns in keyspace.tables.items()},
    }


def _partitioning(partitioning: Partitioning) -> dict[str, Any]:
    match partitioning:
        case Hash(_, function, buckets, pinned):
            return {
                "strategy": "hash",
                "function": function,
                "buckets": buckets,
                "pinned": [_key(key) for key in pinned],
            }
        case Range(_, bounds):
            return {"strategy": "range", "bounds": [None if bound is None else _key(bound) for bound in bounds]}
        case List(_, values, default):
            return {"strategy": "list", "values": [_key(value) for value in values], "default": default}
        case _:
            assert_never(partitioning)


def _key(key: KeyValue) -> Any:
    if isinstance(key, tuple):
        return [_key(part) for part in key]
    return key if isinstance(key, int) else key_text(key)
