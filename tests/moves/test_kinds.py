"""Every kind of thing that moves, by the commands: its rows are all there afterwards, once, and nothing is left."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from .fleet import Moves, connect
from .shop import KEYSPACES, SCHEMA, fill, sums

pytestmark = pytest.mark.servers

# The machine may be busy: how long writers wait is another test's.
CALM = ["--pause-limit", "20s"]


@pytest.fixture
def moves(make_moves: Callable[[str, str], Moves]) -> Moves:
    found = make_moves(KEYSPACES, SCHEMA)
    fill(found)
    return found


def shards_of(moves: Moves, query: str) -> set[str]:
    """The shards on which a query finds something."""
    return {shard for shard in moves.topology.shards if moves.query(shard, query)}


def test_buckets_of_several_tables_keys_and_a_table_move(moves: Moves) -> None:
    before = sums(moves)
    assert before["public.orders"][0] == 2200 and before["public.visits"][0] == 3300
    moves("move", "tenants", "--buckets", "0-7,9", "--to", "s1", "--finish", *CALM)
    assert "rows are the same on both shards" in moves.stderr and "finished" in moves.stderr
    assert sums(moves) == before
    moving = "select from accounts where shardpool.bucket_tenants(tenant_id) <@ '{[0,7],[9,9]}'::int4multirange"
    assert shards_of(moves, moving) == {"s1"}
    # A key with a bucket of its own, and one that gets it first.
    moves("move", "tenants", "--key", "1000", "--to", "s2", "--finish", *CALM)
    moves("move", "tenants", "--key", "42", "--to", "s3", "--finish", *CALM)
    assert shards_of(moves, "select from orders where tenant_id = 1000") == {"s2"}
    assert shards_of(moves, "select from orders where tenant_id = 42") == {"s3"}
    assert sums(moves) == before
    # Sequences go on behind the rows that came.
    with connect(moves.topology, "s2") as conn:
        conn.execute("insert into orders (tenant_id, total) values (1000, 1)")
    for shard in moves.topology.shards:
        assert moves.left(shard) == {}, shard
    told = moves.json("move", "status", "--all")["moves"]
    assert [(one["step"], one["state"]) for one in told] == [("finished", None)] * 3
    assert "0 errors" in moves("check")


def test_ranges_listed_keys_the_default_and_composite_keys_move(moves: Moves) -> None:
    before = sums(moves)
    moves("split", "days", "--at", "2025-07-01", "--to", "s2", "--finish", *CALM)
    assert shards_of(moves, "select from readings where day = '2025-07-01'") == {"s2"}
    assert shards_of(moves, "select from readings where day = '2025-06-30'") == {"s0"}
    moves("move", "regions", "--key", "fr", "--to", "s1", "--finish", *CALM)
    moves("move", "regions", "--key", "nl", "--to", "s2", "--finish", *CALM)
    assert [shards_of(moves, f"select from stores where region = '{key}'") for key in ("de", "fr", "nl", "pl")] == [
        {"s0"},
        {"s1"},
        {"s2"},
        {"s0"},
    ]
    moves("move", "pairs", "--buckets", "0-7", "--to", "s3", "--finish", *CALM)
    assert moves.query("s3", "select count(*) from pairs")[0][0] > 50
    assert sums(moves) == before
    for shard in moves.topology.shards:
        assert moves.left(shard) == {}, shard


def test_a_single_table_moves(moves: Moves) -> None:
    with connect(moves.topology, "s2") as conn:
        conn.execute("drop table audit")
    assert "table audit is not on shard s2" in _refused(moves, "move", "--table", "audit", "--to", "s2")
    with connect(moves.topology, "s2") as conn:
        conn.execute("create table audit (n int primary key, what text)")
    moves("move", "--table", "audit", "--to", "s2", "--finish", *CALM)
    count = "select count(*) from audit"
    assert (moves.query("s0", count), moves.query("s2", count)) == ([(0,)], [(50,)])
    assert moves.topology.single_tables == {"public.audit": "s2"}
    assert moves.left("s0") == moves.left("s2") == {}


def _refused(moves: Moves, *arguments: str) -> str:
    moves(*arguments, code=1)
    return moves.stderr


def test_a_shard_is_drained_and_the_rest_is_even(moves: Moves) -> None:
    before = sums(moves)
    planned = moves.json("drain", "s0", "--to", "s1", "--dry-run", *CALM)
    assert planned["moves"] == [] and {one["from"] for one in planned["planned"]} == {"s0"}
    moves("drain", "s0", "--to", "s1", *CALM)
    assert all("s0" not in space.owning_shards for space in moves.topology.keyspaces.values())
    assert sums(moves) == before
    moves("rebalance", "tenants", "--by", "buckets", *CALM)
    space = moves.topology.keyspaces["tenants"]
    assert {space.shard_by_bucket.count(shard) for shard in ("s0", "s2", "s3")} == {16}
    assert sums(moves) == before
