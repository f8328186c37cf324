"""What is asked of a shard, and how its answer is judged."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from shardpool.control.buckets import bucket_function, owned_buckets
from shardpool.control.identity import (
    CONTROL_VERSION,
    NOT_INSTALLED_HINT,
    check_identity,
    map_problem,
    newer_epoch,
)
from shardpool.control.install import install_statements
from shardpool.control.rows import misplaced_rows_query
from shardpool.errors import UnknownShard
from shardpool.partitioning import Hash
from shardpool.quoting import quote_ident, quote_literal, quote_table
from shardpool.topology import Endpoint, Keyspace, OwnerRange, Shard, Topology

TENANTS = Keyspace(
    "tenants",
    Hash(("bigint",)),
    (
        OwnerRange(0, 9, "s0", 1),
        OwnerRange(10, 19, "s0", 2),
        OwnerRange(20, 4000, "s1", 2),
        OwnerRange(4001, 4095, "s0", 2),
    ),
    {"public.orders": ("tenant_id",)},
)
TOPOLOGY = Topology("shop", 12, {"s0": Shard("s0", Endpoint("s0", "primary", ()))}, {"tenants": TENANTS})


def row(**changes: Any) -> tuple[Any, ...]:
    good = {
        "fleet": "shop",
        "shard": "s0",
        "version": CONTROL_VERSION,
        "epoch": 12,
        "contracts": {"tenants": TENANTS.partitioning.contract()},
        "is_standby": False,
        "owners_epoch": 12,
        "also": None,
        "settings": "",
        "maps": {"tenants": [TENANTS.map_digest]},
        "works_with": [],
        "takes_part": "ready",
        "min_epoch": 0,
        "tables": {"public.orders": ["in tenants by tenant_id"], "public.elsewhere": ["a reference table"]},
    }
    return tuple((good | changes).values())


@pytest.mark.parametrize("contracts", [{}, {"other": {"kind": "list"}}, {"tenants": TENANTS.partitioning.contract()}])
def test_a_shard_that_knows_other_keyspaces_is_good(contracts: dict[str, Any]) -> None:
    assert check_identity(row(contracts=contracts), TOPOLOGY, "s0") is None
    assert check_identity(row(contracts=json.dumps(contracts)), TOPOLOGY, "s0") is None


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, NOT_INSTALLED_HINT),
        (row(shard="s1"), 'shard "s1" of fleet "shop", not shard "s0"'),
        (row(fleet="test"), 'fleet "test"'),
        (row(version=CONTROL_VERSION - 1), NOT_INSTALLED_HINT),
        (row(version=CONTROL_VERSION + 1, works_with=[CONTROL_VERSION + 1]), "Upgrade the shardpool package"),
        (row(epoch=13, owners_epoch=13), "Reload the topology"),
        (row(contracts={"tenants": Hash(("bigint",), buckets=8).contract()}), "buckets 8, not 4096"),
        (row(contracts={"tenants": Hash(("text",)).contract()}), "key_types"),
    ],
)
def test_a_wrong_shard_is_named_with_what_to_do(answer: Any, words: str) -> None:
    assert words in (check_identity(answer, TOPOLOGY, "s0") or "")


def test_a_newer_epoch_without_newer_owners_is_no_fault() -> None:
    assert check_identity(row(epoch=13), TOPOLOGY, "s0") is None
    assert newer_epoch(row(epoch=13), TOPOLOGY, "s0") is None
    assert newer_epoch(row(epoch=14, owners_epoch=13), TOPOLOGY, "s0") == 13


def test_a_newer_schema_that_names_this_version_is_good() -> None:
    works_with = [CONTROL_VERSION, CONTROL_VERSION + 1]
    for told in (works_with, json.dumps(works_with)):
        assert check_identity(row(version=CONTROL_VERSION + 1, works_with=told), TOPOLOGY, "s0") is None


MOVED = replace(TENANTS, owners=(OwnerRange(0, 4095, "s1", 12),))
PINNED = replace(
    TENANTS, partitioning=Hash(("bigint",), pinned=(7,)), owners=(*TENANTS.owners, OwnerRange(4096, 4096, "s0", 12))
)


def owners(keyspace: Keyspace) -> list[list[Any]]:
    return [[entry.first, entry.last, entry.shard] for entry in keyspace.owners]


@pytest.mark.parametrize("other", [MOVED, PINNED])
@pytest.mark.parametrize("epoch", [11, 12])
def test_another_map_is_told_with_both_maps_and_what_to_do(other: Keyspace, epoch: int) -> None:
    told = map_problem(row(epoch=epoch, owners_epoch=2, maps={"tenants": [other.map_digest]}), TOPOLOGY)
    assert told is not None
    detail, hint = told
    assert other.map_digest in detail and TENANTS.map_digest in detail
    assert ("both are of epoch 12" if epoch == 12 else "the shard is of epoch 11, the topology of epoch 12") in detail
    assert ("other owners" if other is MOVED else "other pins") in detail
    assert "shardpool topology apply" in hint


def test_another_map_of_a_later_epoch_is_a_newer_epoch() -> None:
    assert newer_epoch(row(epoch=13, owners_epoch=2, maps={"tenants": [MOVED.map_digest]}), TOPOLOGY, "s0") == 13


def test_one_of_several_maps_that_are_right_will_do() -> None:
    assert map_problem(row(maps={"tenants": [MOVED.map_digest, TENANTS.map_digest]}), TOPOLOGY) is None
    assert map_problem(row(maps=json.dumps({"tenants": [TENANTS.map_digest], "other": ["x-y"]})), TOPOLOGY) is None


def test_a_shard_of_an_older_schema_is_judged_by_its_owners() -> None:
    assert map_problem(row(maps={"tenants": owners(TENANTS)}), TOPOLOGY) is None
    assert map_problem(row(maps={"tenants": None}), TOPOLOGY) is None
    assert "other owners" in (map_problem(row(maps={"tenants": owners(MOVED)}), TOPOLOGY) or "")[0]
    # The older schema does not say what was announced.
    assert map_problem(row(epoch=11, maps={"tenants": owners(MOVED)}), TOPOLOGY) is None


def test_a_shard_that_is_renamed_answers_to_both_names() -> None:
    for answer in (row(shard="s0", also="east"), row(shard="east", also="s0")):
        assert check_identity(answer, TOPOLOGY, "s0") is None
    assert "not shard" in (check_identity(row(shard="east", also="west"), TOPOLOGY, "s0") or "")


def test_pins_are_no_part_of_the_contract() -> None:
    assert Hash(("bigint",), pinned=(1,)).contract() == Hash(("bigint",)).contract()


def test_install_wants_a_shard_of_the_topology() -> None:
    with pytest.raises(UnknownShard):
        install_statements(TOPOLOGY, "s9")


def test_adjacent_ranges_of_one_shard_are_one() -> None:
    assert owned_buckets(TENANTS, "s0") == [(0, 19), (4001, 4095)]
    assert owned_buckets(TENANTS, "s9") == []


def test_misplaced_rows_query_names_table_column_and_ranges() -> None:
    assert misplaced_rows_query(TENANTS, "public.orders", [(0, 19), (4001, 4095)]) == (
        "SELECT count(*) FILTER (WHERE NOT bucket <@ int4multirange '{[0,19],[4001,4095]}') AS misplaced,\n"
        "  count(*) FILTER (WHERE bucket IS NULL) AS uncovered\n"
        'FROM (SELECT shardpool."bucket_tenants"("tenant_id") AS bucket FROM "public"."orders" OFFSET 0) AS placed'
    )


def test_names_and_values_are_quoted() -> None:
    assert quote_ident('a"b') == '"a""b"'
    assert quote_literal("it's") == "'it''s'"
    assert quote_literal("a\\'b").strip() == "E'a\\\\''b'"
    assert quote_table("shop.Orders") == '"shop"."Orders"'


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_what_is_no_name_is_not_quoted(name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        quote_ident(name)


def test_long_keyspaces_have_functions_of_different_names_that_fit() -> None:
    one, other = bucket_function("x" * 70 + "a"), bucket_function("x" * 70 + "b")
    assert one != other
    assert len(one.removeprefix("shardpool.").strip('"').encode()) == 63
    assert len(bucket_function("日" * 30).removeprefix("shardpool.").strip('"').encode()) <= 63
