"""`router.transaction()`: one transaction over the shards that its statements come to."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from shardpool import (
    AsyncRouter,
    DeadlineExceeded,
    FleetTransaction,
    MissingKey,
    Router,
    RouterMisuse,
    UnsupportedQuery,
)

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
reference_tables: [countries]
single_tables: {audit: s2}
"""
SCHEMA = """\
create table accounts (id bigint primary key, v int not null check (v >= 0), kind text);
create table entries (
  account bigint not null, n int not null, v int, primary key (account, n),
  foreign key (account) references accounts deferrable initially deferred);
create table countries (code text primary key, name text);
"""
KEYS = range(12)
RECORDS = "select count(*)::int from shardpool.tx"
TOTAL = "select sum(v) from accounts"
ADD = "update accounts set v = v + %s where id = %s"


@pytest.fixture
def path(shardpool_make_topology: Callable[..., Path]) -> str:
    path = str(shardpool_make_topology(KEYSPACES, SCHEMA))
    with Router(path) as router:
        router.shard("s2").execute("create table audit (what text)")
        router.execute(f"insert into accounts values {', '.join(f'({key}, 100)' for key in KEYS)}")
    return path


@pytest.fixture
def bank(path: str) -> Iterator[Router]:
    with Router(path) as router:
        yield router


def key_on(router: Router, shard: str) -> int:
    return next(key for key in KEYS if router.for_key(key).shard == shard)


def records(router: Router) -> int:
    return sum(result.rows[0][0] for result in router.scatter(RECORDS).values())


def value(router: Router, key: int) -> int:
    found: int = router.execute("select v from accounts where id = %s", (key,)).rows[0][0]
    return found


