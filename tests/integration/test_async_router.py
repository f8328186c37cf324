"""What differs for tasks: the async router's verbs, its event loop, and cancellation."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import (
    AsyncRouter,
    BatchError,
    DeadlineExceeded,
    LoadError,
    RouterMisuse,
    ScatterError,
    ShardError,
    UnsupportedQuery,
)
from shardpool.events import Event, LongPlan
from tests.timing import in_time


@pytest.fixture
async def router(topology_path: str) -> AsyncIterator[AsyncRouter]:
    async with AsyncRouter(topology_path) as opened:
        yield opened


async def test_every_verb_works_in_tasks(router: AsyncRouter) -> None:
    await router.wait(10)

    async def rows() -> AsyncIterator[tuple[int, int, str]]:
        for key in range(1000):
            yield key, 1, "x"

    loaded = await router.copy_into("orders", rows(), columns=["tenant_id", "n", "note"])
    assert sum(loaded.values()) == 1000
    route = router.for_key(5, table="orders")
    assert (await route.execute("select * from orders where tenant_id = %s", (5,))).rows == [(5, 1, "x")]
    async with route.connection() as conn:
        await conn.execute("update orders set n = 2 where tenant_id = 5")
    async with route.transaction() as conn:
        await conn.execute("update orders set n = n + 1 where tenant_id = 5")

    async def read(conn: psycopg.AsyncConnection[Any]) -> int:
        row = await (await conn.execute("select n from orders where tenant_id = 5")).fetchone()
        return int(row[0])

    assert await route.run(read) == 3
    counts = await router.scatter("select count(*) from orders")
    assert {shard: result.one()[0] for shard, result in counts.items()} == loaded

    moved = await router.execute("update orders set tenant_id = tenant_id + 1000 where tenant_id < 10 returning n")
    assert sorted(moved.rows) == [(1,)] * 9 + [(3,)]
    async with router.snapshot(cut="strict") as snap:
        assert (await snap.execute("select count(*) from orders where tenant_id >= 1000")).one() == (10,)

    async def double(conn: psycopg.AsyncConnection[Any], item: int) -> int:
        row = await (await conn.execute("select %s::int * 2", (item,))).fetchone()
        return int(row[0])

    assert await router.map(double, range(50), key=lambda item: item, table="orders") == [n * 2 for n in range(50)]
    assert (await router.check()).ok
    assert (await router.execute("select count(*) from orders")).one() == (sum(loaded.values()),)
    with pytest.raises(UnsupportedQuery):
        await router.execute("select ctid from orders")
    with pytest.raises(LoadError):
        await router.copy_into("orders", [(1,)], columns=["tenant_id", "n", "note"])


async def test_deadlines_hold_in_tasks(router: AsyncRouter) -> None:
    route = router.for_key(1, table="orders")
    started = monotonic()
    with pytest.raises(DeadlineExceeded):
        await route.execute("select pg_sleep(30)", timeout=0.3)
    in_time(monotonic() - started, 0.4)
    with pytest.raises(ScatterError):
        await router.scatter("select pg_sleep(30)", timeout=0.3)
    with pytest.raises(DeadlineExceeded):
        async with route.connection(block_timeout=0.3) as conn:
            await conn.execute("select pg_sleep(30)")
    in_time(monotonic() - started, 1.3)
    assert (await route.execute("select 1")).rows == [(1,)]


async def test_cancelled_calls_leak_no_connection(router: AsyncRouter) -> None:
    await router.scatter("select 1")
    chance = random.Random(1)

    async def insert(conn: psycopg.AsyncConnection[Any], item: int) -> None:
        await conn.execute("insert into orders values (%s, 1, 'x')", (item,))

    async def work(number: int) -> None:
        key = chance.randrange(1000)
        match number % 4:
            case 0:
                await router.for_key(key, table="orders").execute("select pg_sleep(0.005)")
            case 1:
                await router.scatter("select pg_sleep(0.005)")
            case 2:
                async with router.for_key(key, table="orders").connection() as conn:
                    await conn.execute("select pg_sleep(0.005)")
            case _:
                await router.map(insert, [key], key=lambda item: item, table="orders")

    tasks = [asyncio.create_task(work(number)) for number in range(300)]
    for task in tasks:
        await asyncio.sleep(chance.random() * 0.004)
        if chance.random() < 0.7:
            task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    # Calls may be late on a busy machine; they may not fail otherwise.
    late = (BatchError, ScatterError, ShardError)
    assert not [error for error in outcomes if isinstance(error, Exception) and not isinstance(error, late)]
    stats = router.stats()["shards"]
    assert all(shard["primary"]["in_flight"] == 0 for shard in stats.values())
    assert all(shard["primary"]["waiting"] == 0 for shard in stats.values())
    assert len(await router.scatter("select 1")) == 4


def test_another_event_loop_is_refused(topology_path: str) -> None:
    async def open_it() -> AsyncRouter:
        router = AsyncRouter(topology_path)
        await router.open()
        await router.scatter("select 1")
        return router

    async def use(router: AsyncRouter) -> None:
        with pytest.raises(RouterMisuse, match="another event loop"):
            await router.shard("s0").execute("select 1")
        with pytest.raises(RouterMisuse, match="another event loop"):
            await router.scatter("select 1")

    loop = asyncio.new_event_loop()
    try:
        router = loop.run_until_complete(open_it())
        asyncio.run(use(router))
        loop.run_until_complete(router.close())
    finally:
        loop.close()


async def test_a_long_statement_is_planned_beside_the_event_loop(topology_path: str) -> None:
    told: list[Event] = []
    turns = 0

    class Observer:
        def observe(self, event: Event) -> None:
            told.append(event)

    async def turn() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    rows = ", ".join(["(%s, %s, lower('X'))"] * 2000)
    params = [value for key in range(2000) for value in (key, 1)]
    async with AsyncRouter(topology_path, observers=[Observer()]) as router:
        await router.explain("select * from orders")
        turning = asyncio.create_task(turn())
        await asyncio.sleep(0)
        before = turns
        plan = await router.explain(f"insert into orders values {rows}", params)
        turning.cancel()
    assert turns > before + 1
    assert [event.characters for event in told if isinstance(event, LongPlan)] == [len(plan.plan.sql)]
    assert f"planned beside the event loop: the text has {len(plan.plan.sql):,} characters" in plan.describe()


async def test_an_insert_of_many_rows_puts_each_on_its_shard(router: AsyncRouter) -> None:
    rows = [(key, key % 7, f"it's {key}") for key in range(3000)]
    texts = ", ".join(f"({key}, {n}, 'it''s {key}')" for key, n, _ in rows)
    for query, params in [
        (f"insert into orders values {texts} returning note", None),
        (
            f"insert into orders values {', '.join(['(%s, %s, %s)'] * 3000)} on conflict (tenant_id, n) "
            "do update set note = excluded.note returning note",
            [value for row in rows for value in row],
        ),
    ]:
        result = await router.execute(query, params)
        assert result.plan is not None
        assert (result.plan.strategy, [row[0] for row in result]) == ("split", [note for _, _, note in rows])
        for name, found in (await router.scatter("select tenant_id, n, note from orders order by tenant_id")).items():
            own = [row for row in rows if router.for_key(row[0], table="orders").shard == name]
            assert found.rows == own
