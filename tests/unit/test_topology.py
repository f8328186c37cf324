"""Owners, epochs that are carried over, and the look-ups by name."""

from __future__ import annotations

import pytest

from shardpool.errors import MissingKey, UnknownKeyspace, UnknownShard, UnknownTable
from shardpool.partitioning import Hash, Range
from shardpool.succession import placements_differ, succeed
from shardpool.topology import (
    Endpoint,
    Keyspace,
    OwnerRange,
    Reference,
    Secret,
    Shard,
    Sharded,
    Single,
    Topology,
    owner_ranges,
)


def topology(epoch: int = 1, owners: tuple[OwnerRange, ...] | None = None) -> Topology:
    shards = {name: Shard(name, Endpoint("primary", "primary", (("host", name),))) for name in ("s0", "s1")}
    owners = owners or (OwnerRange(0, 7, "s0", epoch), OwnerRange(8, 15, "s1", epoch))
    keyspace = Keyspace("tenants", Hash(("bigint",), "murmur3", 16, ()), owners, {"public.orders": ("tenant_id",)})
    return Topology("shop", epoch, shards, {"tenants": keyspace}, ("public.countries",), {"public.jobs": "s1"})


def test_a_table_is_placed_by_its_name_with_or_without_public() -> None:
    fleet = topology()
    assert fleet.placement("orders") == fleet.placement("public.orders") == Sharded("tenants", ("tenant_id",))
    assert fleet.placement("countries") == Reference()
    assert fleet.placement("jobs") == Single("s1")


@pytest.mark.parametrize(
    ("look_up", "error", "hint"),
    [
        (lambda t: t.placement("order"), UnknownTable, "Did you mean orders?"),
        (lambda t: t.keyspace("tenant"), UnknownKeyspace, "Did you mean tenants?"),
        (lambda t: t.shard("s9"), UnknownShard, "Known: s0, s1."),
        (lambda t: t.keyspace(table="countries"), MissingKey, "Use shard(name), or execute() without a key."),
    ],
)
def test_an_unknown_name_gets_the_nearest_ones(look_up, error, hint) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error) as raised:
        look_up(topology())
    assert raised.value.hint == hint


def test_a_moved_bucket_alone_gets_the_new_epoch() -> None:
    old = topology(3)
    new = topology(4, (OwnerRange(0, 7, "s0", 4), OwnerRange(8, 8, "s0", 4), OwnerRange(9, 15, "s1", 4)))
    keyspace = succeed(new, old).keyspaces["tenants"]
    assert keyspace.owners == (OwnerRange(0, 7, "s0", 3), OwnerRange(8, 8, "s0", 4), OwnerRange(9, 15, "s1", 3))
    assert placements_differ(new, old)
    assert not placements_differ(topology(5), old)


def test_epochs_follow_an_interval_whose_number_has_changed() -> None:
    def ranged(epoch: int, bounds: tuple[int | None, ...], shards: tuple[str, ...]) -> Topology:
        keyspace = Keyspace("k", Range(("bigint",), bounds), owner_ranges(shards, [epoch] * len(shards)), {})
        return Topology("f", epoch, topology().shards, {"k": keyspace})

    old = ranged(1, (10, 20, None), ("s0", "s1", "s0"))
    new = succeed(ranged(2, (5, 10, 20, None), ("s0", "s0", "s1", "s0")), old)
    # The first interval was split: both halves are new; the others only moved up by one number.
    assert new.keyspaces["k"].epoch_by_bucket == (2, 2, 1, 1)


def test_owner_ranges_join_neighbours_of_one_owner_and_epoch() -> None:
    assert owner_ranges(["a", "a", "b", "a"], [1, 1, 1, 2]) == (
        OwnerRange(0, 1, "a", 1),
        OwnerRange(2, 2, "b", 1),
        OwnerRange(3, 3, "a", 2),
    )


def test_a_secret_is_shown_nowhere() -> None:
    endpoint = Endpoint("primary", "primary", (("host", "h"),), password=Secret("hunter2"))
    assert "hunter2" not in f"{endpoint!r} {endpoint.password} {endpoint.address}"
