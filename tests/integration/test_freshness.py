"""DDL that a router does not see: from another process, at any time. It is noticed within two seconds."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep

import pytest

from shardpool import Router, UnsupportedQuery

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
