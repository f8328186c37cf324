"""Rows that come and go over some time within `router.transaction()`: `stream` and `copy_into`; and savepoints."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from shardpool import AsyncRouter, LoadError, Router, RouterMisuse, UnsupportedQuery

KEYSPACES = """\
defaults: {timeout: 60s}
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    tables: {accounts: id, entries: account}
reference_tables: [countries, stamps]
"""
SCHEMA = """\
create table accounts (id bigint primary key, v int not null check (v >= 0), kind text);
create table entries (
  account bigint not null, n int not null, primary key (account, n),
  foreign key (account) references accounts deferrable initially deferred);
create table countries (code text primary key, name text);
create table stamps (code text primary key, at timestamptz default clock_timestamp());
"""
KEYS = range(12)
ROWS = [(key, 1, "new") for key in range(100, 2100)]
COLUMNS = ["id", "v", "kind"]
COUNT = "select count(*) from accounts"


@pytest.fixture
def path(shardpool_make_topology: Callable[..., Path]) -> str:
    return str(shardpool_make_topology(KEYSPACES, SCHEMA))


@pytest.fixture
def bank(path: str) -> Iterator[Router]:
    with Router(path) as router:
        router.execute(f"insert into accounts values {', '.join(f'({key}, 100)' for key in KEYS)}")
        yield router


def test_rows_are_streamed_with_own_writes(bank: Router) -> None:
    queries = {
        "concatenate": "select id, v from accounts where v > 4999",
        "merge": "select id, v from accounts order by v desc, id",
        "add": "select sum(v), count(*) from accounts",
        "combine": "select kind, count(distinct v) from accounts group by kind order by kind",
        "pull": "select v, rank() over (order by v desc) from accounts order by 2, 1",
        "one": "select id, v from accounts where id = 3",
    }
    with pytest.raises(ZeroDivisionError), bank.transaction() as tx:
        tx.execute("update accounts set v = 5000 + id, kind = 'new' where id in (3, 4, 5)")
        for strategy, query in queries.items():
            assert bank.explain(query).strategy == strategy
            rows = sorted(tx.execute(query).rows, key=str)
            for _ in range(2):
                assert sorted(tx.stream(query, size=2), key=str) == rows, strategy
        tx.execute("update accounts set v = v + 1")
        assert list(tx.stream(queries["one"])) == [(3, 5004)]
        raise ZeroDivisionError
    with bank.transaction() as tx:
        # The first statement of all.
        assert len(list(tx.stream("select id from accounts"))) == len(KEYS)
        with pytest.raises(UnsupportedQuery, match="cannot be streamed"):
            next(tx.stream("update accounts set v = 0 returning v"))
        tx.execute("update accounts set v = v + 1")
    assert bank.execute("select sum(v) from accounts").one() == (101 * len(KEYS),)
    assert not bank.in_doubt()


def test_a_stream_that_is_left_early_leaves_the_transaction_as_it_is(bank: Router) -> None:
    many = "select a.id, g from accounts a, generate_series(1, 200000) g"
    sorted_ = "select id, v from accounts order by v desc, id"
    with bank.transaction() as tx:
        tx.execute("update accounts set v = v + 1")
        for query in (many, sorted_, "select v, rank() over (order by v desc) from accounts"):
            with closing(tx.stream(query, size=2)) as rows:
                next(rows)
                with pytest.raises(RouterMisuse, match=r"stream\(\) of this transaction is going on"):
                    tx.execute(COUNT)
            assert tx.execute(COUNT).one() == (len(KEYS),)
        with tx.savepoint(), closing(tx.stream(many)) as rows:
            next(rows)
    assert bank.execute("select sum(v) from accounts").one() == (101 * len(KEYS),)
    with bank.transaction() as tx:
        tx.execute("update accounts set v = v + 1")
        with pytest.raises(psycopg.errors.DivisionByZero), tx.savepoint():
            list(tx.stream("select 1 / (v - v) from accounts"))
        tx.execute("update accounts set v = v + 1")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction), bank.transaction() as tx:
        tx.execute("update accounts set v = v + 1")
        with pytest.raises(psycopg.errors.DivisionByZero):
            list(tx.stream("select 1 / (v - v) from accounts"))
        tx.execute(COUNT)
    with pytest.raises(RouterMisuse, match="going on"), bank.transaction() as tx:
        tx.execute("update accounts set v = v + 1")
        rows = tx.stream(many)
        next(rows)
    # Its connections are others' by now, and are left alone.
    with bank.transaction() as tx:
        others = [tx.connection(shard=name) for name in bank.shards]
        with pytest.raises(RouterMisuse, match="has ended"):
            list(rows)
        assert all(conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS for conn in others)
    assert bank.execute("select sum(v) from accounts").one() == (103 * len(KEYS),)
    assert {shard["primary"]["in_flight"] for shard in bank.stats()["shards"].values()} == {0}


def test_rows_are_copied_as_part_of_it(bank: Router) -> None:
    with pytest.raises(ZeroDivisionError), bank.transaction() as tx:
        assert sum(tx.copy_into("accounts", ROWS, columns=COLUMNS).values()) == len(ROWS)
        assert tx.execute(COUNT).one() == (len(KEYS) + len(ROWS),)
        assert tx.copy_into("countries", [("de", "Germany")], columns=["code", "name"])["s3"] == 1
        raise ZeroDivisionError
    assert bank.execute(COUNT).one() == (len(KEYS),)
    with bank.transaction() as tx:
        # Their accounts come later: what is deferred is checked at the end of the transaction.
        tx.copy_into("entries", [(key, 1) for key, _, _ in ROWS], columns=["account", "n"])
        with pytest.raises(LoadError) as raised, tx.savepoint():
            tx.copy_into("accounts", [*ROWS, (2100, -1, "bad")], columns=COLUMNS)
        assert any(isinstance(error, psycopg.errors.CheckViolation) for error in raised.value.failures.values())
        with pytest.raises(LoadError, match="record 3 is bad"), tx.savepoint():
            tx.copy_into("accounts", [*ROWS[:2], ("x", 1, "bad")], columns=COLUMNS)
        with pytest.raises(ZeroDivisionError), tx.savepoint():
            tx.copy_into("accounts", (1 / 0 for _ in KEYS), columns=COLUMNS)  # type: ignore[misc]
        with pytest.raises(RouterMisuse, match="going on"), tx.savepoint():
            tx.copy_into("accounts", (tx.execute(COUNT).rows[0] for _ in KEYS), columns=COLUMNS)
        assert tx.execute(COUNT).one() == (len(KEYS),)
        tx.copy_into("accounts", ROWS, columns=COLUMNS)
        tx.copy_into("countries", [("de", "Germany")], columns=["code", "name"])
        # Made on one shard for all.
        tx.copy_into("stamps", [("x",), ("y",)], columns=["code"])
        assert tx.execute("select count(*) from entries").one() == (len(ROWS),)
    assert tx.id is not None and bank.transaction_state(tx.id) == "committed"
    assert bank.execute(COUNT).one() == (len(KEYS) + len(ROWS),)
    stamps = bank.scatter("select code, at from stamps order by code")
    assert all(result.rows == stamps["s0"].rows and len(result) == 2 for result in stamps.values())
    with bank.transaction() as tx:
        tx.copy_into("accounts", [(5000, 1, "x")], columns=COLUMNS)
    assert tx.id is None, "one shard has got rows"
    with pytest.raises(LoadError), bank.transaction() as tx:
        tx.execute("update accounts set v = v + 1")
        tx.copy_into("accounts", ROWS, columns=COLUMNS)
    with bank.transaction(isolation="repeatable read") as tx, pytest.raises(UnsupportedQuery, match="one snapshot"):
        tx.copy_into("countries", [("fr", "France")], columns=["code", "name"])
    with bank.transaction(readonly=True) as tx, pytest.raises(UnsupportedQuery, match="only reads"):
        tx.copy_into("accounts", ROWS, columns=COLUMNS)
    assert bank.execute("select sum(v) from accounts").one() == (100 * len(KEYS) + len(ROWS) + 1,)
    assert not bank.in_doubt() and bank.check().ok
    assert {shard["primary"]["in_flight"] for shard in bank.stats()["shards"].values()} == {0}


def test_tasks(path: str) -> None:
    async def main() -> None:
        async with AsyncRouter(path) as router:
            async with router.transaction() as tx:
                await tx.copy_into("accounts", ROWS, columns=COLUMNS)
                found = [row async for row in tx.stream("select id from accounts order by id", size=10)]
                assert found == [(key,) for key, _, _ in ROWS]
                stream = tx.stream("select a.id, g from accounts a, generate_series(1, 2000) g")
                await anext(stream)
                await stream.aclose()
                assert (await tx.execute(COUNT)).one() == (len(ROWS),)
            with pytest.raises(asyncio.CancelledError):
                async with router.transaction() as tx:
                    await tx.execute("update accounts set v = v + 1")
                    async for _ in tx.stream("select id from accounts"):
                        raise asyncio.CancelledError
            assert (await router.execute("select sum(v) from accounts")).one() == (len(ROWS),)

    asyncio.run(main())
