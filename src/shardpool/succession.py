"""A topology that comes after another: what it keeps of that one, and whether keys or tables are elsewhere. Pure."""

from __future__ import annotations

from dataclasses import replace

from .errors import StaleTopology
from .topology import Keyspace, RunningMove, Topology, owner_ranges


def succeed(new: Topology, old: Topology) -> Topology:
    """The new topology with each owner entry's epoch carried over from the old where bucket and shard are unchanged.

    A move changes only its own entries, so an entry's epoch says since when the bucket is where it is.
    """
    keyspaces = {
        name: _carry_epochs(keyspace, old.keyspaces[name]) if name in old.keyspaces else keyspace
        for name, keyspace in new.keyspaces.items()
    }
    return replace(new, keyspaces=keyspaces)


def owned_by(topology: Topology, move: RunningMove, shard: str) -> Topology:
    """The topology in which that shard owns what the move moves."""
    if move.table is not None:
        return replace(topology, single_tables={**topology.single_tables, move.table: shard})
    assert move.keyspace is not None
    space = topology.keyspaces[move.keyspace]
    shards = [
        shard if space.move_by_bucket.get(bucket) is move else owner
        for bucket, owner in enumerate(space.shard_by_bucket)
    ]
    space = replace(space, owners=owner_ranges(shards, space.epoch_by_bucket))
    return replace(topology, keyspaces={**topology.keyspaces, space.name: space})


def placements_differ(one: Topology, other: Topology) -> bool:
    """Whether a key or a table is anywhere else, or on its way there, or the set of shards is another.

    Addresses and pools do not count.
    """

    def where(topology: Topology) -> object:
        keyspaces = {
            name: (keyspace.partitioning, keyspace.shard_by_bucket, dict(keyspace.tables))
            for name, keyspace in topology.keyspaces.items()
        }
        tables = topology.reference_tables, dict(topology.single_tables)
        return tuple(topology.shards), keyspaces, tables, dict(topology.moves)

    return where(one) != where(other)


def _carry_epochs(new: Keyspace, old: Keyspace) -> Keyspace:
    partitioning = old.partitioning if old.partitioning == new.partitioning else new.partitioning
    epochs: list[int] = list(new.epoch_by_bucket)
    same = partitioning is old.partitioning
    for bucket, shard in enumerate(new.shard_by_bucket):
        was = bucket if same else _bucket_before(old, new, bucket)
        if was is not None and old.shard_by_bucket[was] == shard:
            epochs[bucket] = old.epoch_by_bucket[was]
    return replace(new, partitioning=partitioning, owners=owner_ranges(new.shard_by_bucket, epochs))


def _bucket_before(old: Keyspace, new: Keyspace, bucket: int) -> int | None:
    """The old keyspace's bucket with exactly the keys of the new one's `bucket`, or None."""
    return new.partitioning.bucket_in(old.partitioning, bucket)


def check_successor(new: Topology, old: Topology) -> None:
    """Raise `StaleTopology` unless `new` may follow `old` in a running router."""
    if new.fleet != old.fleet:
        raise StaleTopology(
            f"the new topology is of fleet {new.fleet}, this router serves {old.fleet}",
            hint="Make another router for another fleet.",
        )
    if new.epoch < old.epoch:
        raise StaleTopology(
            f"the new topology has epoch {new.epoch}, this router is at {old.epoch}",
            hint="A router never goes back: give the change an epoch above the current one.",
        )
    if new.epoch == old.epoch and placements_differ(new, old):
        raise StaleTopology(
            f"the new topology places keys or tables otherwise, but has the same epoch {new.epoch}",
            hint="Raise the epoch with every change.",
        )
