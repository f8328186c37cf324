"""Where a statement without a key goes, and what is refused; the cases stand in `cases/keyless.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from shardpool.errors import ShardpoolError, UnsupportedQuery
from shardpool.partitioning import Hash
from shardpool.query.planner import plan, refuse_unknown_functions
from shardpool.topology import Endpoint, Keyspace, OwnerRange, Shard, Topology

CASES = yaml.safe_load((Path(__file__).parent / "cases/keyless.yaml").read_text(encoding="utf-8"))


def topology() -> Topology:
    shards = {name: Shard(name, Endpoint("primary", "primary", (("host", name),))) for name in ("s0", "s1")}
    keyspace = Keyspace(
        "tenants",
        Hash(("bigint",), "murmur3", 16, ()),
        (OwnerRange(0, 7, "s0", 1), OwnerRange(8, 15, "s1", 1)),
        {"public.orders": ("tenant_id",), "sales.items": ("tenant_id",)},
    )
    return Topology(
        "shop",
        1,
        shards,
        {"tenants": keyspace},
        ("public.countries", "public.currencies"),
        {"public.audit_log": "s0", "public.jobs": "s1"},
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["sql"][:60])
def test_a_statement_without_a_key(case: dict[str, Any]) -> None:
    if "refused" in case:
        with pytest.raises((ShardpoolError, psycopg.Error)) as raised:
            plan(case["sql"], topology())
        assert type(raised.value).__name__ == case["error"]
        assert str(raised.value).splitlines()[0] == case["refused"]
    else:
        assert (plan(case["sql"], topology()).shard or "any") == case["shard"]


def test_only_functions_of_postgresql_itself_are_let_through() -> None:
    refuse_unknown_functions({"lower", "pg_catalog.upper"}, frozenset({"lower", "upper"}))
    with pytest.raises(UnsupportedQuery, match=r"shop\.total\(\) is not a function of PostgreSQL itself"):
        refuse_unknown_functions({"shop.total"}, frozenset({"total"}))
