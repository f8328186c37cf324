"""The topology as the shards publish it: every kind of keyspace comes back as it was, and what is one's own stays."""

from __future__ import annotations

import pytest

from shardpool import parse_topology
from shardpool.config import document, document_data, read_document
from shardpool.published import Edition, Published, agreed
from shardpool.succession import placements_differ

FILE = """\
version: 1
fleet: shop
epoch: 7
defaults: {connect: {user: app, password: "${SECRET}", dbname: shop, sslmode: require}, pool: {max_size: 4}}
shards:
  s0: {primary: {host: a}, replicas: [{host: a2, max_lag: 1.5s}]}
  s1: {hosts: [{host: b}, {host: b2, port: 5433}]}
  s2: {primary: {host: c, pooler: session}}
  s3: {primary: {host: d, user: other}}
keyspaces:
  tenants:
    key: bigint
    hash: {buckets: 64, owners: {s0: [0-15, 20], s1: 21-63, s2: 16-19}}
    pinned: {17: s2, 5: s0}
    tables: {orders: tenant_id}
  names: {key: text, hash: {buckets: 4, owners: {s1: 0-3}},
    pinned: [{key: "$$x: \\u2028 \U0001f600", shard: s2}], tables: {names: name}}
  pairs: {key: [bigint, text], hash: {buckets: 4, owners: {s0: 0-3}},
    pinned: [{key: [1, de], shard: s2}], tables: {p: [a, b]}}
  raw: {key: bytea, list: {s1: ['\\x0aff', '\\x']}, tables: {r: k}}
  days: {key: date, range: [{below: 2025-01-01, shard: s1}, {shard: s0}], tables: {d: day}}
  times: {key: timestamptz, range: [{below: "2025-01-01 12:00:00+02", shard: s1}], tables: {t: at}}
  regions: {key: text, list: {s2: ["no", de], s0: [fr]}, default: s1, tables: {s: region}}
reference_tables: [countries]
single_tables: {audit: s0, app.log: s1}
moves:
  - {number: 3, keyspace: tenants, buckets: [0-3, 20], from: s0, to: s2, state: guarded}
  - {number: 4, keyspace: tenants, keys: [17], from: s0, to: s2, state: moved}
  - {number: 5, keyspace: regions, keys: ["no"], from: s2, to: s1, state: copying}
  - {number: 6, table: audit, from: s0, to: s1, state: copying}
  - {number: 7, keyspace: days, range: {from: 2025-01-01}, from: s0, to: s2, state: copying}
"""
TOPOLOGY = parse_topology(FILE, env={"SECRET": "hidden"})


def test_a_document_says_the_same_map_and_no_secret() -> None:
    text = document(TOPOLOGY)
    again = read_document(text)
    assert not placements_differ(again, TOPOLOGY) and again.epoch == 7
    for name, space in TOPOLOGY.keyspaces.items():
        assert again.keyspaces[name].map_digest == space.map_digest, name
    assert document(again) == text
    for secret in ("hidden", 'app"', "require", "password", "user"):
        assert secret not in text
    assert [*document_data(TOPOLOGY)["shards"]["s1"]] == ["hosts", "pooler", "connect"]
    for name, shard in again.shards.items():
        assert [end.address for end in shard.endpoints] == [end.address for end in TOPOLOGY.shards[name].endpoints]
        assert [end.role for end in shard.endpoints] == [end.role for end in TOPOLOGY.shards[name].endpoints]


OWN = parse_topology(
    """\
version: 1
fleet: shop
epoch: 4
defaults: {connect: {user: app, password: "${SECRET}", dbname: shop, sslmode: require},
  pool: {max_size: 9}, timeout: 2s}
shards:
  s0: {primary: {host: inside-a}}
  s1: {primary: {host: inside-b, application_name: mine}}
  old: {primary: {host: d, user: renamed}}
keyspaces: {tenants: {key: bigint, hash: {buckets: 64, owners: {s0: 0-63}}, tables: {orders: tenant_id}}}
""",
    env={"SECRET": "mine"},
)


def test_what_is_a_routers_own_stays() -> None:
    taken = Published(TOPOLOGY, {"s0": 4, "s1": 6, "s2": 7, "s3": 7}).applied_to(OWN)
    assert not placements_differ(taken, TOPOLOGY) and (taken.epoch, taken.timeout) == (7, 2.0)
    assert taken.shards["s0"] == OWN.shards["s0"], "it has not gone elsewhere since"
    assert [end.address for end in taken.shards["s1"].endpoints] == ["b:5432/shop", "b2:5433/shop"]
    assert {end.param("application_name") for end in taken.shards["s1"].endpoints} == {"mine"}
    fresh = taken.shards["s2"].primary
    assert fresh.address == "c:5432/shop" and (fresh.param("sslmode"), fresh.pooler) == ("require", "session")
    assert fresh.password is not None and fresh.password.reveal() == "mine" and fresh.pool.max_size == 9
    # Roles differ between its own shards: which one a new shard has is not guessed; a renamed shard keeps its own.
    assert fresh.param("user") == "" and taken.shards["s3"].primary.param("user") == "renamed"


def editions(*of: tuple[int, str]) -> list[Edition]:
    return [Edition(epoch, digest, dict.fromkeys(("s0", "s1", "old", "s9"), 0)) for epoch, digest in of]


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, []),
        ({"s0": editions((5, "a"))}, []),
        ({"s0": editions((5, "a")), "s1": editions((5, "a"))}, [5]),
        ({"s0": editions((6, "b"), (5, "a")), "s1": editions((5, "a")), "old": editions((5, "a"))}, [5]),
        ({"s0": editions((5, "a")), "s1": editions((5, "b")), "old": editions((5, "a"))}, []),
        ({"s0": editions((5, "a")), "s1": [], "old": editions((5, "a"))}, []),
        ({name: editions((4, "a"), (3, "x")) for name in ("s0", "s1", "old")}, []),
        ({name: editions((8, "b"), (5, "a")) for name in ("s0", "s1")}, [8, 5]),
    ],
)
def test_shards_agree_on_what_all_that_answer_have(told: dict[str, list[Edition]], expected: list[int]) -> None:
    assert [edition.epoch for edition in agreed(told, OWN)] == expected
