"""DDL that a router does not see: from another process, at any time. It is noticed within two seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Barrier, Thread
from time import monotonic, sleep

import pytest

from shardpool import AsyncRouter, Router, UnsupportedQuery

# What a look at a shard holds, and some more.
NOTICED = 2.1


@pytest.fixture
def other(topology_path: str) -> Callable[[str], None]:
    """Runs a statement on every shard, as somebody else does."""

    def run(statement: str) -> None:
        with Router(topology_path) as router:
            router.scatter(statement)

    return run


def test_an_order_that_was_changed_elsewhere_is_the_order_of_the_answer(
    router: Router, other: Callable[[str], None]
) -> None:
    numbers = [str(number) for number in range(0, 300, 7)]
    for key, number in enumerate(numbers):
        router.execute("insert into orders values (%s, 1, %s)", (key, number))
    query = "select note from orders order by note"
    assert [note for (note,) in router.execute(query).rows] == sorted(numbers)
    other("alter table orders alter note type int using note::int")
    sleep(NOTICED)
    assert [note for (note,) in router.execute(query).rows] == list(range(0, 300, 7))
    assert [note for (note,) in router.stream(query)] == list(range(0, 300, 7))


def test_a_catalog_is_not_believed_when_it_says_that_something_is_not_there(
    router: Router, other: Callable[[str], None]
) -> None:
    for key in range(20):
        router.execute("insert into orders values (%s, 1, 'x')", (key,))
    other("create function twice(n int) returns int language sql immutable as 'select 2 * n'")
    assert router.execute("select twice(n) from orders order by 1").rows == [(2,)] * 20


def test_a_function_that_was_changed_elsewhere_is_believed_no_longer(
    router: Router, other: Callable[[str], None]
) -> None:
    for key in range(20):
        router.execute("insert into orders values (%s, 1, 'x')", (key,))
    other("create function twice(n int) returns int language sql immutable as 'select 2 * n'")
    query = "select count(*) from orders where twice(n) = 2"
    assert router.execute(query).one() == (20,)
    other("alter function twice volatile")
    sleep(NOTICED)
    with pytest.raises(UnsupportedQuery, match="twice"):
        router.execute(query)


def test_the_pools_of_other_processes_are_drained_so_that_their_blocks_go_on(
    router: Router, other: Callable[[str], None]
) -> None:
    query = "select * from orders where tenant_id = %s"
    route = router.for_key(5, table="orders")
    router.execute("insert into orders values (5, 1, 'x')")
    for _ in range(8):
        with route.transaction() as conn:
            conn.execute(query, (5,), prepare=True)
    other("alter table orders add column more int")
    sleep(NOTICED)
    assert router.execute(query, (5,)).rows == [(5, 1, "x", None)]
    for _ in range(8):
        with route.transaction() as conn:
            assert conn.execute(query, (5,), prepare=True).fetchall() == [(5, 1, "x", None)]


def test_looks_are_few(router: Router) -> None:
    query = "select count(*) from orders where tenant_id = %s"
    router.execute(query, (1,))
    shard = router.for_key(1, table="orders").shard

    def used() -> int:
        return int(router.stats()["shards"][shard]["primary"]["calls"])

    before, calls, begun = used(), 0, monotonic()
    while monotonic() - begun < 2 * NOTICED:
        router.execute(query, (1,))
        calls += 1
    assert calls > 100
    assert calls + 1 <= used() - before <= calls + 3


def test_a_lock_on_a_table_holds_up_nobody_who_asks_another_one(
    router: Router, topology_path: str, other: Callable[[str], None]
) -> None:
    other("alter table orders alter note set default 'none'")
    with Router(topology_path) as holder, holder.shard("s1").transaction() as conn:
        conn.execute("lock table orders in access exclusive mode")
        # A catalog is read of each shard first, in which the default is told.
        assert router.execute("select count(*) from events", timeout=2.0).one() == (0,)
        assert router.execute("select count(*) from stores", timeout=2.0).one() == (0,)


STORM = 100


@pytest.mark.parametrize("query", ["select * from orders where tenant_id = %s", "select * from orders where n = %s"])
def test_many_who_come_at_once_ask_for_the_catalog_once(topology_path: str, query: str) -> None:
    with Router(topology_path) as router:
        errors: list[BaseException] = []
        go = Barrier(STORM)

        def call(number: int) -> None:
            go.wait()
            try:
                router.execute(query, (number,), timeout=10.0)
            except BaseException as error:
                errors.append(error)

        threads = [Thread(target=call, args=(number,)) for number in range(STORM)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert catalog_calls(router, query) <= 40


async def test_many_tasks_that_come_at_once_ask_for_the_catalog_once_and_so_they_do_after_ddl(
    topology_path: str, other: Callable[[str], None]
) -> None:
    query = "select * from orders where tenant_id = %s"
    async with AsyncRouter(topology_path) as router:
        for calls in (1, 2):
            await asyncio.gather(*[router.execute(query, (number,), timeout=10.0) for number in range(STORM)])
            assert catalog_calls(router, query, calls) <= 40 * calls
            await asyncio.to_thread(other, "create function twice(n int) returns int language sql as 'select 2 * n'")
            await asyncio.sleep(NOTICED)
            await asyncio.to_thread(other, "drop function twice")


def catalog_calls(router: Router | AsyncRouter, query: str, rounds: int = 1) -> int:
    """How many statements were run beside those that were asked for."""
    used = sum(int(shard["primary"]["calls"]) for shard in router.stats()["shards"].values())
    return used - rounds * STORM * (1 if "tenant_id" in query else len(router.shards))
