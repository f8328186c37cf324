"""Topologies that are not what the shards know: refused, whichever way they come, before they hide a row."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from shardpool import OtherMap, Router, ScatterError, ShardUnavailable, StaleTopology, load_topology
from shardpool.events import NewerEpochSeen, ReloadFailed
from shardpool.topology import owner_ranges
from tests.integration.test_reload_file import Told, until
from tests.timing import SLOW

# Each changes where some keys are, and none needs a table or a row to be elsewhere for the file to be valid.
CHANGES = {
    "owners": ("s0: 0-1023, s1: 1024-2047", "s1: 0-1023, s0: 1024-2047"),
    "a pin": ("pinned: {17: s3}", "pinned: {17: s2}"),
    "another pin": ("pinned: {17: s3}", "pinned: {18: s3}"),
    "no pin": ("    pinned: {17: s3}\n", ""),
    "a bound": ("below: 2025-01-01", "below: 2025-01-02"),
    "a range's owner": ("below: 2025-01-01, shard: s0", "below: 2025-01-01, shard: s1"),
    "listed keys": ("list: {s0: [de, fr], s1: [us, ca]}", "list: {s0: [de, us], s1: [fr, ca]}"),
}


def changed(path: str, change: str, to: Path, epoch: int | None = None) -> str:
    text = Path(path).read_text(encoding="utf-8")
    before, after = CHANGES[change]
    assert before in text
    text = text.replace(before, after)
    to.write_text(text if epoch is None else re.sub("epoch: .*", f"epoch: {epoch}", text), encoding="utf-8")
    return str(to)


def test_a_file_of_the_same_epoch_that_places_keys_otherwise_is_refused_with_both_maps(
    topology_path: str, tmp_path: Path, router: Router
) -> None:
    router.execute("insert into orders values (17, 1, 'there')")
    good = router.topology
    for change in CHANGES:
        with Router(changed(topology_path, change, tmp_path / "other.yaml")) as other:
            with pytest.raises(StaleTopology, match="other owners of keys") as raised:
                other.execute("select * from orders where tenant_id = 17")
            assert isinstance(raised.value, ShardUnavailable) and raised.value.applied == "no"
            name = next(n for n, k in other.topology.keyspaces.items() if k.map_digest != good.keyspaces[n].map_digest)
            detail = raised.value.detail or ""
            assert "both are of epoch 5" in detail and f"keyspace {name}" in detail
            assert good.keyspaces[name].map_digest in detail
            assert other.topology.keyspaces[name].map_digest in detail
            with pytest.raises(StaleTopology):
                other.for_key(17, table="orders").execute("insert into orders values (17, 2, 'elsewhere')")
            for partial in (False, True):
                with pytest.raises(ScatterError) as scattered:
                    other.scatter("select count(*) from orders", partial=partial)
                assert {type(error) for error in scattered.value.failures.values()} == {OtherMap}
        with pytest.raises(StaleTopology, match="has the same epoch 5"):
            router.reload(load_topology(tmp_path / "other.yaml"))
    assert router.execute("select n from orders").rows == [(1,)]


# Of the same owners and epoch: each writes rows of a table where others do not look for them. By change what is put for
# what, the table, and where the shards have it.
PLACEMENTS = {
    "another column": ({"{orders: tenant_id}": "{orders: 'n'}"}, "orders", "in tenants by tenant_id"),
    "another keyspace": (
        {"{stores: region}": "{stores: region, countries: code}", "reference_tables: [countries]\n": ""},
        "countries",
        "a reference table",
    ),
    "a reference table": (
        {"[countries]": "[countries, audit_log]", "single_tables: {audit_log: s0}\n": ""},
        "audit_log",
        "on s0",
    ),
    "another shard": ({"{audit_log: s0}": "{audit_log: s1}"}, "audit_log", "on s0"),
}


def placed_otherwise(path: str, change: str, to: Path, epoch: int = 5) -> str:
    text = Path(path).read_text(encoding="utf-8")
    for before, after in PLACEMENTS[change][0].items():
        assert before in text
        text = text.replace(before, after)
    to.write_text(re.sub("epoch: .*", f"epoch: {epoch}", text), encoding="utf-8")
    return str(to)


@pytest.mark.parametrize("change", PLACEMENTS)
def test_a_file_that_places_a_table_otherwise_is_refused_until_the_shards_know_it(
    change: str, topology_path: str, tmp_path: Path, router: Router
) -> None:
    _, table, there = PLACEMENTS[change]
    path = placed_otherwise(topology_path, change, tmp_path / "other.yaml")
    with Router(path) as other:
        for call in (lambda: other.execute("select 1"), lambda: other.shard("s2").execute("select 1")):
            with pytest.raises(StaleTopology, match="other placements of tables") as raised:
                call()
            assert f"table public.{table} is {there} there" in (raised.value.detail or "")
            assert "both are of epoch 5" in (raised.value.detail or "")
        assert any(table in finding.message and finding.level == "error" for finding in other.check().findings)
        with pytest.raises(ScatterError, match="is placed otherwise on this shard"):
            other.init()
    later = load_topology(placed_otherwise(topology_path, change, tmp_path / "later.yaml", epoch=6))
    with pytest.raises(StaleTopology, match="other placements of tables"):
        router.reload(later)
    with Router(later) as installer:
        installer.init()
        assert len(installer.scatter("select 1")) == 4
    router.reload(later)
    assert len(router.scatter("select 1")) == 4
    with Router(topology_path) as older:
        older.shard("s1").execute("select 1")
        assert older.topology.placement(table) == later.placement(table), "it goes over to what the shards know"
    with Router(load_topology(topology_path)) as older, pytest.raises(StaleTopology, match="newer epoch"):
        older.shard("s1").execute("select 1")


def test_a_file_in_which_another_shard_numbers_rows_is_refused(topology_path: str, tmp_path: Path) -> None:
    """Two routers that each draw from another shard would give the same ids."""
    text = Path(topology_path).read_text(encoding="utf-8")
    head, first, second, rest = re.split(r"(?m)^(?=  s[012]:$)", text, maxsplit=3)
    path = tmp_path / "other.yaml"
    path.write_text(head + second + first + rest, encoding="utf-8")
    with Router(path) as other:
        with pytest.raises(StaleTopology, match="other placements of tables") as raised:
            other.execute("select 1")
        assert "the sequence that numbers rows is on s0 there, on s1 here" in (raised.value.detail or "")
        with pytest.raises(ScatterError, match="is placed otherwise on this shard"):
            other.init()


def test_tables_that_only_one_side_knows_are_no_contradiction(topology_path: str, tmp_path: Path) -> None:
    """A table is added to the file of some processes, and taken out of that of others, without an epoch."""
    text = Path(topology_path).read_text(encoding="utf-8")
    more, fewer = tmp_path / "more.yaml", tmp_path / "fewer.yaml"
    more.write_text(text.replace("{orders: tenant_id}", "{orders: tenant_id, items: tenant_id}"), encoding="utf-8")
    fewer.write_text(text.replace("{events: day}", "{}"), encoding="utf-8")
    for path in (more, fewer):
        with Router(path) as other:
            assert len(other.scatter("select 1")) == 4
            other.init()
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(text.replace("{orders: tenant_id}", "{orders: tenant_id, items: id}"), encoding="utf-8")
    with Router(wrong) as other, pytest.raises(StaleTopology, match="other placements of tables"):
        other.shard("s0").execute("select 1")
    with Router(topology_path) as router:
        router.scatter("update shardpool.meta set tables = null")
    with Router(wrong) as other:
        assert len(other.scatter("select 1")) == 4


def test_check_says_of_other_owners_what_the_refusal_of_a_call_says(topology_path: str, tmp_path: Path) -> None:
    for epoch in (None, 6):
        with Router(changed(topology_path, "owners", tmp_path / "other.yaml", epoch)) as other:
            with pytest.raises(StaleTopology) as raised:
                other.execute("select * from orders where tenant_id = 17")
            found = [finding for finding in other.check().findings if "the owners of" in finding.message]
            assert found and {finding.hint for finding in found} == {raised.value.hint}


def test_a_file_with_a_raised_epoch_is_taken_over_when_the_shards_know_it(topology_path: str, tmp_path: Path) -> None:
    told = Told()
    with Router(topology_path, reload_interval=0.1, observers=[told]) as router:
        before = router.topology
        router.scatter("select 1")
        copy = tmp_path / "copy.yaml"
        for change in CHANGES:
            changed(topology_path, change, copy, epoch=6)
            with pytest.raises(StaleTopology, match="other owners of keys") as raised:
                router.reload(load_topology(copy))
            assert "the shard is of epoch 5, the topology of epoch 6" in (raised.value.detail or "")
            with Router(copy) as fresh, pytest.raises(StaleTopology):
                fresh.shard("s3").execute("select 1")
        changed(topology_path, "a pin", Path(topology_path), epoch=6)
        until(lambda: told.of(ReloadFailed))
        assert "other owners of keys" in router.stats()["reload"]["last_error"]
        assert router.topology.epoch == before.epoch and len(router.scatter("select 1")) == 4
        with Router(topology_path) as installer:
            installer.init()
        router.reload()
        assert router.topology.epoch == 6
        assert router.for_key(17, table="orders").execute("select 1").shards == ("s2",)
        assert router.check().ok


def test_init_takes_new_maps_of_several_keyspaces_at_once(topology_path: str, tmp_path: Path) -> None:
    path = changed(topology_path, "another pin", tmp_path / "one.yaml")
    path = changed(path, "a bound", tmp_path / "both.yaml", epoch=6)
    with Router(path) as router:
        router.init()
        assert router.check().ok


def test_init_refuses_other_pins_of_the_same_epoch(topology_path: str, tmp_path: Path) -> None:
    """The owners alone are the same: what is another key's is its bucket."""
    with Router(changed(topology_path, "another pin", tmp_path / "other.yaml")) as other:
        with pytest.raises(ScatterError, match="other pins, bounds or listed keys"):
            other.init()
        assert {finding.level for finding in other.check().findings if "map" in finding.message} == {"error"}
    with Router(topology_path) as router:
        assert router.check().ok


