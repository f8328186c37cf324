"""Keyspaces of which a shard has told a newer map than the router has: nobody is sent by the old one any more.

A router that is left behind is refused by shards on new connections. Those that it has open would go on: it would read
nothing where rows were, and change none. So the first new connection that is told speaks for all.
"""

from __future__ import annotations

from .errors import OtherMap
from .events import Event, NewerEpochSeen
from .topology import Topology


class NewerMaps:
    """An observer of the fleet. `told` has by keyspace the shard and its epoch, and is replaced whole."""

    def __init__(self) -> None:
        self.told: dict[str, tuple[str, int]] = {}

    def observe(self, event: Event) -> None:
        if not isinstance(event, NewerEpochSeen):
            return
        newer = {
            keyspace: (event.shard, event.epoch)
            for keyspace in event.keyspaces
            if keyspace not in self.told or self.told[keyspace][1] < event.epoch
        }
        if newer:
            self.told = {**self.told, **newer}

    def check_all(self, topology: Topology) -> None:
        """As `check`, of whatever has been told."""
        for keyspace in [*self.told]:
            self.check(keyspace, topology)

    def check(self, keyspace: str, topology: Topology) -> None:
        """Raise `OtherMap` when the topology in force is older than what a shard has told of the keyspace."""
        newer = self.told.get(keyspace)
        if newer is None:
            return
        shard, epoch = newer
        if topology.epoch >= epoch:
            self.told = {name: other for name, other in self.told.items() if name != keyspace}
            return
        raise OtherMap(
            f"keys of keyspace {keyspace} are elsewhere by now",
            shard=shard,
            phase="connect",
            detail=f"Shard {shard} is of epoch {epoch}, and this topology is of epoch {topology.epoch}.",
            hint=f"Call reload(), with the topology file of epoch {epoch}.",
        )
