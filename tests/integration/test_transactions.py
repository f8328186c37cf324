"""Writes on several shards: on all of them or on none; what is left behind, and who ends it."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from click.testing import CliRunner
from psycopg.pq import TransactionStatus

from shardpool import (
    BatchError,
    ItemRolledBack,
    LoadError,
    Router,
    RoutingError,
    ScatterError,
    TransactionForgotten,
    UnsupportedQuery,
)
from shardpool.cli.app import shardpool
from shardpool.control.locks import TRANSACTION_CLASS
from shardpool.control.transactions import BEHIND_GATE, CLOSE_GATE, OPEN_GATE
from shardpool.local import LocalFleet
from shardpool.local.reaper import watch

KEYSPACES = """\
defaults: {timeout: 60s}
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    tables: {accounts: id}
reference_tables: [countries]
"""
SCHEMA = """\
create table accounts (id bigint primary key, v int not null check (v >= 0));
create table countries (code text primary key, name text);
"""
KEYS = range(12)
RECORDS = "select count(*)::int from shardpool.tx"
PREPARED = "select count(*)::int from pg_prepared_xacts where database = current_database()"
UPDATE = "update accounts set v = v + 1"


@pytest.fixture
def path(shardpool_make_topology: Callable[..., Path]) -> str:
    return str(shardpool_make_topology(KEYSPACES, SCHEMA))


@pytest.fixture
def bank(path: str) -> Iterator[Router]:
    with Router(path) as router:
        router.execute(f"insert into accounts values {', '.join(f'({key}, 100)' for key in KEYS)}")
        yield router


def counts(router: Router, query: str) -> dict[str, int]:
    return {name: result.rows[0][0] for name, result in router.scatter(query).items()}


def key_on(router: Router, shard: str) -> int:
    return next(key for key in KEYS if router.for_key(key).shard == shard)


def leave(router: Router, home: str, others: list[str], *, decided: bool, number: str = "0190" * 8) -> str:
    """A transaction that adds 1000 to an account of each shard, left as by a router that is gone; its id."""
    name = f"sp:{router.topology.fleet}:{home}:{number}"
    with router.shard(home).connection() as conn:
        conn.execute("insert into shardpool.tx (id, others) values (%s, %s)", (name, others))
        conn.execute("update accounts set v = v + 1000 where id = %s", (key_on(router, home),))
        if not decided:
            conn.rollback()
    for place, other in enumerate(others, 1):
        with router.shard(other).connection() as conn:
            conn.execute("update accounts set v = v + 1000 where id = %s", (key_on(router, other),))
            conn.execute(f"prepare transaction '{name}:{place}'")
    return name


def test_a_write_on_several_shards_leaves_a_record_on_its_home_and_nothing_prepared(bank: Router) -> None:
    before = counts(bank, RECORDS)
    bank.execute(UPDATE)
    bank.execute("insert into countries values ('de', 'Germany')", atomic=True)
    after = counts(bank, RECORDS)
    assert {name: after[name] - before[name] for name in after} == {"s0": 2, "s1": 0, "s2": 0, "s3": 0}
    assert set(counts(bank, PREPARED).values()) == {0}
    assert bank.execute("select sum(v) from accounts").one() == (101 * len(KEYS),)
    assert counts(bank, "select count(*)::int from countries") == dict.fromkeys(bank.shards, 1)


def test_a_write_on_one_shard_leaves_no_record(bank: Router) -> None:
    before = counts(bank, RECORDS)
    bank.execute("update accounts set v = v + 1 where id = 7", atomic=True)
    assert counts(bank, RECORDS) == before


def test_explain_says_that_it_is_one_transaction(bank: Router) -> None:
    plan = bank.explain(UPDATE)
    assert "transaction: one over all shards" in plan.describe()
    assert plan.as_dict()["atomic"] is True
    assert "atomic" not in bank.explain("select count(*) from accounts").as_dict()


@pytest.mark.parametrize(
    ("statement", "why", "hint"),
    [
        ("drop table shardpool.tx", "shard s2 has no table shardpool.tx yet", "shardpool init"),
        ("revoke delete on shardpool.tx from current_user", "may not write shardpool.tx on shard s2", "GRANT INSERT"),
    ],
)
def test_a_shard_that_cannot_take_part_is_named(statement: str, why: str, hint: str, bank: Router, path: str) -> None:
    bank.shard("s2").execute(statement)
    with Router(path) as router:
        plan = router.explain(UPDATE)
        assert "not one over all, because: " in plan.describe() and why in plan.describe()
        assert plan.as_dict()["atomic"] is False
        with pytest.raises(UnsupportedQuery, match="4 shards cannot commit as one") as refused:
            router.execute(UPDATE, atomic=True)
        assert why in str(refused.value) and hint in str(refused.value)
        # Without the wish it is done as far as it can be: a transaction on each.
        assert router.execute(UPDATE).rowcount == len(KEYS)
        # The others do not need that one.
        keys = [key for key in KEYS if router.for_key(key).shard != "s2"]
        assert router.execute("update accounts set v = v + 1 where id = any (%s)", (keys,), atomic=True).rowcount > 0
        assert router.init()["s2"] == "up to date"


@pytest.fixture(scope="module")
def fleet_without() -> Iterator[LocalFleet]:
    """Two servers that allow no prepared transactions."""
    name = f"test-{os.getpid()}-{secrets.token_hex(2)}"
    reaper = watch(name)
    fleet = LocalFleet.up(name, 2, settings={"max_prepared_transactions": "0"})
    try:
        yield fleet
    finally:
        fleet.down()
        reaper.communicate()


def test_without_prepared_transactions_the_setting_to_change_is_told(fleet_without: LocalFleet, tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(f"{Path(fleet_without.topology_path).read_text()}reference_tables: [countries]\n")
    with Router(file) as router:
        router.init()
        router.scatter("create table countries (code text primary key, name text)")
        insert = "insert into countries values ('de', 'Germany')"
        with pytest.raises(UnsupportedQuery) as refused:
            router.execute(insert, atomic=True)
        assert "max_prepared_transactions is 0 on shard s0" in str(refused.value)
        assert "Set max_prepared_transactions" in str(refused.value)
        assert router.explain(insert).apart == "max_prepared_transactions is 0 on shard s0"
        warned = {finding.subject: finding.message for finding in router.check().warnings}
        assert all("max_prepared_transactions is 0" in warned[f"{name}/primary"] for name in router.shards)
        assert router.execute(insert).rowcount == 1


def test_without_prepared_transactions_a_row_follows_its_key_on_its_own_shard_only(
    fleet_without: LocalFleet, tmp_path: Path
) -> None:
    file = tmp_path / "topology.yaml"
    local = Path(fleet_without.topology_path).read_text()
    file.write_text(local.replace("tables: {", "tables: {letters: k, "))
    with Router(file) as router:
        router.init()
        router.scatter("create table letters (k bigint primary key)")
        mine = [key for key in range(100) if router.for_key(key).shard == "s0"]
        other = next(key for key in range(100) if router.for_key(key).shard == "s1")
        router.execute("insert into letters values (%s)", (mine[0],))
        with pytest.raises(UnsupportedQuery, match="shards cannot commit as one") as refused:
            router.execute("update letters set k = %s where k = %s", (other, mine[0]))
        assert "Set max_prepared_transactions" in str(refused.value)
        assert router.execute("update letters set k = k + %s where k = %s", (mine[1] - mine[0], mine[0])).rowcount == 1
        assert router.execute("update letters set k = %s where k = %s", (mine[2], mine[1])).plan.strategy == "one"
        assert router.execute("update letters set k = %s where k > 0 or k = 0", (mine[3],)).rowcount == 1
        assert router.execute("select k from letters").rows == [(mine[3],)]


def test_what_a_router_has_left_is_ended_as_its_home_has_decided(bank: Router) -> None:
    leave(bank, "s1", ["s0", "s3"], decided=True, number="0190" * 8)
    found = {one.home: one for one in bank.in_doubt()}
    assert (found["s1"].state, sorted(found["s1"].parts)) == ("committed", ["s0", "s3"])
    assert not found["s1"].ended and not bank.in_doubt().missing
    assert [one.ended for one in bank.recover()] == [True]
    assert bank.in_doubt() == []
    assert bank.execute("select sum(v) from accounts").one() == (100 * len(KEYS) + 3000,)
    leave(bank, "s2", ["s0"], decided=False, number="0191" * 8)
    assert [(one.state, one.ended) for one in bank.recover()] == [("aborted", True)]
    assert bank.execute("select sum(v) from accounts").one() == (100 * len(KEYS) + 3000,)


def test_what_goes_on_is_left_alone(bank: Router) -> None:
    with bank.shard("s0").transaction() as home:
        name = f"sp:{bank.topology.fleet}:s0:{'0190' * 8}"
        home.execute("insert into shardpool.tx (id, others) values (%s, '{s1}')", (name,))
        with bank.shard("s1").connection() as other:
            other.execute("update accounts set v = v + 1")
            other.execute(f"prepare transaction '{name}:1'")
        assert [(one.id, one.state, one.ended) for one in bank.recover()] == [(name, "running", False)]
        assert bank.transaction_state(name) == "running"
    assert bank.transaction_state(name) == "committed"
    assert [one.state for one in bank.recover(name)] == ["committed"]


def test_a_transaction_of_another_is_ended_only_when_it_is_asked_for(bank: Router) -> None:
    first = leave(bank, "s1", ["s0"], decided=True, number="0190" * 8)
    second = leave(bank, "s2", ["s3"], decided=True, number="0191" * 8)
    assert {one.id: one.ended for one in bank.recover(first)} == {first: True, second: False}
    assert [one.id for one in bank.in_doubt()] == [second]
    bank.recover()


def test_the_state_of_a_transaction_that_is_too_old_is_not_made_up(bank: Router) -> None:
    old = leave(bank, "s1", ["s0"], decided=True, number="018f0000" + "0" * 24)
    assert bank.transaction_state(old) == "committed"
    bank.recover()
    bank.shard("s1").execute("delete from shardpool.tx where id = %s", (old,))
    with pytest.raises(TransactionForgotten, match="not known any more"):
        bank.transaction_state(old)
    with pytest.raises(RoutingError, match="not the id of a transaction"):
        bank.transaction_state("sp:nonsense")
    with pytest.raises(RoutingError, match="is of fleet elsewhere"):
        bank.transaction_state(f"sp:elsewhere:s0:{'0190' * 8}")


def test_records_are_dropped_when_they_are_old_and_nothing_of_them_is_prepared(bank: Router) -> None:
    kept = leave(bank, "s1", ["s0"], decided=True, number="0190" * 8)
    bank.execute(UPDATE + " where id <> %s", (key_on(bank, "s0"),))
    before = counts(bank, RECORDS)
    bank.shard("s1").execute("update shardpool.tx set begun_at = begun_at - interval '2 hours'")
    bank.recover(kept)
    assert counts(bank, RECORDS) == before
    bank.recover()
    after = counts(bank, RECORDS)
    assert after["s1"] == 0 and after["s0"] == before["s0"]


def test_the_commands_show_and_end_what_is_left(bank: Router, path: str) -> None:
    name = leave(bank, "s1", ["s0"], decided=True)

    def told(*arguments: str) -> tuple[int, dict[str, Any]]:
        done = CliRunner().invoke(shardpool, ["transactions", *arguments, "--topology", path, "--json"])
        return done.exit_code, json.loads(done.stdout)

    code, answer = told("list")
    assert code == 0 and answer["unreached"] == {}
    (one,) = answer["transactions"]
    assert (one["id"], one["home"], one["state"], one["ended"]) == (name, "s1", "committed", False)
    assert one["parts"] == {"s0": f"{name}:1"}
    shown = CliRunner().invoke(shardpool, ["transactions", "list", "--topology", path])
    assert name in shown.stdout and "committed" in shown.stdout
    code, answer = told("recover", name)
    assert code == 0 and [one["ended"] for one in answer["transactions"]] == [True]
    assert told("list")[1]["transactions"] == []


def test_a_scatter_that_is_atomic_is_on_all_shards_or_on_none(bank: Router) -> None:
    bank.scatter("create table notes (id int primary key)", atomic=True)
    odd = key_on(bank, "s2")
    with pytest.raises(ScatterError) as raised:
        bank.scatter("update accounts set v = v - case id when %s then 101 else 1 end", (odd,), atomic=True)
    assert set(raised.value.failures) == {"s2"}
    with pytest.raises(ScatterError) as raised:
        bank.scatter(lambda conn: conn.execute(f"update accounts set v = v - 101 where id = {odd}"), atomic=True)
    assert bank.execute("select sum(v) from accounts").one() == (100 * len(KEYS),)
    done = bank.scatter(lambda conn: conn.execute(UPDATE).rowcount, atomic=True, shards=["s1", "s2"])
    assert sum(done.values()) == sum(bank.for_key(key).shard in ("s1", "s2") for key in KEYS)
    assert bank.execute("select sum(v) from accounts").one() == (100 * len(KEYS) + sum(done.values()),)
    with pytest.raises(UnsupportedQuery, match="cannot be partial"):
        bank.scatter("select 1", atomic=True, partial=True)


def test_a_map_over_all_shards_is_done_whole_or_not_at_all(bank: Router) -> None:
    def add(conn: Any, item: tuple[int, int]) -> int:
        return int(conn.execute("update accounts set v = v + %s where id = %s", (item[1], item[0])).rowcount)

    items = [(key, key) for key in KEYS]
    assert bank.map(add, items, key=lambda item: item[0], per="all") == [1] * len(KEYS)
    total = 100 * len(KEYS) + sum(KEYS)
    assert bank.execute("select sum(v) from accounts").one() == (total,)
    items[5] = (5, -1000)
    with pytest.raises(BatchError) as raised:
        bank.map(add, items, key=lambda item: item[0], per="all")
    errors = {failure.index: failure.error for failure in raised.value.failures}
    assert len(errors) == len(KEYS)
    assert isinstance(errors.pop(5), psycopg.errors.CheckViolation)
    assert all(isinstance(error, ItemRolledBack) for error in errors.values())
    with pytest.raises(BatchError):
        bank.map(add, [*items[:5], (None, 1)], key=lambda item: item[0], per="all")
    assert bank.execute("select sum(v) from accounts").one() == (total,)
    assert not bank.in_doubt()


def test_a_load_that_is_atomic_leaves_a_record(bank: Router) -> None:
    before = sum(counts(bank, RECORDS).values())
    rows = [(key, 1) for key in range(1000, 1100)]
    loaded = bank.copy_into("accounts", rows, columns=["id", "v"], atomic=True)
    assert sum(loaded.values()) == 100
    assert sum(counts(bank, RECORDS).values()) == before + 1
    assert bank.execute("select count(*) from accounts").one() == (len(KEYS) + 100,)
    assert bank.copy_into("countries", [("de", "Germany")], columns=["code", "name"], atomic=True)["s3"] == 1
    with pytest.raises(LoadError):
        bank.copy_into("accounts", [(2000, 1), *rows], columns=["id", "v"], atomic=True)
    assert bank.execute("select count(*) from accounts").one() == (len(KEYS) + 100,)
    assert not bank.in_doubt()


def test_what_is_to_be_atomic_is_refused_where_it_would_not_be(bank: Router, path: str) -> None:
    bank.shard("s2").execute("revoke insert on shardpool.tx from current_user")
    with Router(path) as router:
        with pytest.raises(UnsupportedQuery, match="cannot commit as one"):
            router.scatter(UPDATE, atomic=True)
        with pytest.raises(UnsupportedQuery, match="cannot commit as one"):
            router.copy_into("accounts", [(2000, 1)], columns=["id", "v"], atomic=True)
        with pytest.raises(UnsupportedQuery, match="cannot commit as one"):
            router.copy_into("countries", [("fr", "France")], columns=["code", "name"], atomic=True)
        with pytest.raises(BatchError, match="cannot commit as one"):
            router.map(lambda conn, item: None, KEYS, key=lambda key: key, per="all")
        assert router.execute("select sum(v) from accounts").one() == (100 * len(KEYS),)


@pytest.mark.parametrize("cut", ["atomic", "strict"])
def test_a_snapshot_sees_no_half_of_a_transaction(cut: Any, bank: Router) -> None:
    name = leave(bank, "s1", ["s0", "s3"], decided=True)
    query, total = "select sum(v) from accounts", 100 * len(KEYS)
    with bank.transaction(isolation="repeatable read") as tx:
        assert tx.execute(query).one() == (total + 1000,), "of three shards only the home has committed"
    with bank.snapshot(cut=cut) as snap:
        assert snap.execute(query).one() == (total + 3000,)
        bank.execute(UPDATE)
        assert snap.execute(query).one() == (total + 3000,)
        assert snap.execute("select rank() over (order by v desc) from accounts limit 1").one() == (1,)
        with pytest.raises(UnsupportedQuery, match="only reads"):
            snap.execute(UPDATE)
    assert bank.transaction_state(name) == "committed"
    # What is not decided is not waited for, and not seen.
    leave(bank, "s2", ["s0"], decided=False, number="0191" * 8)
    with bank.snapshot(cut=cut) as snap:
        assert snap.execute(query).one() == (total + 3000 + len(KEYS),)
    bank.recover()
    locks = "select count(*)::int from pg_locks where locktype = 'advisory' and classid = 1936749688"
    assert set(counts(bank, locks).values()) == {0}


_TRANSFERS = """
import sys
from random import Random
from shardpool import Router
chance, keys = Random(sys.argv[2]), [int(key) for key in sys.argv[3:]]