def test_shards_that_are_down_do_not_keep_a_router_from_a_topology(topology_path: str) -> None:
    """Which shard is asked is chance: whichever it is, another one answers."""
    with Router(topology_path) as router:
        pinned = replace_pin(router.topology, 6)
        with Router(pinned) as installer:
            installer.init()
        down = pinned.shards["s0"].primary
        gone = replace(down, params=tuple(sorted({**dict(down.params), "port": "1"}.items())))
        pinned = replace(pinned, shards={**pinned.shards, "s0": replace(pinned.shards["s0"], primary=gone)})
        assert router.reload(pinned).epoch == 6
        assert router.for_key(17, table="orders").shard == "s2"


def test_a_topology_that_no_shard_has_confirmed_uses_no_connection_of_before(topology_path: str) -> None:
    locked = False

    def passwords(shard: str, endpoint: str) -> None:
        if locked:
            raise LookupError

    with Router(topology_path, passwords=passwords) as router:
        query = "select pg_backend_pid()"
        before = {shard: result.one() for shard, result in router.scatter(query).items()}
        locked = True
        router.reload(replace_pin(router.topology, 6))
        assert router.topology.epoch == 6
        locked = False
        # The shards do not know it: no call gets through to one.
        with pytest.raises(ShardUnavailable):
            router.shard("s0").execute(query)
        with Router(router.topology) as installer:
            installer.init()
        after = until(lambda: well(router, query))
        assert not set(before.values()) & set(after.values())


