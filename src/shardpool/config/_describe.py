"""A topology as plain data for JSON, with its secrets masked."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ..partitioning import KeyValue, Partitioning, key_text
from ..topology import Endpoint, Keyspace, RunningMove, Shard, Topology

MASK = "***"


def describe(topology: Topology) -> dict[str, Any]:
    """The topology as dicts, lists, text and numbers; a password shows as `***`, and keys as PostgreSQL writes them."""
    return {
        "fleet": topology.fleet,
        "epoch": topology.epoch,
        "timeout": topology.timeout,
        "control": topology.control,
        "topology": topology.follows,
        "id_block": topology.id_block,
        "shards": {name: _shard(shard) for name, shard in topology.shards.items()},
        "keyspaces": {name: _keyspace(keyspace) for name, keyspace in topology.keyspaces.items()},
        "reference_tables": list(topology.reference_tables),
        "single_tables": dict(topology.single_tables),
        "moves": [_move(move) for move in topology.moves.values()],
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
        "lookup": {lookup.name: lookup.entries for lookup in keyspace.lookups},
    }


def _move(move: RunningMove) -> dict[str, Any]:
    ranges = [list(entry) for entry in move.buckets]
    what = {"table": move.table} if move.table is not None else {"keyspace": move.keyspace, "buckets": ranges}
    return {"number": move.number, "state": move.state, "from": move.source, "to": move.target, **what}


def _partitioning(partitioning: Partitioning) -> dict[str, Any]:
    variable = {
        name: [None if key is None else _key(key) for key in value] if isinstance(value, tuple) else value
        for name, value in partitioning.variable().items()
    }
    return {"strategy": partitioning.kind, **partitioning.fixed(), **variable}


def _key(key: KeyValue) -> Any:
    if isinstance(key, tuple):
        return [_key(part) for part in key]
    return key if isinstance(key, int) else key_text(key)
