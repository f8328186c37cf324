"""map: the same operation on many items, each on the shard of its key."""

from __future__ import annotations

import signal
import threading
from typing import Any

import psycopg
import pytest

from shardpool import BatchError, ItemRolledBack, Router


def insert(conn: psycopg.Connection[Any], item: tuple[int, int]) -> int:
    conn.execute("insert into orders values (%s, %s, 'x')", item)
    if item[1] < 0:
        raise ValueError(f"bad item {item}")
    return item[0] * 10


def count(router: Router) -> int:
    return sum(result.one()[0] for result in router.scatter("select count(*) from orders").values())


@pytest.mark.parametrize("per", ["item", "shard"])
def test_results_come_in_the_order_of_the_items(router: Router, per: Any) -> None:
    items = [(key, 1) for key in reversed(range(200))]
    results = router.map(insert, items, key=lambda item: item[0], table="orders", per=per)
    assert results == [key * 10 for key, _ in items]
    assert count(router) == 200
    assert router.check().ok


def test_one_bad_item_does_not_hurt_the_others(router: Router) -> None:
    items: list[tuple[Any, int]] = [(key, 1) for key in range(40)]
    items[7] = (7, -1)
    items[23] = (None, 1)
    with pytest.raises(BatchError) as raised:
        router.map(insert, items, key=lambda item: item[0], table="orders")
    failures = raised.value.failures
    assert [failure.index for failure in failures] == [7, 23]
    assert isinstance(failures[0].error, ValueError)
    assert failures[0].shard == router.for_key(7, table="orders").shard
    assert failures[1].shard is None
    assert raised.value.results[8] == 80
    assert raised.value.results[7] is None
    assert count(router) == 38


def test_per_shard_a_bad_item_takes_its_shards_batch_with_it(router: Router) -> None:
    items = [(key, 1) for key in range(100)]
    items[50] = (50, -1)
    culprit = router.for_key(50, table="orders").shard
    with pytest.raises(BatchError) as raised:
        router.map(insert, items, key=lambda item: item[0], table="orders", per="shard")
    failed = {failure.index: failure.error for failure in raised.value.failures}
    assert set(failed) == {key for key, _ in items if router.for_key(key, table="orders").shard == culprit}
    assert isinstance(failed.pop(50), ValueError)
    assert all(isinstance(error, ItemRolledBack) for error in failed.values())
    assert count(router) == 100 - len(failed) - 1


def test_at_most_the_asked_number_runs_at_once_on_each_shard(router: Router) -> None:
    lock = threading.Lock()
    running: dict[str, int] = {}
    most: dict[str, int] = {}

    def operation(conn: psycopg.Connection[Any], item: int) -> None:
        shard = conn.info.dbname
        with lock:
            running[shard] = running.get(shard, 0) + 1
            most[shard] = max(most.get(shard, 0), running[shard])
        conn.execute("select pg_sleep(0.005)")
        with lock:
            running[shard] -= 1

    router.map(operation, range(120), key=lambda item: item, table="orders", concurrency=3)
    assert set(most.values()) <= {2, 3}
    assert len(most) == 4


def test_progress_counts_every_item(router: Router) -> None:
    told: list[int] = []
    router.map(lambda conn, item: None, range(30), key=lambda item: item, table="orders", progress=told.append)
    assert sum(told) == 30


def test_no_items_are_no_error(router: Router) -> None:
    assert router.map(lambda conn, item: None, [], key=lambda item: item, table="orders") == []


def test_the_deadline_of_the_batch_fails_what_is_left(router: Router) -> None:
    with pytest.raises(BatchError) as raised:
        router.map(
            lambda conn, item: conn.execute("select pg_sleep(0.1)"),
            range(200),
            key=lambda item: item,
            table="orders",
            concurrency=1,
            timeout=0.5,
        )
    assert 0 < len(raised.value.failures) < 200


@pytest.mark.parametrize("per", ["item", "shard"])
def test_an_interrupt_ends_the_batch_after_the_items_under_way(router: Router, per: Any) -> None:
    begun: list[int] = []

    def slow_insert(conn: psycopg.Connection[Any], item: int) -> None:
        begun.append(item)
        conn.execute("insert into orders select %s, 1, 'x' from pg_sleep(0.1)", (item,))

    router.scatter("select 1")
    interrupt = threading.Timer(0.35, signal.pthread_kill, (threading.main_thread().ident, signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        router.map(slow_insert, range(100), key=lambda item: item, table="orders", per=per, concurrency=1)
    assert len(begun) <= 40
    assert count(router) == (len(begun) if per == "item" else 0)
    assert router.stats()["shards"]["s0"]["primary"]["in_flight"] == 0


def test_an_interrupt_in_an_operation_ends_the_whole_batch(router: Router) -> None:
    begun: list[int] = []

    def interrupted(conn: psycopg.Connection[Any], item: int) -> None:
        begun.append(item)
        conn.execute("select pg_sleep(0.05)")
        if item == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        router.map(interrupted, range(100), key=lambda item: item, table="orders", concurrency=1)
    assert len(begun) <= 60
