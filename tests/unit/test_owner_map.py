"""Digests of which key is on which shard: equal for the same map however it is written, different for any other."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardpool.control.agreement import other_maps
from shardpool.partitioning import Hash, List, Partitioning, Range
from shardpool.partitioning.owner_map import divides_alike, map_digest, owner_runs
from shardpool.topology import Endpoint, Keyspace, Shard, Topology, owner_ranges

SHARDS = st.sampled_from(["s0", "s1", "ost"])
OWNERS = st.lists(SHARDS, min_size=8, max_size=8)


@given(OWNERS, st.lists(st.integers(1, 3), min_size=8, max_size=8), OWNERS)
def test_what_a_shard_tells_of_its_owners_gives_the_digest_of_the_file(
    owners: list[str], epochs: list[int], others: list[str]
) -> None:
    """Owners are written in ranges of one epoch: how they are cut says nothing of where keys are."""
    keyspace = Keyspace("k", Hash(("bigint",), buckets=8), owner_ranges(owners, epochs), {})
    topology = Topology(
        "f", 3, {name: Shard(name, Endpoint("primary", "primary", ())) for name in owners}, {"k": keyspace}
    )
    told = [[entry.first, entry.last, entry.shard] for entry in keyspace.owners]
    assert not [*other_maps({"k": told}, 3, topology)]
    assert not [*other_maps({"k": [keyspace.map_digest]}, 3, topology)]
    there = [[first, last, shard] for first, last, shard in owner_runs(others)]
    digest = map_digest(keyspace.partitioning, others)
    for answer in (there, [digest]):
        found = [*other_maps({"k": answer}, 3, topology)]
        assert bool(found) == (owners != others)
        assert all((one.there, one.here) == (digest, keyspace.map_digest) for one in found)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Hash(("bigint",), buckets=8), Hash(("bigint",), buckets=8, pinned=(1,))),
        (Hash(("bigint",), buckets=8, pinned=(1,)), Hash(("bigint",), buckets=8, pinned=(2,))),
        (Hash(("bigint",), buckets=8), Hash(("bigint",), "postgres", 8)),
        (Hash(("bigint",), buckets=8), Hash(("text",), buckets=8)),
        (
            Hash(("text", "text"), buckets=8, pinned=(("a", "b"),)),
            Hash(("text", "text"), buckets=8, pinned=(("b", "a"),)),
        ),
        (Range(("date",), (date(2025, 1, 1), None)), Range(("date",), (date(2025, 1, 2), None))),
        (Range(("bigint",), (1, 2)), Range(("bigint",), (1, None))),
        (List(("text",), ("de", "fr")), List(("text",), ("de", "us"))),
        (List(("text",), ("de", "fr")), List(("text",), ("de",), default=True)),
    ],
)
def test_keys_that_are_divided_otherwise_give_another_digest(one: Partitioning, other: Partitioning) -> None:
    owners = ["s0"] * max(one.bucket_count, other.bucket_count)
    digests = [map_digest(placed, owners[: placed.bucket_count]) for placed in (one, other)]
    assert not divides_alike(*digests)
    assert divides_alike(digests[0], map_digest(one, ["s1"] * one.bucket_count))
    assert digests[0] == map_digest(replace(one), owners[: one.bucket_count])


def test_digests_are_the_same_for_ever() -> None:
    """Shards keep them, and routers of other versions compare them."""
    placed = Hash(("bigint", "text"), pinned=((7, "ü"),))
    assert map_digest(placed, ["s0"] * 2048 + ["s1"] * 2049) == "fe822d480491bf45-316a5f63c53ae212"
