"""What is told of tables that are not alike, whatever order the shards answer in."""

from __future__ import annotations

from itertools import permutations

from shardpool.control.tables import ColumnFacts, TableFacts, compare_tables, table_facts, table_findings
from shardpool.partitioning import Hash
from shardpool.topology import Endpoint, Keyspace, OwnerRange, Shard, Topology

USUAL = TableFacts(
    (ColumnFacts("id", "bigint", True, True), ColumnFacts("n", "integer", False, True)), (frozenset({"id"}),)
)
ODD = TableFacts((*USUAL.columns, ColumnFacts("extra", "text", False, True)), USUAL.unique)


def topology() -> Topology:
    shards = {name: Shard(name, Endpoint("primary", "primary", (("host", name),))) for name in ("s0", "s1", "s2")}
    keyspace = Keyspace("k", Hash(("bigint",), "murmur3", 4, ()), (OwnerRange(0, 3, "s0", 1),), {"public.t": ("id",)})
    return Topology("f", 1, shards, {"k": keyspace})


def test_the_odd_one_out_is_named_in_whatever_order_the_shards_answer() -> None:
    tables = {"s0": ODD, "s1": USUAL, "s2": USUAL}
    for order in permutations(tables):
        (finding,) = compare_tables(topology(), {shard: {"public.t": tables[shard]} for shard in order})
        assert (finding.subject, finding.message) == ("s0/t", "its columns differ from those on s1: + extra text")


def test_a_key_that_cannot_be_trusted_is_told() -> None:
    rows = [("public.t", "id", "numeric", False, False, ["n,id"]), ("public.t", "n", "integer", True, True, ["n,id"])]
    told = [finding.message for finding in table_findings(topology(), "s0", table_facts(rows))]
    assert told == [
        "key column id is numeric, the topology says bigint",
        "key column id has a nondeterministic collation",
        "key column id may be NULL",
    ]
    missing = table_findings(topology(), "s0", {"public.t": TableFacts(USUAL.columns[1:], ())})
    assert next(finding.message for finding in missing) == 'its key column "id" does not exist'
