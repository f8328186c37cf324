"""A write on several shards is one unit: on all of them or on none, and those that meet do not wait in a circle."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, LoadError, Router, ScatterError

KEYS = range(12)
KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    tables: {orders: tenant_id, parents: tenant_id}
reference_tables: [countries]
"""
SCHEMA = """\
create table parents (tenant_id bigint not null, id int not null, primary key (tenant_id, id));
create table orders (
  tenant_id bigint not null, n int not null, note text, parent int, primary key (tenant_id, n),
  foreign key (tenant_id, parent) references parents deferrable initially deferred);
create table countries (code text primary key, name text);
"""
DEFERRED = """
alter table orders add unique (tenant_id, note) deferrable initially deferred;
alter table countries add unique (name) deferrable initially deferred;
"""


@pytest.fixture
def path(shardpool_make_topology: Callable[..., Path]) -> str:
    return str(shardpool_make_topology(KEYSPACES, SCHEMA))


@pytest.fixture
def shop(path: str) -> Iterator[Router]:
    with Router(path) as router:
        router.execute(f"insert into orders values {', '.join(f'({key}, 1, {key})' for key in KEYS)}")
        router.execute("insert into countries values ('de', 'Germany'), ('fr', 'France')")
        yield router


def test_what_is_checked_at_commit_undoes_all_shards(shop: Router) -> None:
    shop.scatter(DEFERRED)
    shop.execute("insert into parents values (7, 1)")
    shop.execute("update orders set parent = 1 where tenant_id = 7")
    shop.execute("insert into orders values (7, 2, 'other')")
    for statement, error in [
        ("delete from parents", psycopg.errors.ForeignKeyViolation),
        ("update orders set note = 'same'", psycopg.errors.UniqueViolation),
        ("insert into orders values (1, 9, '1'), (2, 9, 'x'), (3, 9, 'x')", psycopg.errors.UniqueViolation),
        ("update orders set parent = 9 where tenant_id in (7, 8)", psycopg.errors.ForeignKeyViolation),
        ("update countries set name = 'one'", psycopg.errors.UniqueViolation),
    ]:
        with pytest.raises(error):
            shop.execute(statement)
    rows = [(key, 3, f"n{key}", 1 if key == 11 else None) for key in KEYS]
    with pytest.raises(LoadError) as raised:
        shop.copy_into("orders", rows, columns=["tenant_id", "n", "note", "parent"])
    assert set(raised.value.rolled_back) == {"s0", "s1", "s2", "s3"}
    assert not raised.value.committed
    assert shop.execute("select count(*), count(parent) from orders").one() == (len(KEYS) + 1, 1)
    assert shop.execute("select count(*) from orders where note = 'same'").one() == (0,)
    assert shop.check().ok


def test_a_deferred_check_that_holds_at_the_end_does_not_see_what_was_between(shop: Router) -> None:
    shop.scatter(DEFERRED)
    shop.scatter(
        "create function parent() returns trigger language plpgsql as"
        " $$begin insert into parents values (new.tenant_id, new.parent); return new; end$$;"
        "create trigger zz after insert on orders for each row execute function parent()"
    )
    shop.execute("insert into orders values (1, 5, 'a', 5), (2, 5, 'a', 5), (3, 5, 'a', 5)")
    assert shop.execute("select count(*) from parents").one() == (3,)


def test_a_prepared_write_goes_on_after_ddl(shop: Router) -> None:
    write = "update orders set note = %s returning *"
    for number in range(8):
        assert len(shop.execute(write, (f"{number}",)).rows[0]) == 4
    shop.scatter("alter table orders add extra int")
    assert {len(row) for row in shop.execute(write, ("new",)).rows} == {5}


WRITES = [
    "update countries set name = name || '.' where code = 'de'",
    "update orders set note = coalesce(note, '') || '.' where n = 1",
    "update orders set note = coalesce(note, '') || '.' where tenant_id in (11, 10, 9, 8, 7, 6)",
]


