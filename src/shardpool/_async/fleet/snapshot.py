"""The fleet at one moment: its topology, and the pools of its shards. Swapped whole."""

from __future__ import annotations

from time import monotonic

from ..._runtime.watchdog import AsyncWatchdog
from ...topology import RunningMove, Topology
from .options import AsyncConnectOptions
from .pools import AsyncEndpointPool
from .shards import AsyncShardPools


class AsyncSnapshot:
    """Immutable once it is made. `declared` is the topology as it was given, without what shards have said since of
    the owners of rows that are handed over."""

    def __init__(
        self, topology: Topology, shards: dict[str, AsyncShardPools], declared: Topology | None = None
    ) -> None:
        self.topology = topology
        self.declared = declared or topology
        self.shards = shards
        self.made_at = monotonic()
        # The moves that hand rows over just now, by the shard that is believed to own them.
        self.guarded: dict[str, list[RunningMove]] = {}
        for move in topology.moves.values():
            if move.state == "guarded":
                self.guarded.setdefault(_owner(topology, move), []).append(move)

    def owner(self, keyspace: str, bucket: int) -> AsyncShardPools:
        return self.shards[self.topology.keyspaces[keyspace].shard_by_bucket[bucket]]


def _owner(topology: Topology, move: RunningMove) -> str:
    if move.table is not None:
        return topology.single_tables[move.table]
    assert move.keyspace is not None
    return topology.keyspaces[move.keyspace].shard_by_bucket[move.buckets[0][0]]


def open_shards(
    topology: Topology,
    options: AsyncConnectOptions,
    watchdog: AsyncWatchdog,
    old: dict[str, AsyncShardPools] | None = None,
) -> dict[str, AsyncShardPools]:
    """The pools of a topology: those of `old` go on where nothing but the size of a pool has changed."""
    return {
        name: AsyncShardPools(topology, shard, options, watchdog, (old or {}).get(name))
        for name, shard in topology.shards.items()
    }


def retired_pools(old: dict[str, AsyncShardPools], new: dict[str, AsyncShardPools]) -> list[AsyncEndpointPool]:
    """The endpoint pools of `old` that are not among those of `new`."""
    kept = {id(endpoint) for shard in new.values() for endpoint in shard.endpoints}
    return [endpoint for shard in old.values() for endpoint in shard.endpoints if id(endpoint) not in kept]
