"""What is on its way to another shard, as the topology file says it: read, compared, and kept from being edited."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import yaml

from shardpool.changes import check_moves_stay, describe_changes, handed_over, moves, renamed
from shardpool.config import describe, parse_topology, topology_schema
from shardpool.errors import EditRefused
from shardpool.topology import RunningMove, Topology

FLEET = """\
version: 1
fleet: shop
epoch: 3
shards:
  s0: {primary: {host: 127.0.0.1, dbname: a}}
  s1: {primary: {host: 127.0.0.1, dbname: b}}
keyspaces:
  tenants:
    key: bigint
    hash: {buckets: 16, owners: {s0: 0-7, s1: 8-15}}
    pinned: {17: s0, 18: s0}
    tables: {orders: tenant_id}
  events: {key: date, range: [{below: 2025-01-01, shard: s0}, {below: 2026-01-01, shard: s1}, {shard: s1}]}
  regions: {key: text, list: {s0: [de, fr], s1: [us]}, default: s1}
single_tables: {audit: s0}
"""
BUCKETS = "{number: 1, keyspace: tenants, buckets: [0-3, 5], from: s0, to: s1, state: copying}"
ALL = [
    BUCKETS,
    "{number: 2, keyspace: tenants, keys: [18], from: s0, to: s1, state: guarded}",
    "{number: 3, keyspace: events, range: {from: 2025-01-01}, from: s1, to: s0, state: guarded}",
    "{number: 4, keyspace: regions, keys: [us], from: s0, to: s1, state: moved}",
    "{number: 5, table: audit, from: s0, to: s1, state: copying}",
    "{number: 6, keyspace: regions, default: true, from: s1, to: s0, state: copying}",
]


def fleet(*moves: str, text: str = FLEET) -> Topology:
    return parse_topology(text + ("moves:\n" + "".join(f"  - {move}\n" for move in moves) if moves else ""))


def test_a_move_names_buckets_keys_ranges_or_a_table() -> None:
    topology = fleet(*ALL)
    found = topology.moves
    assert {number: move.buckets for number, move in found.items()} == {
        1: ((0, 3), (5, 5)),
        2: ((17, 17),),
        3: ((1, 2),),
        4: ((2, 2),),
        5: (),
        6: ((3, 3),),
    }
    assert found[5] == RunningMove(5, "s0", "s1", "copying", table="public.audit")
    assert [move.owner for move in found.values()] == ["s0", "s0", "s1", "s1", "s0", "s1"]
    assert str(found[1]) == "move 1 (buckets 0-3, 5 of keyspace tenants, s0 → s1, copying)"
    assert str(found[5]) == "move 5 (table audit, s0 → s1, copying)"
    assert topology.keyspaces["tenants"].move_by_bucket[17] is found[2]
    assert set(topology.keyspaces["tenants"].move_by_bucket) == {0, 1, 2, 3, 5, 17}


def test_the_schema_and_the_description_have_moves() -> None:
    text = FLEET + "moves:\n" + "".join(f"  - {move}\n" for move in ALL)
    data: Any = yaml.load(text, yaml.BaseLoader)
    data["moves"] = [{**move, "number": int(move["number"])} for move in data["moves"]]
    data["moves"][5]["default"] = True
    schema = topology_schema()
    jsonschema.validate(data["moves"], {**schema, **schema["properties"]["moves"], "required": []})
    told = describe(fleet(*ALL))["moves"]
    assert told[0] == {
        "number": 1,
        "state": "copying",
        "from": "s0",
        "to": "s1",
        "keyspace": "tenants",
        "buckets": [[0, 3], [5, 5]],
    }
    assert told[4] == {"number": 5, "state": "copying", "from": "s0", "to": "s1", "table": "public.audit"}


def test_the_map_is_another_while_rows_move_and_as_before_without_moves() -> None:
    still = fleet().keyspaces["tenants"].map_digest
    assert still.count("-") == 1
    found = {
        fleet(BUCKETS).keyspaces["tenants"].map_digest,
        fleet(BUCKETS.replace("copying", "guarded")).keyspaces["tenants"].map_digest,
        fleet(BUCKETS.replace("5]", "6]")).keyspaces["tenants"].map_digest,
        fleet(BUCKETS.replace("number: 1", "number: 7")).keyspaces["tenants"].map_digest,
    }
    assert len(found) == 4 and all(digest.startswith(f"{still}-") for digest in found)
    assert fleet(BUCKETS).keyspaces["regions"].map_digest == fleet().keyspaces["regions"].map_digest


def test_changes_of_moves_are_told() -> None:
    guarded, moved = (BUCKETS.replace("copying", state) for state in ("guarded", "moved"))
    after = FLEET.replace("{s0: 0-7, s1: 8-15}", "{s0: [4, 6-7], s1: [0-3, 5, 8-15]}")
    assert describe_changes(fleet(), fleet(BUCKETS)) == [
        "move 1 (buckets 0-3, 5 of keyspace tenants, s0 → s1, copying) is new"
    ]
    assert describe_changes(fleet(BUCKETS), fleet(guarded)) == [
        "move 1 (buckets 0-3, 5 of keyspace tenants, s0 → s1, copying): copying → guarded"
    ]
    assert "is over" in describe_changes(fleet(BUCKETS), fleet())[0]
    back = moved.replace("from: s0, to: s1, state: moved", "from: s1, to: s0, state: guarded")
    (told,) = describe_changes(fleet(moved, text=after), fleet(back, text=after))
    assert told.endswith("is taken back: s1 → s0, guarded")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("buckets: [0-3, 5]", "buckets: [0-3, 6]", "move 1 (buckets 0-3, 5 of"),
        ("state: copying", "state: guarded", "move 1"),
        ("{number: 1", "{number: 2", "would be changed"),
        ("tables: {orders: tenant_id}", "tables: {orders: tenant_id, items: tenant_id}", "move 1"),
        # The key's hash bucket is among those that move: it would take its row along.
        ("pinned: {17: s0, 18: s0}", "pinned: {17: s0, 18: s0, 6: s1}", "move 1"),
        ("pinned: {17: s0, 18: s0}", "pinned: {17: s0, 18: s0, 0: s1}", ""),
        ("{primary: {host: 127.0.0.1, dbname: a}}", "{primary: {host: 127.0.0.1, dbname: a}, pool: {max_size: 3}}", ""),
    ],
)
def test_an_edit_that_touches_what_moves_is_refused_with_the_move(old: str, new: str, told: str) -> None:
    text = f"{FLEET}moves: [{BUCKETS}]\n"
    before = parse_topology(text)
    space = before.keyspaces["tenants"]
    assert [space.partitioning.bucket(key) in space.move_by_bucket for key in (6, 0)] == [True, False]
    after = parse_topology(text.replace(old, new))
    assert after != before
    if not told:
        check_moves_stay(after, before)
        return
    with pytest.raises(EditRefused) as caught:
        check_moves_stay(after, before)
    assert told in caught.value.message and "shardpool move" in str(caught.value.hint)


def test_a_move_is_not_begun_or_ended_by_an_edit_but_by_its_own_step() -> None:
    for before, after, what in ((fleet(), fleet(BUCKETS), "begun"), (fleet(BUCKETS), fleet(), "changed")):
        with pytest.raises(EditRefused, match=f"would be {what}"):
            check_moves_stay(after, before)
        check_moves_stay(after, before, mover=1)
        with pytest.raises(EditRefused):
            check_moves_stay(after, before, mover=2)
    with pytest.raises(EditRefused, match="move 1"):
        check_moves_stay(renamed(fleet(BUCKETS), {"s1": "west"}), fleet(BUCKETS))


def test_numbers_of_buckets_that_are_others_by_a_split_elsewhere_are_no_change() -> None:
    last = "{number: 3, keyspace: events, range: {from: 2026-01-01}, from: s1, to: s0, state: copying}"
    split = FLEET.replace("[{below: 2025-01-01", "[{below: 2024-01-01, shard: s0}, {below: 2025-01-01")
    check_moves_stay(fleet(last, text=split), fleet(last))
    shorter = FLEET.replace("{shard: s1}]", "{below: 2030-01-01, shard: s1}]")
    with pytest.raises(EditRefused, match="move 3"):
        check_moves_stay(fleet(last, text=shorter), fleet(last))


def test_what_was_handed_over_is_no_change_of_owner_to_be_counted() -> None:
    after = FLEET.replace("{s0: 0-7, s1: 8-15}", "{s0: [4, 6-7], s1: [0-3, 5, 8-15]}").replace("audit: s0", "audit: s1")
    table = "{number: 5, table: audit, from: s0, to: s1, state: guarded}"
    old = fleet(BUCKETS.replace("copying", "guarded"), table)
    new = fleet(BUCKETS.replace("copying", "moved"), table.replace("guarded", "moved"), text=after)
    assert sum(move.buckets for move in moves(old, new)) == 5
    assert moves(handed_over(old, new), new) == []
    assert handed_over(old, new).single_tables == {"public.audit": "s1"}
    assert moves(handed_over(fleet(BUCKETS), new), new) != [], "what was not handed over is counted"