def well(router: Router, query: str) -> Any:
    try:
        return {shard: result.one() for shard, result in router.scatter(query).items()}
    except ScatterError:
        return None


def replace_pin(topology: Any, epoch: int) -> Any:
    """Key 17 of the tenants is on s2, by a topology of that epoch."""
    space = topology.keyspaces["tenants"]
    shards = (*space.shard_by_bucket[:-1], "s2")
    owners = owner_ranges(shards, (*space.epoch_by_bucket[:-1], epoch))
    return replace(topology, epoch=epoch, keyspaces={**topology.keyspaces, "tenants": replace(space, owners=owners)})


def test_a_router_that_is_left_behind_refuses_what_has_moved_as_soon_as_one_connection_is_told(
    topology_path: str,
) -> None:
    """Its open connections would read nothing where rows were, and change none."""
    with Router(load_topology(topology_path)) as behind, Router(topology_path) as ahead:
        everywhere = behind.scatter("select 1")  # a connection to each, under the map of before
        behind.explain("select count(*) from orders")  # nor is a new one made to ask for tables
        kept = behind.for_key(17, table="orders")
        assert kept.execute("select count(*) from orders where tenant_id = 17").one() == (0,)
        newer = replace_pin(behind.topology, 6)
        with Router(newer) as installer:
            installer.init()
            installer.for_key(17, table="orders").execute("insert into orders values (17, 1, 'there')")
        told_on_a_new_connection(behind, "s1")
        lost = [
            lambda: kept.execute("select * from orders where tenant_id = 17"),
            lambda: behind.for_key(17, table="orders").execute("update orders set note = 'x' where tenant_id = 17"),
            lambda: behind.for_key(17, table="orders").transaction().__enter__(),
            lambda: behind.execute("delete from orders where tenant_id = 17"),
            lambda: behind.execute("insert into orders values (17, 3, 'lost')"),
            lambda: behind.execute("insert into orders values (17, 3, 'lost'), (18, 3, 'lost')"),
            lambda: behind.execute("select count(*) from orders"),
            lambda: behind.execute("select 1", key=17, table="orders"),
            lambda: list(behind.stream("select * from orders")),
            lambda: behind.copy_into("orders", [(17, 2, "x")], columns=["tenant_id", "n", "note"]),
            lambda: behind.for_keys([17], table="orders"),
        ]
        for call in lost:
            with pytest.raises(StaleTopology, match="keys of keyspace tenants are elsewhere by now") as raised:
                call()
            assert "Shard s1 is of epoch 6, and this topology is of epoch 5" in (raised.value.detail or "")
        # What has not moved goes on, on the connections that there are.
        assert behind.for_key("de", table="stores").execute("select count(*) from stores").one() == (0,)
        assert len(everywhere) == 4
        behind.reload(newer)
        assert behind.execute("select note from orders").rows == [("there",)]
        assert kept.execute("select n from orders where tenant_id = 17").rows == [(1,)]
        assert ahead.topology.epoch == 5


