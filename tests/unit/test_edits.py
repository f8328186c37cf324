"""Edits of a topology file's text: exactly the lines that they touch, and what changes in words."""

from __future__ import annotations

from collections.abc import Callable
from difflib import ndiff
from pathlib import Path
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardpool import EditRefused, Topology, parse_topology
from shardpool import edits as e
from shardpool.changes import describe_changes, moves
from shardpool.config import edit_text, file_data, locked, value_data
from shardpool.partitioning.hash_file import runs, written_range
from tests.timing import in_time

TEXT = """\
# The shop.
version: 1                 # of this format
fleet: shop
epoch: 12                  # grows

defaults:
  connect: {dbname: shop, user: app, sslmode: disable}   # all of them
shards:
  s0:
    primary: {host: pg-0, port: 5432}
    replicas: [{host: pg-0b, max_lag: 5s}]   # reads
  s1: {primary: "postgresql://pg-1:5432/shop"}     # a URL will do
  s2: {primary: {host: pg-2}, pool: {max_size: 20}}
  # the last one
  s3: {primary: {host: pg-3}}

keyspaces:
  tenants:
    key: bigint
    hash:
      buckets: 4096        # for ever
      owners: {s0: 0-1023, s1: 1024-2047, s2: [2048-3000, 3003], s3: [3001-3002, 3004-4095]}
    pinned: {17: s3}       # a key with a home of its own
    tables: {orders: tenant_id}
  events:
    key: date
    range:
      - {below: 2025-01-01, shard: s0}
      - {below: 2026-01-01, shard: s1}   # last year
      - {shard: s2}        # the rest
    tables: {events: day}
  regions:
    key: text
    list: {s0: [de, fr], s1: [us, ca]}
    default: s2
    tables: {stores: region}
single_tables: {audit_log: s0}
"""


def parse(text: str) -> Topology:
    return parse_topology(text, env={})


def changed(before: str, after: str) -> list[str]:
    """The lines that are not as they were: `- ` gone, `+ ` new."""
    return [line for line in ndiff(before.splitlines(), after.splitlines()) if line[0] in "-+"]


def edited(make: Callable[[Any, Topology], list[e.Operation]], text: str = TEXT) -> tuple[list[str], Topology]:
    after = edit_text(text, make(file_data(text), parse(text)))
    return changed(text, after), parse(after)


def test_a_value_is_set_on_its_own_line() -> None:
    lines, topology = edited(lambda data, _: e.put(data, "shards.s2.pool.max_size".split("."), 30))
    assert lines == [
        "-   s2: {primary: {host: pg-2}, pool: {max_size: 20}}",
        "+   s2: {primary: {host: pg-2}, pool: {max_size: 30}}",
    ]
    assert topology.shards["s2"].primary.pool.max_size == 30


def test_a_value_is_set_where_nothing_stood() -> None:
    lines, topology = edited(lambda data, _: e.put(data, "shards.s3.pool.max_size".split("."), 5))
    assert [line for line in lines if line[0] == "+"] == ["+   s3: {primary: {host: pg-3}, pool: {max_size: 5}}"]
    assert topology.shards["s3"].primary.pool.max_size == 5
    lines, topology = edited(lambda data, _: e.put(data, "shards.s0.replicas.0.max_lag".split("."), value_data("2s")))
    assert topology.shards["s0"].replicas[0].max_lag == 2 and len(lines) == 2


def test_a_path_that_leads_nowhere_is_refused() -> None:
    with pytest.raises(EditRefused, match=r"shards\.s0\.replicas\.7"):
        e.put(file_data(TEXT), "shards.s0.replicas.7.host".split("."), "x")


def test_text_that_readers_disagree_on_is_quoted() -> None:
    for value in ("no", "010", "a: b", "x # y", "12:30", "", "{", "- a", "[1"):
        after = edit_text(TEXT, [e.Put(("fleet",), value)])
        assert file_data(after)["fleet"] == value


def test_a_shard_is_added_below_the_last_and_removed_again() -> None:
    lines, topology = edited(lambda _, old: e.add_shard(old, "s4", {"primary": {"host": "pg-4", "port": 5433}}))
    assert lines == ["+   s4: {primary: {host: pg-4, port: 5433}}"]
    with pytest.raises(EditRefused, match="already"):
        e.add_shard(topology, "s4", {})
    with pytest.raises(EditRefused, match="1024 buckets of keyspace tenants, 1 bucket of keyspace events"):
        e.remove_shard(file_data(TEXT), parse(TEXT), "s0")


