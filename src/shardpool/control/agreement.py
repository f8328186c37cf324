"""Whether a shard and a topology send every key to the same shard, by what the shard says on a new connection. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import shown
from ..partitioning.owner_map import divides_alike, map_digest, owns_alike
from ..topology import Keyspace, Placement, Reference, Sharded, Topology

# Stands among the tables that shards know: which shard numbers rows by its sequences. No table has such a name.
_NUMBERING = "nextval()"


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A keyspace of which a shard has another map than the topology; `there` and `here` are their digests."""

    keyspace: str
    there: str
    here: str

    def __str__(self) -> str:
        what = "other pins, bounds or listed keys"
        if divides_alike(self.there, self.here):
            what = "other moves" if owns_alike(self.there, self.here) else "other owners"
        return f"keyspace {self.keyspace} has {what}: map {self.there} there, {self.here} here"


def other_maps(maps: Mapping[str, Sequence[Any]], epoch: int, topology: Topology) -> Iterator[Disagreement]:
    """The keyspaces of a topology that a shard has otherwise; a keyspace that only one side knows is no fault.

    `maps` and `epoch` are what it says: see `identity.IDENTITY_QUERY`. Of a shard that says its owners alone, pins,
    bounds and listed keys are not known, nor what is announced to it: a topology that is newer may be right.
    """
    for name, keyspace in topology.keyspaces.items():
        there, here = maps.get(name), keyspace.map_digest
        if not there or here in there:
            continue
        if isinstance(there[0], str):
            yield Disagreement(name, there[0], here)
        elif epoch >= topology.epoch and not owns_alike(digest := _digest(keyspace, there), here):
            yield Disagreement(name, digest, here)


def other_tables(there: Mapping[str, Sequence[str]], topology: Topology) -> Iterator[str]:
    """The tables whose rows a topology has elsewhere than a shard says, by other columns, or numbered elsewhere.

    `there` is what the shard lets in, as `placement_texts` writes it. A table that only one side knows is no fault.
    """
    for table, accepted in there.items():
        if table == _NUMBERING:
            what, here = "the sequence that numbers rows", f"on {topology.numbering_shard}"
        elif table in topology.placements:
            what, here = f"table {shown(table)}", _placement_text(topology.placements[table])
        else:
            continue
        if here not in accepted:
            yield f"{what} is {shown(', or '.join(accepted))} there, {here} here"


def placement_texts(topology: Topology) -> dict[str, str]:
    """Where the rows of each table are, to be compared, and which shard's sequences number them.

    It must give the same texts for ever: shards store them.
    """
    texts = {table: _placement_text(placement) for table, placement in topology.placements.items()}
    return {**texts, _NUMBERING: f"on {topology.numbering_shard}"}


def _placement_text(placement: Placement) -> str:
    if isinstance(placement, Sharded):
        return f"in {placement.keyspace} by {', '.join(placement.key_columns)}"
    return "a reference table" if isinstance(placement, Reference) else f"on {placement.shard}"


def _digest(keyspace: Keyspace, owners: Sequence[tuple[int, int, str]]) -> str:
    shard_by_bucket = [shard for first, last, shard in owners for _ in range(first, last + 1)]
    return map_digest(keyspace.partitioning, shard_by_bucket)