def told_on_a_new_connection(router: Router, shard: str) -> None:
    """Those that are open are lent, until one is made."""
    lent = []
    with pytest.raises(OtherMap, match="newer epoch"):
        for _ in range(10):
            lent.append(router.shard(shard).getconn(20))
    for conn in lent:
        router.shard(shard).putconn(conn)


def test_calls_wait_for_the_file_when_one_connection_is_told_of_a_newer_map(topology_path: str) -> None:
    with Router(topology_path, reload_interval=60) as router:
        router.scatter("select 1")
        newer = replace_pin(router.topology, 6)
        with Router(newer) as installer:
            installer.init()
            installer.for_key(17, table="orders").execute("insert into orders values (17, 1, 'there')")
        changed(topology_path, "a pin", Path(topology_path), epoch=6)
        lent = [router.shard("s1").getconn(20) for _ in range(3)]
        assert router.topology.epoch == 6
        for conn in lent:
            router.shard("s1").putconn(conn)
        assert router.execute("select note from orders where tenant_id = 17").rows == [("there",)]


def test_every_call_of_a_router_that_knows_itself_behind_waits_until_it_is_not(topology_path: str) -> None:
    """Also those that look up keys before they take a connection, and a transaction that is begun again."""

    sql = "select note from orders where note <> ''"

    def in_a_transaction(tx: Any) -> list[Any]:
        return [tx.execute("select count(*) from countries").one(), *tx.execute(sql).rows]

    def by_key_in_a_transaction(router: Router) -> list[Any]:
        with router.transaction() as tx:
            return list(tx.execute(sql, key=17, table="orders").rows)

    def on_a_connection(router: Router) -> list[Any]:
        with router.transaction() as tx:
            return tx.connection(17, table="orders").execute(sql).fetchall()

    def of_tenant_17(conn: Any, key: int) -> Any:
        return conn.execute(sql).fetchone()

    there: list[Any] = [("there",)]
    orders: dict[str, Any] = {"key": lambda key: key, "table": "orders"}
    calls: list[tuple[Callable[[Router], Any], Any]] = [
        (lambda router: router.run(in_a_transaction), [(0,), *there]),
        (by_key_in_a_transaction, there),
        (on_a_connection, there),
        (lambda router: list(router.stream(sql)), there),
        (lambda router: router.scatter(sql, keys=[17], table="orders")["s2"].rows, there),
        (lambda router: router.map(of_tenant_17, [17], **orders), there),
        (lambda router: router.map(of_tenant_17, [17], per="shard", **orders), there),
        (lambda router: router.map(of_tenant_17, [17], per="all", **orders), there),
        (lambda router: router.copy_into("orders", [(17, 2, "")], columns=["tenant_id", "n", "note"])["s2"], 1),
    ]
    path = Path(topology_path)
    path.write_text(f"{path.read_text(encoding='utf-8')}topology: file\n", encoding="utf-8")
    with ExitStack() as stack:
        routers = [stack.enter_context(Router(topology_path, reload_interval=60)) for _ in calls]
        for router in routers:
            router.scatter("select 1")
        newer = replace_pin(routers[0].topology, 6)
        with Router(newer) as installer:
            installer.init()
            installer.for_key(17, table="orders").execute("insert into orders values (17, 1, 'there')")
        for router in routers:
            # As each new connection tells it.
            router._fleet.observers.observe(
                NewerEpochSeen(shard="s1", endpoint="primary", epoch=6, keyspaces=("tenants",))
            )
        with ThreadPoolExecutor(len(calls)) as threads:
            going_on = [threads.submit(call, router) for (call, _), router in zip(calls, routers, strict=True)]
            assert not wait(going_on, 0.3).done
            changed(topology_path, "a pin", Path(topology_path), epoch=6)
            for future, (_, expected) in zip(going_on, calls, strict=True):
                assert future.result(SLOW) == expected