def test_a_pin_is_added_changed_and_taken_away() -> None:
    def pin(key: object, shard: str | None) -> Callable[[Any, Topology], list[e.Operation]]:
        return lambda data, old: e.pin(data, old, old.keyspaces["tenants"], key, shard)

    lines, topology = edited(pin("42", "s1"))
    assert lines[-1].startswith("+     pinned: {17: s3, 42: s1}       # a key")
    assert topology.keyspaces["tenants"].shard_by_bucket[-1] == "s1"
    assert edited(pin(17, "s0"))[0][-1].startswith("+     pinned: {17: s0}       # a key")
    assert edited(pin(17, None))[1].keyspaces["tenants"].partitioning.bucket_count == 4096
    with pytest.raises(EditRefused, match="not pinned"):
        edited(pin(18, None))


@pytest.mark.parametrize("empty", ["{}", "[]"])
def test_a_pin_is_added_where_the_last_was_taken_away(empty: str) -> None:
    text = TEXT.replace("pinned: {17: s3} ", f"pinned: {empty} ")
    lines, _ = edited(lambda data, old: e.pin(data, old, old.keyspaces["tenants"], 42, "s1"), text)
    assert lines[-1].startswith("+     pinned: {42: s1}")


def test_a_range_is_split_at_a_key() -> None:
    lines, topology = edited(lambda d, old: e.split(d, old, old.keyspaces["events"], "2027-01-01", "s3"))
    assert lines[0] == "+       - {below: 2027-01-01, shard: s2}"
    assert lines[-1].startswith("+       - {shard: s3}        # the rest")
    assert topology.keyspaces["events"].shard_by_bucket == ("s0", "s1", "s2", "s3")
    told = list(map(str, moves(parse(TEXT), topology)))
    assert told == ["keyspace events: keys from 2027-01-01: s2 → s3"]
    for key in ("2026-01-01", "2025-01-01"):
        with pytest.raises(EditRefused, match="ends at that key already"):
            edited(lambda d, old, key=key: e.split(d, old, old.keyspaces["events"], key, None))  # type: ignore[misc]


def test_a_shard_is_renamed_wherever_it_stands_and_nothing_moves() -> None:
    lines, topology = edited(lambda data, old: e.rename_shard(data, old, "s0", "west"))
    assert len([line for line in lines if line[0] == "+"]) == 5
    assert moves(parse(TEXT), topology) == []
    assert describe_changes(parse(TEXT), topology) == ["shard s0 is called west"]


def test_a_shard_is_drained_into_the_others() -> None:
    lines, topology = edited(lambda data, old: e.drain_shard(data, old, "s3", ["s0", "s1"]))
    assert all("s3" not in keyspace.owning_shards for keyspace in topology.keyspaces.values())
    assert len([line for line in lines if line[0] == "+"]) == 2
    found = moves(parse(TEXT), topology)
    assert sum(move.buckets for move in found) == 1094 + 1
    assert {(move.source, move.target) for move in found} == {("s3", "s0"), ("s3", "s1")}
    for shard in ("s0", "s1", "s2"):
        _, topology = edited(lambda data, old, shard=shard: e.drain_shard(data, old, shard, []))  # type: ignore[misc]
        assert all(shard not in keyspace.owning_shards for keyspace in topology.keyspaces.values())


def test_what_is_kept_stays_with_a_drained_shard() -> None:
    kept = {"tenants": {3001, 3010, 3011, 4096}, "events": {1}, "regions": {3, 4}}
    _, topology = edited(lambda data, old: e.drain_shard(data, old, "s3", ["s0"], kept))
    after = topology.keyspaces["tenants"].shard_by_bucket
    assert [at for at, shard in enumerate(after) if shard == "s3"] == [3001, 3010, 3011, 4096]
    _, topology = edited(lambda data, old: e.drain_shard(data, old, "s1", ["s0"], kept))
    assert topology.keyspaces["events"].shard_by_bucket == ("s0", "s1", "s2")
    regions = topology.keyspaces["regions"].partitioning
    assert [topology.keyspaces["regions"].shard_by_bucket[regions.bucket(key)] for key in ("us", "ca")] == ["s0", "s1"]
    with pytest.raises(EditRefused, match="all that shard s3 owns holds rows"):
        edited(lambda data, old: e.drain_shard(data, old, "s3", [], {"tenants": range(5000)}))


def test_a_table_with_a_schema_is_named_by_a_path() -> None:
    _, topology = edited(lambda data, _: e.put(data, "single_tables.sales.log".split("."), "s1"))
    assert topology.single_tables["sales.log"] == "s1"
    text = TEXT.replace("{audit_log: s0}", "{sales.log: s0}")
    _, topology = edited(lambda data, _: e.put(data, "single_tables.sales.log".split("."), "s2"), text)
    assert topology.single_tables == {"sales.log": "s2"}


