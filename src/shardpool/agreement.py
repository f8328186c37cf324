"""Whether a shard and a topology send every key to the same shard, by what the shard says on a new connection. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .owner_map import divides_alike, map_digest
from .topology import Keyspace, Topology


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A keyspace of which a shard has another map than the topology; `there` and `here` are their digests."""

    keyspace: str
    there: str
    here: str

    def __str__(self) -> str:
        what = "other owners" if divides_alike(self.there, self.here) else "other pins, bounds or listed keys"
        return f"keyspace {self.keyspace} has {what}: map {self.there} there, {self.here} here"


def other_maps(maps: Mapping[str, Sequence[Any]], epoch: int, topology: Topology) -> Iterator[Disagreement]:
    """The keyspaces of a topology that a shard has otherwise; a keyspace that only one side knows is no fault.

    `maps` and `epoch` are what it says: see `control.IDENTITY_QUERY`. Of a shard that says its owners alone, pins,
    bounds and listed keys are not known, nor what is announced to it: a topology that is newer may be right.
    """
    for name, keyspace in topology.keyspaces.items():
        there, here = maps.get(name), keyspace.map_digest
        if not there or here in there:
            continue
        if isinstance(there[0], str):
            yield Disagreement(name, there[0], here)
        elif epoch >= topology.epoch and (digest := _digest(keyspace, there)) != here:
            yield Disagreement(name, digest, here)


def _digest(keyspace: Keyspace, owners: Sequence[tuple[int, int, str]]) -> str:
    shard_by_bucket = [shard for first, last, shard in owners for _ in range(first, last + 1)]
    return map_digest(keyspace.partitioning, shard_by_bucket)