def transfer(tx):
    source, target = chance.sample(keys, 2)
    tx.execute("update accounts set v = v - 1 where id = %s", (source,))
    tx.execute("update accounts set v = v + 1 where id = %s", (target,))

with Router(sys.argv[1]) as router:
    done = 0
    while not done or sys.stdin.readline() != "stop\\n":
        for _ in range(5):
            router.run(transfer, timeout=60)
        done += 5
        print(done, flush=True)
"""


def test_snapshots_beside_transfers_of_other_processes_see_the_sum_each_time(bank: Router, path: str) -> None:
    """Each in no order of its own: they meet in deadlocks over shards, too, which `run` gets them out of."""
    keys = [str(key_on(bank, shard)) for shard in bank.shards]
    with ExitStack() as stack:
        others = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _TRANSFERS, path, str(seed), *keys],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for seed in range(2)
        ]
        for other in others:
            stack.callback(other.kill)
        for turn in range(8):
            for other in others:
                assert other.stdin is not None and other.stdout is not None
                assert other.stdout.readline()
                other.stdin.write("stop\n" if turn == 7 else "go on\n")
                other.stdin.flush()
            for number in range(4):
                with bank.snapshot(cut="strict" if number % 2 else "atomic") as snap:
                    assert snap.execute("select sum(v) from accounts").one() == (100 * len(KEYS),)
        assert [other.wait(60) for other in others] == [0, 0]
    assert not bank.in_doubt()


def test_from_the_gate_of_a_snapshot_to_its_end_there_is_always_a_transaction(path: str) -> None:
    """A pooler of transactions gives the session to others else, and with it a lock that nobody lets go."""
    held = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
    with Router(path) as router, router.shard("s0").connection() as conn:
        conn.rollback()
        conn.autocommit = True
        for text, locks in ((CLOSE_GATE, 1), (BEHIND_GATE, 1), (OPEN_GATE, 0)):
            conn.pgconn.exec_(text)
            assert conn.info.transaction_status == TransactionStatus.INTRANS
            assert conn.execute(f"{held} and classid = {TRANSACTION_CLASS}").fetchone() == (locks,)
        assert conn.execute("show transaction_isolation").fetchone() == ("repeatable read",)
        conn.rollback()
        conn.autocommit = False
