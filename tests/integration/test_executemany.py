"""executemany: one statement with many parameters, each on the shard of its key, by pipeline."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, BatchError, ItemRolledBack, Router

INSERT = "insert into orders values (%s, %s, 'x')"
KEY: Callable[[Any], Any] = itemgetter(0)


def rows_of(router: Router) -> list[Any]:
    found = router.scatter("select tenant_id, n from orders")
    return sorted(row for result in found.values() for row in result)


def test_each_row_is_on_the_shard_of_its_key(router: Router) -> None:
    rows = [(key, 1) for key in range(300)]
    assert router.executemany(INSERT, iter(rows), key=KEY, table="orders") == 300
    assert rows_of(router) == rows
    assert router.check().ok


async def test_a_router_of_tasks_has_it_too(topology_path: str) -> None:
    async with AsyncRouter(topology_path) as router:
        rows = [{"k": key, "n": 1} for key in range(50)]
        insert = "insert into orders values (%(k)s, %(n)s, 'x')"
        assert await router.executemany(insert, rows, key=itemgetter("k"), table="orders") == 50
        changed = await router.executemany(
            "update orders set n = 2 where tenant_id = %(k)s and %(k)s < 10", rows, key=itemgetter("k"), table="orders"
        )
        assert changed == 10


def test_statements_of_one_shard_run_in_their_order(router: Router) -> None:
    router.executemany(INSERT, [(7, 0), (8, 0)], key=KEY, table="orders")
    add = "update orders set n = n * 10 + %(n)s where tenant_id = %(k)s"
    rows = [{"k": 7 + number % 2, "n": number} for number in range(6)]
    assert router.executemany(add, rows, key=itemgetter("k"), table="orders") == 6
    assert rows_of(router) == [(7, 24), (8, 135)]


def test_a_row_that_is_refused_takes_its_shards_rows_with_it_and_is_named(router: Router) -> None:
    rows: list[tuple[Any, Any]] = [(key, 1) for key in range(100)]
    rows[50] = (50, 2**40)
    culprit = router.for_key(50, table="orders").shard
    with pytest.raises(BatchError) as raised:
        router.executemany(INSERT, rows, key=KEY, table="orders")
    failed = {failure.index: failure.error for failure in raised.value.failures}
    there = {key for key in range(100) if router.for_key(key, table="orders").shard == culprit}
    assert set(failed) == there
    assert isinstance(failed.pop(50), psycopg.errors.NumericValueOutOfRange)
    assert all(isinstance(error, ItemRolledBack) for error in failed.values())
    assert raised.value.results == [None if key in there else 1 for key in range(100)]
    assert [key for key, _ in rows_of(router)] == [key for key in range(100) if key not in there]


def test_parameters_that_cannot_be_sent_are_named(router: Router) -> None:
    key, other = [k for k in range(100) if router.for_key(k, table="orders").shard == "s0"][:2]
    rows: list[Any] = [(key, 1), (other, 2), (key, 3, "too", "many"), (other, 4)]
    with pytest.raises(BatchError) as raised:
        router.executemany(INSERT, rows, key=KEY, table="orders")
    kinds = [type(failure.error) for failure in raised.value.failures]
    assert kinds == [ItemRolledBack, ItemRolledBack, psycopg.ProgrammingError, ItemRolledBack]
    assert rows_of(router) == []


def test_atomic_is_all_of_them_or_none(router: Router) -> None:
    rows: list[Any] = [(key, 1) for key in range(40)]
    assert router.executemany(INSERT, rows, key=KEY, table="orders", atomic=True) == 40
    rows = [(key, 2) for key in range(40)]
    rows[11] = (11, 2**40)
    with pytest.raises(BatchError) as raised:
        router.executemany(INSERT, rows, key=KEY, table="orders", atomic=True)
    assert [failure.index for failure in raised.value.failures] == list(range(40))
    kinds = {failure.index: type(failure.error) for failure in raised.value.failures}
    culprits = [index for index, kind in kinds.items() if kind is not ItemRolledBack]
    assert (culprits, kinds[11]) == ([11], psycopg.errors.NumericValueOutOfRange)
    assert len(rows_of(router)) == 40


def test_a_row_without_a_shard_fails_alone(router: Router) -> None:
    with pytest.raises(BatchError) as raised:
        router.executemany(INSERT, [(1, 1), (None, 1), (2, 1)], key=KEY, table="orders")
    assert [(failure.index, failure.shard) for failure in raised.value.failures] == [(1, None)]
    assert raised.value.results == [1, None, 1]


def test_nothing_is_no_error_and_what_comes_back_is_not_kept(router: Router) -> None:
    told: list[int] = []
    assert router.executemany(INSERT, [], key=KEY, table="orders") == 0
    returning = INSERT + " returning n"
    assert router.executemany(returning, [(1, 1), (2, 1)], key=KEY, table="orders", progress=told.append) == 2
    assert sum(told) == 2
