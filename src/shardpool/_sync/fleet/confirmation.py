# Generated from _async/fleet/confirmation.py by tools/unasync.py: edit that one, then run `make sync`.
"""A map of keys that is new to a router is put in force when a shard has confirmed it.

The shards are the authority: a file that was changed by hand, or that came too early, would hide rows.
"""

from __future__ import annotations

import random
from time import monotonic

import psycopg

from ..._runtime.watchdog import Watchdog
from ...errors import OtherMap, ShardUnavailable
from ...topology import Topology
from .connector import Connector
from .options import ConnectOptions
from .snapshot import Snapshot

# Seconds that one shard has for its answer, and that all who are asked have together: shards that are down do not keep
# a router from a topology that may be the remedy.
_EACH, _ALL = 1.0, 3.0


def is_new(topology: Topology, old: Topology) -> bool:
    """Whether rows may be elsewhere by a topology than by the one in force, so that a shard is to be asked."""
    if topology.control == "none":
        return False
    known = {name: keyspace.map_digest for name, keyspace in old.keyspaces.items()}
    return any(known.get(name) != keyspace.map_digest for name, keyspace in topology.keyspaces.items()) or any(
        old.placements.get(table, placement) != placement for table, placement in topology.placements.items()
    )


def is_confirmed(topology: Topology, snapshot: Snapshot, options: ConnectOptions, watchdog: Watchdog) -> bool:
    """Whether a shard has the map of this topology; False when none could be asked. Raises `OtherMap`."""
    until = monotonic() + _ALL
    for name in _in_order(snapshot, topology):
        left = until - monotonic()
        if left <= 0:
            break
        connector = Connector(topology, name, topology.shard(name).writable, options, watchdog)
        try:
            conn = connector.connect_apart(min(_EACH, left))
        except OtherMap:
            if connector.seen_epoch <= topology.epoch:
                raise
            # Behind the fleet, and yet ahead of this router.
            return True
        except (psycopg.Error, ShardUnavailable):
            continue
        conn.close()
        return True
    return False


def _in_order(snapshot: Snapshot, topology: Topology) -> list[str]:
    """Any order, so that not all processes ask the same shard; those that are known to be down come last."""
    names = random.sample([*topology.shards], len(topology.shards))
    down = {name for name, pools in snapshot.shards.items() if pools.primary.health.breaker.is_open}
    return sorted(names, key=down.__contains__)