def test_owners_that_are_written_with_a_variable_are_left_to_people() -> None:
    text = TEXT.replace("s0: 0-1023,", "s0: '${OWNED:-0-1023}',")
    with pytest.raises(EditRefused, match="written with a variable"):
        edited(lambda data, old: e.drain_shard(data, old, "s3", ["s0"]), text)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 3), min_size=64, max_size=64), st.integers(0, 3), st.booleans())
def test_draining_leaves_every_bucket_with_exactly_one_owner(owners: list[int], drained: int, block: bool) -> None:
    def entries(shard: int) -> list[str]:
        return [str(written_range(*run)) for run in runs(at for at, own in enumerate(owners) if own == shard)]

    lines = ["version: 1", "fleet: f", "epoch: 1", "shards:"]
    lines += [f"  s{n}: {{primary: {{host: h{n}, sslmode: disable}}}}" for n in range(4)]
    lines += ["keyspaces:", "  t:", "    key: bigint", "    hash:", "      buckets: 64", "      owners:"]
    for shard in range(4):
        if block and entries(shard):
            lines += [f"        s{shard}:", *(f"          - {entry}   # {entry}" for entry in entries(shard))]
        else:
            lines.append(f"        s{shard}: [{', '.join(entries(shard))}]")
    text = "\n".join(lines) + "\n"
    if drained not in owners:
        return
    _, topology = edited(lambda data, old: e.drain_shard(data, old, f"s{drained}", []), text)
    after = topology.keyspaces["t"].shard_by_bucket
    assert f"s{drained}" not in after
    assert all(after[at] == f"s{owner}" for at, owner in enumerate(owners) if owner != drained)


def test_words_tell_settings_and_hide_passwords() -> None:
    other = TEXT.replace("user: app", "user: web, password: s3cr3t").replace(
        "pool: {max_size: 20}", "pool: {max_size: 9}"
    )
    told = describe_changes(parse(TEXT), parse("plain_passwords: allow\n" + other))
    assert "shard s2: primary.pool.max_size: 20 → 9" in told
    assert "shard s3: primary.user: app → web" in told
    assert "shard s3: primary: its password comes from elsewhere, or is another" in told
    assert "s3cr3t" not in str(told)


def test_a_way_of_placing_keys_cannot_change() -> None:
    from shardpool.changes import check_successor_file

    other = parse(TEXT.replace("buckets: 4096 ", "function: postgres\n      buckets: 4096 "))
    with pytest.raises(EditRefused, match="place its keys in another way"):
        check_successor_file(other, parse(TEXT))


def test_anchors_are_left_to_people() -> None:
    text = TEXT.replace("pool: {max_size: 20}", "pool: &big {max_size: 20}").replace(
        "s3: {primary: {host: pg-3}}", "s3: {primary: {host: pg-3}, pool: *big}"
    )
    with pytest.raises(EditRefused, match="cannot be made in place"):
        edit_text(text, e.put(file_data(text), "shards.s3.pool.max_size".split("."), 5))
    after = edit_text(text, [e.Put(("epoch",), 13)])
    assert len(changed(text, after)) == 2


def test_a_file_of_4096_entries_is_edited_quickly(tmp_path: Path) -> None:
    owners = [
        f"        s{n}:\n" + "".join(f"          - {at}   # {at}\n" for at in range(n, 4096, 4)) for n in range(4)
    ]
    start, end = TEXT.index("      owners:"), TEXT.index("    pinned:")
    text = TEXT[:start] + "      owners:\n" + "".join(owners) + TEXT[end:]
    path = tmp_path / "topology.yaml"
    path.write_text(text, encoding="utf-8")
    taken = min(seconds_to_set(path, size) for size in (30, 31, 32))
    gone = set(text.splitlines()) - set(path.read_text(encoding="utf-8").splitlines())
    assert gone == {"epoch: 12                  # grows", "  s2: {primary: {host: pg-2}, pool: {max_size: 20}}"}
    assert len(text.splitlines()) == len(path.read_text(encoding="utf-8").splitlines())
    in_time(taken, 0.3)


def seconds_to_set(path: Path, size: int) -> float:
    """Of the processor: others use the machine as well."""
    begun = process_time()
    with locked(path) as file:
        before = file.read()
        old = parse(before.text)
        value = e.put(file_data(before.text), "shards.s2.pool.max_size".split("."), size)
        after = edit_text(before.text, [e.Put(("epoch",), old.epoch + 1), *value])
        assert describe_changes(old, parse(after))
        file.replace(before, after)
    return process_time() - begun