def test_a_transfer_between_shards_is_seen_inside_and_commits_as_one(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    before = records(bank)
    with bank.transaction() as tx:
        assert tx.shards == ()
        tx.execute(ADD, (-7, one))
        assert tx.shards == ("s1",) and value(bank, one) == 100
        tx.execute(ADD, (7, other))
        assert tx.execute(TOTAL).one() == (1200,)
        assert tx.execute("select v from accounts where id = %s", (one,)).one() == (93,)
        assert tx.execute("select id, v from accounts where v <> 100 order by v").rows == [(one, 93), (other, 107)]
        assert value(bank, one) == 100
    assert (value(bank, one), value(bank, other)) == (93, 107)
    assert records(bank) == before + 1
    assert tx.id is not None and bank.transaction_state(tx.id) == "committed"
    assert not bank.in_doubt()
    with bank.transaction() as tx:
        tx.execute(ADD, (1, one))
    with pytest.raises(ZeroDivisionError), bank.transaction() as tx:
        tx.execute(ADD, (1, one))
        raise ZeroDivisionError
    ends = {"one_shard": 1, "several_shards": 1, "rolled_back": 1, "unknown": 0, "deadlock": 0, "unfinished": 0}
    assert bank.stats()["transactions"] == ends


def test_one_shard_that_writes_is_one_plain_transaction(bank: Router) -> None:
    one = key_on(bank, "s1")
    before = records(bank)
    with bank.transaction() as tx:
        tx.execute(ADD, (-7, one))
        assert tx.execute(TOTAL).one() == (1193,)
        assert set(tx.shards) == {"s0", "s1", "s2", "s3"}
    assert tx.id is None and records(bank) == before
    assert value(bank, one) == 93


def test_an_error_undoes_all_shards(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    with pytest.raises(ZeroDivisionError), bank.transaction() as tx:
        tx.execute(ADD, (-7, one))
        tx.execute(ADD, (7, other))
        raise ZeroDivisionError
    with pytest.raises(psycopg.errors.CheckViolation), bank.transaction() as tx:
        tx.execute(ADD, (7, other))
        tx.execute(ADD, (-700, one))
    assert (value(bank, one), value(bank, other)) == (100, 100)
    with pytest.raises(RouterMisuse, match="has ended"):
        tx.execute("select 1")


def test_a_statement_that_fails_leaves_the_transaction_failed_as_in_postgresql(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    with pytest.raises(psycopg.errors.InFailedSqlTransaction), bank.transaction() as tx:
        tx.execute(ADD, (7, other))
        with pytest.raises(psycopg.errors.CheckViolation):
            tx.execute("update accounts set v = v - case when id = %s then 700 else 0 end", (one,))
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            tx.execute("select 1")
    assert value(bank, other) == 100


def test_savepoints_hold_on_all_shards_also_on_those_that_join_later(bank: Router) -> None:
    one, two, three = key_on(bank, "s1"), key_on(bank, "s2"), key_on(bank, "s3")
    with bank.transaction() as tx:
        tx.execute(ADD, (1, one))
        with pytest.raises(psycopg.errors.CheckViolation), tx.savepoint():
            tx.execute(ADD, (10, one))
            tx.execute(ADD, (10, two))
            tx.execute(ADD, (-1000, two))
        with tx.savepoint():
            tx.execute(ADD, (2, two))
            with pytest.raises(ZeroDivisionError), tx.savepoint():
                tx.execute(ADD, (100, three))
                raise ZeroDivisionError
            tx.execute(ADD, (3, three))
        assert tx.execute(TOTAL).one() == (1206,)
    assert [value(bank, key) for key in (one, two, three)] == [101, 102, 103]


def test_own_writes_are_seen_by_every_strategy(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    queries = {
        "concatenate": "select v from accounts where v > 1000",
        "merge": "select v from accounts order by v desc limit 1",
        "add": "select sum(v), count(*) from accounts",
        "combine": "select kind, count(distinct v) from accounts group by kind order by kind",
        "pull": "select v, rank() over (order by v desc) from accounts order by 2, 1 limit 1",
    }
    expected = {
        "concatenate": [(5000,)],
        "merge": [(5000,)],
        "add": [(6001, 12)],
        "combine": [("new", 1), (None, 2)],
        "pull": [(5000, 1)],
    }
    with bank.transaction() as tx:
        tx.execute("update accounts set v = 5000, kind = 'new' where id = %s", (one,))
        tx.execute("update accounts set v = 1 where id = %s", (other,))
        for strategy, query in queries.items():
            assert bank.explain(query).strategy == strategy
            assert tx.execute(query).rows == expected[strategy], strategy
            # Once more: nothing was left behind in between.
            assert tx.execute(query).rows == expected[strategy], strategy
    assert (value(bank, one), value(bank, other)) == (5000, 1)
    assert not bank.in_doubt()


def test_a_join_that_is_brought_together_needs_one_snapshot(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    query = "select a.id, e.account from accounts a join entries e on a.v = e.v + 1 order by 1"
    assert bank.explain(query).strategy == "pull"
    with bank.transaction() as tx, pytest.raises(UnsupportedQuery, match="repeatable read"):
        tx.execute(query)
    with bank.transaction(isolation="repeatable read") as tx:
        tx.execute("update accounts set v = 7 where id = %s", (one,))
        tx.execute("insert into entries values (%s, 1, 6)", (other,))
        assert tx.execute(query).rows == [(one, other)]
    assert value(bank, one) == 7


def test_statements_on_several_shards_and_reference_tables_are_part_of_it(bank: Router) -> None:
    with pytest.raises(ZeroDivisionError), bank.transaction() as tx:
        assert tx.execute("update accounts set v = v + 1").rowcount == len(KEYS)
        tx.execute("insert into countries values ('de', 'Germany')")
        tx.execute("insert into audit values ('x')")
        assert tx.execute("select count(*) from countries").one() == (1,)
        raise ZeroDivisionError
    assert bank.execute(TOTAL).one() == (1200,)
    assert bank.execute("select count(*) from countries").one() == (0,)
    with bank.transaction() as tx:
        tx.execute("update accounts set v = v + 1")
        rows = tx.execute("insert into accounts values (100, 1), (101, 2), (102, 3), (103, 4) returning id").rows
        assert rows == [(100,), (101,), (102,), (103,)]
        tx.execute("insert into countries values ('de', 'Germany')")
        tx.execute("insert into audit values ('x')")
    assert bank.execute(TOTAL).one() == (1222,)
    assert {len(result.rows) for result in bank.scatter("select 1 from countries").values()} == {1}
    assert bank.check().ok


def test_constraints_that_are_deferred_are_checked_at_the_end_on_every_shard(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    with bank.transaction() as tx:
        tx.execute("insert into entries values (%s, 1)", (200,))
        tx.execute(ADD, (1, one))
        tx.execute("insert into accounts values (200, 1)")
    for missing in (201, 202, 203, 204, 205):
        with pytest.raises(psycopg.errors.ForeignKeyViolation), bank.transaction() as tx:
            tx.execute("insert into entries values (%s, 1)", (missing,))
            tx.execute(ADD, (1, one))
            tx.execute(ADD, (1, other))
    assert (value(bank, one), value(bank, other)) == (101, 100)
    assert not bank.in_doubt()


def test_a_connection_is_lent_within_it(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    with bank.transaction() as tx:
        conn = tx.connection(one)
        conn.execute(ADD, (-5, one))
        with pytest.raises(psycopg.ProgrammingError, match="forbidden"):
            conn.commit()
        with pytest.raises(psycopg.errors.CheckViolation), conn.transaction():
            conn.execute(ADD, (-500, one))
        assert tx.connection(shard="s3").execute(ADD, (5, other)).rowcount == 1
        assert tx.execute(TOTAL).one() == (1200,)
        with pytest.raises(MissingKey):
            tx.connection()
    assert (value(bank, one), value(bank, other)) == (95, 105)
    assert tx.id is not None


def test_a_commit_as_text_is_told(bank: Router) -> None:
    one = key_on(bank, "s1")
    with pytest.raises(RouterMisuse, match="has ended the transaction"), bank.transaction() as tx:
        tx.execute("commit", key=one)


def test_scatter_in_it(bank: Router) -> None:
    with pytest.raises(ZeroDivisionError), bank.transaction() as tx:
        tx.scatter("update accounts set v = 0")
        assert tx.scatter(lambda conn: conn.execute(TOTAL).fetchone()[0]) == dict.fromkeys(bank.shards, 0)  # type: ignore[index]
        raise ZeroDivisionError
    assert bank.execute(TOTAL).one() == (1200,)


def test_a_transaction_that_only_reads(bank: Router) -> None:
    with bank.transaction(readonly=True) as tx:
        assert tx.execute(TOTAL).one() == (1200,)
        with pytest.raises(UnsupportedQuery, match="only reads"):
            tx.execute("update accounts set v = 0")
        assert tx.execute("select count(*) from accounts").one() == (12,)
    for strategy in (None, "pull"):
        with bank.transaction(readonly=True) as tx:
            # Rows are brought together on one of the shards.
            assert tx.execute("select v, count(*) from accounts group by v", strategy=strategy).rows == [(100, 12)]
            assert tx.execute("select max(v) from accounts having count(*) > 1", strategy=strategy).one() == (100,)
            assert list(tx.stream("select distinct v from accounts", strategy=strategy)) == [(100,)]
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), bank.transaction(readonly=True) as tx:
        tx.connection(shard="s0").execute("update accounts set v = 0")


def test_isolation(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    with bank.transaction(isolation="repeatable read") as tx:
        assert tx.execute("select v from accounts where id = %s", (one,)).one() == (100,)
        bank.execute(ADD, (1, one))
        assert tx.execute("select v from accounts where id = %s", (one,)).one() == (100,)
        with pytest.raises(UnsupportedQuery, match="read committed"):
            tx.execute("insert into countries values ('fr', 'France')")
    with bank.transaction(isolation="serializable") as tx:
        tx.execute(ADD, (1, one))
        with pytest.raises(UnsupportedQuery, match="serializable transaction is of one shard"):
            tx.execute(ADD, (1, other))
    assert value(bank, one) == 102
    with pytest.raises(ValueError, match="isolation"):
        bank.transaction(isolation="snapshot")  # type: ignore[arg-type]


def test_run_is_made_again_when_transactions_meet(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    tries = []

    def transfer(tx: FleetTransaction) -> int:
        (before,) = tx.execute("select v from accounts where id = %s", (one,)).one()
        if not tries:
            bank.execute(ADD, (1, one))
        tries.append(before)
        tx.execute("update accounts set v = %s where id = %s", (before - 5, one))
        return tx.execute(ADD, (5, other)).rowcount

    assert bank.run(transfer, isolation="repeatable read") == 1
    assert tries == [100, 101]
    assert (value(bank, one), value(bank, other)) == (96, 105)


def test_a_shard_that_cannot_take_part_is_refused_at_the_second_write(bank: Router, path: str) -> None:
    bank.shard("s3").execute("revoke insert on shardpool.tx from current_user")
    with Router(path) as router:
        one, two, three = key_on(router, "s1"), key_on(router, "s2"), key_on(router, "s3")
        with router.transaction() as tx:
            tx.execute(ADD, (1, one))
            with pytest.raises(UnsupportedQuery, match="cannot commit as one"):
                tx.execute(ADD, (1, three))
            # It was refused before it was sent.
            tx.execute(ADD, (1, two))
        with router.transaction() as tx:
            tx.execute(ADD, (1, three))
        assert router.execute(TOTAL).one() == (1203,)


def test_nothing_is_left_on_the_connections(bank: Router) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    for _ in range(3):
        with bank.transaction() as tx:
            tx.connection(one).execute("set work_mem = '77MB'")
            tx.execute(ADD, (1, one))
            tx.execute(ADD, (1, other))
    assert bank.for_key(one).execute("show work_mem").rows != [("77MB",)]
    with bank.for_key(one).connection() as conn:
        conn.execute("select 1")
        conn.commit()
    assert {shard["primary"]["in_flight"] for shard in bank.stats()["shards"].values()} == {0}
    assert value(bank, one) == 103


def test_tasks(path: str) -> None:
    async def main() -> None:
        async with AsyncRouter(path) as router:
            one, other = (next(key for key in KEYS if router.for_key(key).shard == shard) for shard in ("s1", "s3"))
            async with router.transaction() as tx:
                await tx.execute(ADD, (-7, one))
                async with tx.savepoint():
                    await tx.execute(ADD, (7, other))
                conn = await tx.connection(one)
                await conn.execute(ADD, (-1, one))
                assert (await tx.execute(TOTAL)).one() == (1199,)
            with pytest.raises(asyncio.CancelledError):
                async with router.transaction() as tx:
                    await tx.execute(ADD, (-7, one))
                    await tx.execute(ADD, (7, other))
                    raise asyncio.CancelledError
            assert (await router.execute(TOTAL)).one() == (1199,)

    asyncio.run(main())


def test_a_bank_under_many_hands_keeps_its_sum(bank: Router) -> None:
    errors: list[BaseException] = []

    def transfer(first: int, second: int, amount: int, tx: FleetTransaction) -> None:
        tx.execute(ADD, (amount, first))
        tx.execute(ADD, (-amount, second))

    def work(number: int) -> None:
        try:
            for turn in range(15):
                source, target = KEYS[(number * 5 + turn) % 12], KEYS[(number * 7 + turn * 3 + 1) % 12]
                first, second = sorted((source, target))

                def transfer(
                    tx: FleetTransaction, source: int = source, first: int = first, second: int = second
                ) -> None:
                    tx.execute(ADD, (-1 if first == source else 1, first))
                    tx.execute(ADD, (1 if first == source else -1, second))

                if first != second:
                    bank.run(transfer, timeout=60)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert bank.execute(TOTAL).one() == (1200,)
    assert not bank.in_doubt()


def test_begin_goes_out_with_the_first_statement_of_each_shard(bank: Router, tmp_path: Path) -> None:
    one, other = key_on(bank, "s1"), key_on(bank, "s3")
    with bank.transaction() as tx:
        tx.execute(ADD, (1, one))
        tx.execute(ADD, (1, other))
    made = [bank._fleet.snapshot.shards[name].primary._connector.made() for name in ("s1", "s3")]
    conns = [conn for each in made for conn in each if not conn.closed]
    with (tmp_path / "trace").open("a") as file:
        for conn in conns:
            conn.pgconn.trace(file.fileno())
        with bank.transaction() as tx:
            for number in range(4):
                tx.execute(ADD, (number, (one, other)[number % 2]))
        for conn in conns:
            conn.pgconn.untrace()
    trace = (tmp_path / "trace").read_text()
    # Four statements; then a record, PREPARE, the decision, COMMIT PREPARED. The catalog may be read in between.
    assert trace.count("ReadyForQuery") - trace.count("with recursive named as") == 4 + 4


def test_what_fails_at_the_beginning_of_a_shard(bank: Router) -> None:
    one, two, other = key_on(bank, "s1"), key_on(bank, "s2"), key_on(bank, "s3")
    with bank.transaction() as tx:
        tx.execute(ADD, (1, other))
        # Nothing was sent: the shard has not been joined.
        with pytest.raises(psycopg.ProgrammingError, match="cannot adapt"):
            tx.execute(ADD, (object(), one))
        assert tx.shards == ("s3",)
        with pytest.raises(psycopg.errors.CheckViolation), tx.savepoint():
            tx.execute(ADD, (-700, one))
        assert tx.shards == ("s3", "s1")
        with tx.savepoint():
            tx.execute(f"select 1; update accounts set v = v + 1 where id = {one}", key=one)
        tx.execute(f"update accounts set v = v + 1 where id = {two}; select 1", key=two)
    assert [value(bank, key) for key in (one, two, other)] == [101, 101, 101]
    with pytest.raises(psycopg.errors.InFailedSqlTransaction), bank.transaction() as tx:
        with pytest.raises(psycopg.errors.CheckViolation):
            tx.execute(ADD, (-700, one))
        tx.execute(ADD, (1, one))
    with pytest.raises(psycopg.OperationalError), bank.transaction() as tx:
        tx.execute("select pg_terminate_backend(pg_backend_pid()) where %s > 0", (1,), key=one)
    with pytest.raises(DeadlineExceeded) as raised, bank.transaction() as tx:
        tx.execute("select pg_sleep(%s)", (60,), key=one, timeout=0.3)
    assert raised.value.applied == "no"
    assert value(bank, one) == 101
    # Prepared by psycopg in the end, together with BEGIN: what failed then is not taken for prepared.
    query = "select what from later where %s > 0"
    for attempt in range(20):
        expected = psycopg.errors.UndefinedTable if attempt < 10 else ZeroDivisionError
        if attempt == 10:
            bank.shard("s1").execute("create table later (what text)")
        with pytest.raises(expected), bank.transaction() as tx:
            tx.execute(query, (1,), key=one)
            raise ZeroDivisionError


def test_a_task_that_is_cancelled_at_the_beginning(path: str) -> None:
    async def main() -> None:
        async with AsyncRouter(path) as router:
            one = next(key for key in KEYS if router.for_key(key).shard == "s1")

            async def sleeping() -> None:
                async with router.transaction() as tx:
                    await tx.execute("select pg_sleep(%s)", (60,), key=one)

            task = asyncio.ensure_future(sleeping())
            limit = monotonic() + 20
            asleep = "select count(*)::int from pg_stat_activity where query like 'select pg_sleep%'"
            while (await router.shard("s1").execute(asleep)).one() != (1,):
                assert monotonic() < limit
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            while (await router.shard("s1").execute(asleep + " and state = 'active'")).one() != (0,):
                assert monotonic() < limit
                await asyncio.sleep(0.02)
            async with router.transaction() as tx:
                await tx.execute(ADD, (1, one))
            assert (await router.execute(TOTAL)).one() == (1201,)

    asyncio.run(main())
