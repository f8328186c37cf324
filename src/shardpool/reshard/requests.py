"""What people ask for in their words → moves that can be made, one after another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ..edits import pin, split
from ..errors import MoveRefused
from ..keys import canonical_key
from ..partitioning import Hash, List
from ..partitioning.hash_file import runs
from ..partitioning.strategy import written_key
from ..patches import Insert, Operation, Put
from ..topology import Keyspace, RunningMove, Topology
from . import plan
from .publishing import publish

# Buckets of one move, where a person does not say: its rows are compared and handed over together.
AT_ONCE = 64

Path = str | os.PathLike[str]


async def own_bucket(path: Path, topology: Topology, keyspace: Keyspace, key: object, *, timeout: float) -> Topology:
    """The topology in which the key has a bucket to itself, on the shard that has it now: no row moves by that."""
    value = canonical_key(key, keyspace.key_types)
    if plan.bucket_of_key(keyspace, value) is not None:
        return topology
    owner = keyspace.shard_by_bucket[keyspace.partitioning.bucket(value)]

    def make(data: object, current: Topology) -> list[Operation]:
        space = current.keyspaces[keyspace.name]
        if plan.bucket_of_key(space, value) is not None:
            return []
        if isinstance(space.partitioning, Hash):
            return pin(data, current, space, value, owner)
        return _listed(data, space, value, owner)

    return await publish(path, None, f"a bucket for a key of {keyspace.name}", make, timeout=timeout)


def _listed(data: object, keyspace: Keyspace, value: object, owner: str) -> list[Operation]:
    assert isinstance(keyspace.partitioning, List) and isinstance(data, dict)
    there = data["keyspaces"][keyspace.name]["list"].get(owner)
    path = ("keyspaces", keyspace.name, "list", owner)
    written = written_key(value)  # type: ignore[arg-type]
    return [Insert(path, len(there), written)] if there else [Put(path, [written])]


async def divided(path: Path, topology: Topology, keyspace: Keyspace, key: object, *, timeout: float) -> Topology:
    """The topology in which a range ends at the key, both parts with who had it: no row moves by that."""
    value = canonical_key(key, keyspace.key_types)
    if value in getattr(keyspace.partitioning, "ends", ()):
        return topology

    def make(data: object, current: Topology) -> list[Operation]:
        return split(data, current, current.keyspaces[keyspace.name], value, None)

    return await publish(path, None, f"split {keyspace.name}", make, timeout=timeout)


def drain(topology: Topology, shard: str, targets: Sequence[str], at_once: int = AT_ONCE) -> list[RunningMove]:
    """The moves by which a shard gives away all that it owns, evenly, single tables as well; without numbers.

    Raises `UnknownShard`, and `MoveRefused` when there is nobody to give to, or nothing to give.
    """
    topology.shard(shard)
    for target in targets:
        topology.shard(target)
    others = [name for name in targets or topology.shards if name != shard]
    if not others:
        raise MoveRefused(f"nobody can take what shard {shard} owns", hint="Add a shard: shardpool topology shard add")
    wanted: list[RunningMove] = []
    for keyspace in topology.keyspaces.values():
        mine = [bucket for bucket, owner in enumerate(keyspace.shard_by_bucket) if owner == shard]
        for target, dealt in zip(others, _dealt(mine, len(others)), strict=True):
            wanted += moves_of(topology, keyspace, dealt, target, at_once)
    for number, table in enumerate(table for table, owner in topology.single_tables.items() if owner == shard):
        wanted.append(plan.move_of_table(topology, table, others[number % len(others)]))
    if not wanted:
        raise MoveRefused(f"shard {shard} owns nothing", hint=f"Remove it: shardpool topology shard remove {shard}")
    return wanted


def rebalance(
    topology: Topology, keyspace: Keyspace, weight: Sequence[float], at_once: int = AT_ONCE
) -> list[RunningMove]:
    """Moves after which each shard of the fleet has about as much of a keyspace; without numbers.

    `weight` is that of each bucket, by its number: 1, its rows or its bytes. A bucket moves once, and only where that
    evens out.
    """
    mine: dict[str, list[int]] = {name: [] for name in topology.shards}
    for bucket, owner in enumerate(keyspace.shard_by_bucket):
        mine[owner].append(bucket)
    load = loads(topology, keyspace, weight)
    fair = sum(load.values()) / len(load)
    given: dict[tuple[str, str], list[int]] = {}
    for source in sorted(load, key=lambda name: -load[name]):
        # The heaviest first: what is light fills up what is left.
        for bucket in sorted(mine[source], key=lambda at: -weight[at]):
            target = min(load, key=lambda name: load[name])
            gap = load[source] - load[target]
            # It evens out only when it is lighter than what is between the two; half of it is best.
            if (
                load[source] <= fair
                or weight[bucket] <= 0
                or weight[bucket] >= gap
                or (
                    load[source] - weight[bucket] < fair
                    and load[target] + weight[bucket] > fair
                    and weight[bucket] > gap / 2
                )
            ):
                continue
            given.setdefault((source, target), []).append(bucket)
            load[source] -= weight[bucket]
            load[target] += weight[bucket]
    return [
        move
        for (_, target), buckets in given.items()
        for move in moves_of(topology, keyspace, sorted(buckets), target, at_once)
    ]


def loads(
    topology: Topology, keyspace: Keyspace, weight: Sequence[float], moves: Iterable[RunningMove] = ()
) -> dict[str, float]:
    """What each shard of the fleet has of a keyspace after these moves."""
    shard_by_bucket = [*keyspace.shard_by_bucket]
    for move in moves:
        for bucket in move.bucket_numbers:
            shard_by_bucket[bucket] = move.target
    load = dict.fromkeys(topology.shards, 0.0)
    for bucket, shard in enumerate(shard_by_bucket):
        load[shard] += weight[bucket]
    return load


def moves_of(
    topology: Topology, keyspace: Keyspace, buckets: Iterable[int], target: str, at_once: int = AT_ONCE
) -> list[RunningMove]:
    """These buckets of one shard as moves of at most so many buckets, each of a kind that moves together."""
    made: list[RunningMove] = []
    for together in _kinds(keyspace, sorted(buckets)):
        for first in range(0, len(together), at_once):
            made.append(plan.move_of_buckets(topology, keyspace, together[first : first + at_once], target))
    return made


def _kinds(keyspace: Keyspace, buckets: Sequence[int]) -> list[list[int]]:
    match keyspace.partitioning:
        case Hash() as hashed:
            plain = [at for at in buckets if at < hashed.buckets]
            pinned = [at for at in buckets if at >= hashed.buckets]
            return [kind for kind in (plain, pinned) if kind]
        case List() as listed:
            keys = [at for at in buckets if at < len(listed.values)]
            rest = [at for at in buckets if at >= len(listed.values)]
            return [kind for kind in (keys, rest) if kind]
        case _:
            return [[*range(first, last + 1)] for first, last in runs(buckets)]


def _dealt(items: Sequence[int], shares: int) -> list[Sequence[int]]:
    ends = [len(items) * number // shares for number in range(shares + 1)]
    return [items[ends[number] : ends[number + 1]] for number in range(shares)]
