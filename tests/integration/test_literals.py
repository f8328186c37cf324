"""Statements with their values in the text: planned once for all that differ in these only."""

from __future__ import annotations

from shardpool import AsyncRouter, Router
from shardpool.query.text.literals import literals


def is_pattern(router: Router, sql: str) -> bool:
    """Whether the text is planned as others were before."""
    found, planner = literals(sql), router._planner
    assert found is not None
    planned = planner._patterns.planned(sql, found, router._fleet.topology, planner.schema)
    return planned is not None and planned.plan.sql == sql


def test_each_text_goes_to_the_shard_of_its_own_key(router: Router) -> None:
    for key in range(40):
        written = router.execute(f"insert into orders values ({key}, {key + 100}, 'row {key}')")
        assert written.shards == (router.for_key(key, table="orders").shard,)
    assert is_pattern(router, "insert into orders values (77, 1, 'x')")
    for key in range(40):
        found = router.execute(f"select n, note from orders where tenant_id = {key} and note <> 'none {key}'")
        assert (found.rows, found.shards) == (
            [(key + 100, f"row {key}")],
            (router.for_key(key, table="orders").shard,),
        )
        assert router.execute(f"update orders set n = {key} where {key} = tenant_id").rowcount == 1
    assert is_pattern(router, "update orders set n = 5 where 6 = tenant_id")
    assert router.explain("select n, note from orders where tenant_id = 3 and note <> ''").shards == found_on(router, 3)
    assert router.check().ok


def found_on(router: Router, key: int) -> tuple[str, ...]:
    return (router.for_key(key, table="orders").shard,)


def test_other_texts_are_planned_by_themselves(router: Router) -> None:
    router.executemany("insert into orders values (%s, 1, 'a')", [(k,) for k in range(8)], key=int_of, table="orders")
    count = "select count(*) from orders where tenant_id = {}"
    assert [router.execute(count.format(key)).one() for key in range(8)] == [(1,)] * 8
    assert router.execute(count.format("-1")).one() == (0,)
    assert router.execute(count.format("1.0")).one() == (1,)
    assert router.execute(count.format("1 or tenant_id = 2")).one() == (2,)
    assert router.execute(count.format("'3'")).one() == (1,)
    assert router.execute(count.format("4 -- and 5")).one() == (1,)
    assert router.execute(count.format("99999999999999999999")).one() == (0,)
    assert router.execute(count.format("5 limit 1")).one() == (1,)
    for number in range(4):
        # The row follows its key.
        assert router.execute(f"update orders set tenant_id = {number + 20} where tenant_id = {number}").rowcount == 1
    assert router.check().ok


def test_long_texts_are_not_looked_through(router: Router) -> None:
    router.for_key(1, table="orders").execute("select 1")
    frames = router._planner._patterns._frames
    for first in range(0, 3000, 1000):
        rows = ", ".join(f"({key}, {first + key}, 'a note')" for key in range(200))
        assert router.execute(f"insert into orders values {rows}").rowcount == 200
        assert router.execute(f"select n from orders where tenant_id = 7 and n = {first + 7}").one() == (first + 7,)
    assert all(len(frame) < 100 for frame in frames._plans)


def int_of(row: tuple[int]) -> int:
    return row[0]


def test_a_pattern_ends_with_what_it_was_made_by(router: Router) -> None:
    for key in range(4):
        router.execute(f"insert into orders (tenant_id, n, note) values ({key}, 1, 'x')")
    other = "insert into orders (tenant_id, n, note) values (9, 2, 'y')"
    assert is_pattern(router, other)
    router.scatter("alter table orders add column extra int default 7")
    assert not is_pattern(router, other)
    for key in range(4):
        assert router.execute(f"select * from orders where tenant_id = {key}").one() == (key, 1, "x", 7)


async def test_in_transactions_and_with_tasks_it_is_the_same(topology_path: str) -> None:
    async with AsyncRouter(topology_path) as router:
        async with router.transaction() as transaction:
            for key in range(12):
                await transaction.execute(f"insert into orders values ({key}, 1, 'x')")
        for key in range(12):
            assert (await router.execute(f"select n from orders where tenant_id = {key}")).one() == (1,)
        assert (await router.check()).ok
