"""A question to many shards is put to those that own the keys when it is sent, not when it was planned."""

from __future__ import annotations

from dataclasses import replace
from threading import Thread
from time import sleep

import pytest

from shardpool import Router, Topology
from shardpool.topology import OwnerRange, PoolSettings


def one_at_a_time(topology: Topology, name: str) -> Topology:
    """The topology with a pool of one connection for a shard."""
    shard = topology.shards[name]
    primary = replace(shard.primary, pool=PoolSettings(max_size=1))
    return replace(topology, shards={**topology.shards, name: replace(shard, primary=primary)})


def given_away(topology: Topology, giver: str, taker: str) -> Topology:
    """The next topology, in which one shard has all buckets of another; where the rows are does not matter here."""
    keyspaces = {}
    for name, keyspace in topology.keyspaces.items():
        owners = [replace(entry, shard=taker) if entry.shard == giver else entry for entry in keyspace.owners]
        keyspaces[name] = replace(keyspace, owners=tuple(OwnerRange(o.first, o.last, o.shard, o.epoch) for o in owners))
    return replace(topology, epoch=topology.epoch + 1, keyspaces=keyspaces, control="none")


@pytest.mark.parametrize("strategy", [None, "pull"])
def test_a_reload_before_the_statement_is_sent_has_it_planned_again(router: Router, strategy: str | None) -> None:
    topology = one_at_a_time(router.topology, "s0")
    with Router(topology) as waiting:
        before = waiting.execute("select count(*) from orders", strategy=strategy)
        assert set(before.shards) == set(topology.shards)
        found = []
        asking = Thread(
            target=lambda: found.append(waiting.execute("select count(*) from orders", strategy=strategy, timeout=10))
        )
        with waiting.shard("s0").connection():
            asking.start()
            sleep(0.3)  # it is planned by now, and waits for the connection that is lent
            waiting.reload(given_away(topology, "s3", "s2"))
        asking.join()
        assert set(found[0].shards) == {"s0", "s1", "s2"}