def test_no_write_is_lost_when_many_threads_write_the_same_rows(shop: Router) -> None:
    def work(number: int) -> None:
        for write in (*WRITES[number % 2 :], *WRITES[: number % 2]):
            shop.execute(write, timeout=20)
        shop.execute("insert into countries values (%s, 'x')", (f"t{number}",), timeout=20)
        shop.copy_into("countries", [(f"c{number}", "x")], columns=["code", "name"], timeout=20)
        shop.execute("update countries set name = name || '+'", timeout=20)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(16)))
    assert shop.execute("select length(name) - length('Germany') from countries where code = 'de'").one() == (32,)
    assert shop.execute("select count(*) from countries").one() == (34,)
    dots = shop.execute("select sum(length(note) - length(tenant_id::text)) from orders where n = 1").one()
    assert dots == (16 * len(KEYS) + 16 * 6,)
    assert shop.check().ok


async def test_no_write_is_lost_when_many_tasks_write_the_same_rows(path: str) -> None:
    async with AsyncRouter(path) as router:
        await router.execute("insert into countries values ('de', '')")
        await router.execute(f"insert into orders values {', '.join(f'({key}, 1, %s)' for key in KEYS)}", ("",) * 12)

        async def work(number: int) -> None:
            await router.execute(WRITES[number % 2], timeout=20)
            await router.copy_into("countries", [(f"c{number}", "x")], columns=["code", "name"], timeout=20)
            await router.execute("update countries set name = name || '+'", timeout=20)

        await asyncio.gather(*(work(number) for number in range(20)))
        assert (await router.execute("select length(name) from countries where code = 'de'")).one() == (30,)
        assert (await router.execute("select sum(length(note)) from orders")).one() == (10 * len(KEYS),)
        assert (await router.check()).ok


def test_who_is_in_the_way_is_named_at_the_deadline(shop: Router) -> None:
    with shop.shard("s2").transaction() as conn:
        conn.execute("select from countries where code = 'de' for update")
        holder = conn.info.backend_pid
        with pytest.raises(ScatterError, match=f"shard s2, which waited for a lock that process {holder}") as raised:
            shop.execute("update countries set name = 'x' where code = 'de'", timeout=2)
        assert getattr(raised.value.failures["s2"], "applied", None) == "no"
    assert shop.execute("update countries set name = 'x' where code = 'de'").rowcount == 1
    assert shop.check().ok


def test_a_lock_that_is_held_for_long_is_waited_for(shop: Router) -> None:
    def hold(conn: psycopg.Connection[Any]) -> None:
        conn.execute("update orders set note = 'held' where tenant_id = 3")
        conn.execute("select pg_sleep(0.6)")

    with ThreadPoolExecutor(1) as threads:
        held = threads.submit(shop.for_key(3, table="orders").run, hold)
        result = shop.execute("update orders set note = note || '!' where n = 1 returning note", timeout=20)
        held.result(20)
    assert result.rowcount == len(KEYS)


def test_loads_of_the_same_keys_do_not_wait_in_a_circle(shop: Router) -> None:
    keys = {shop.for_key(key, table="orders").shard: key for key in range(100, 140)}
    both_hold = threading.Barrier(2, timeout=20)

    def rows(*shards: str) -> Iterator[tuple[Any, ...]]:
        # Wide enough to be sent at once.
        yield keys[shards[0]], 7, "x" * 2**20
        yield keys[shards[0]], 8, "x" * 2**20
        both_hold.wait()
        yield keys[shards[1]], 7, "x"

    def load(*shards: str) -> BaseException | None:
        try:
            shop.copy_into("orders", rows(*shards), columns=["tenant_id", "n", "note"], timeout=40)
        except LoadError as error:
            return error
        return None

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(load, ("s0", "s2"), ("s2", "s0")))
    (error,) = [error for error in found if error is not None]
    assert "process" in str(error) and "waits for this load" in str(error)
    assert shop.execute("select count(*) from orders where n >= 7").one() == (3,)
