"""`map` and `executemany` against loops written by hand: an update per item, on the shard of its key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

from psycopg_pool import AsyncConnectionPool, ConnectionPool

from shardpool import AsyncRouter, Router

from .fleet import ITEMS, Fleet
from .harness import Effort, Loop, Sample, measure, repeat
from .rows import Row, Target, compare

_UPDATE = "update counters set hits = hits + 1 where id = %s"
_CONCURRENCY = 4


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    items = list(range(effort.pick(ITEMS, ITEMS // 5)))
    yield from _sync(effort, fleet, items)
    yield from _async(effort, fleet, items)


def _sync(effort: Effort, fleet: Fleet, items: list[int]) -> Iterator[Row]:
    with Router(fleet.topology(connections=_CONCURRENCY)) as router, ExitStack() as stack:
        pools = {
            database.name: stack.enter_context(
                ConnectionPool(database.conninfo, min_size=_CONCURRENCY, max_size=_CONCURRENCY, open=True)
            )
            for database in fleet.databases[:4]
        }
        pool_by_item: list[ConnectionPool[Any]] = [pools[router.for_key(item).shard] for item in items]

        def operate(conn: Any, item: int) -> None:
            conn.execute(_UPDATE, (item,))

        def one(pool: ConnectionPool[Any], item: int) -> None:
            with pool.connection() as conn:
                operate(conn, item)

        def in_turn() -> None:
            for pool, item in zip(pool_by_item, items, strict=True):
                one(pool, item)

        together = _together(pool_by_item, items)
        sent = _sent(pool_by_item, items)
        executor = stack.enter_context(ThreadPoolExecutor(4 * _CONCURRENCY))
        samples = _per_item(
            items,
            {
                "map()": lambda: router.map(operate, items, key=_same, concurrency=_CONCURRENCY),
                "map(concurrency=1)": lambda: router.map(operate, items, key=_same, concurrency=1),
                "map(per='shard')": lambda: router.map(operate, items, key=_same, per="shard"),
                "loop": in_turn,
                "16 threads": lambda: list(executor.map(one, pool_by_item, items)),
                "4 threads, a transaction each": lambda: list(executor.map(together, pools.values())),
                "executemany()": lambda: router.executemany(_UPDATE, [(item,) for item in items], key=_first),
                "4 threads, executemany each": lambda: list(executor.map(sent, pools.values())),
            },
        )
        found = measure(samples, effort, rounds=20, seconds=20)
    yield compare("map", "sync map()", found["map()"], found["16 threads"], "16 threads")
    yield compare("map", "sync map()", found["map()"], found["loop"], "loop")
    yield compare("map", "sync map(concurrency=1)", found["map(concurrency=1)"], found["loop"], "loop")
    baseline = "4 threads, a transaction each"
    yield compare("map", "sync map(per='shard')", found["map(per='shard')"], found[baseline], baseline)
    baseline = "4 threads, executemany each"
    yield compare("map", "sync executemany()", found["executemany()"], found[baseline], baseline, Target(most=1.2))


def _async(effort: Effort, fleet: Fleet, items: list[int]) -> Iterator[Row]:
    with Loop() as loop:
        router = loop.open(AsyncRouter(fleet.topology(connections=_CONCURRENCY)))
        pools = {
            database.name: loop.open(
                AsyncConnectionPool[Any](database.conninfo, min_size=_CONCURRENCY, max_size=_CONCURRENCY, open=False)
            )
            for database in fleet.databases[:4]
        }
        pool_by_item = [pools[router.for_key(item).shard] for item in items]

        async def operate(conn: Any, item: int) -> None:
            await conn.execute(_UPDATE, (item,))

        async def one(turns: asyncio.Semaphore, pool: AsyncConnectionPool[Any], item: int) -> None:
            async with turns, pool.connection() as conn:
                await operate(conn, item)

        async def gathered() -> None:
            turns = asyncio.Semaphore(4 * _CONCURRENCY)
            await asyncio.gather(*(one(turns, pool, item) for pool, item in zip(pool_by_item, items, strict=True)))

        async def in_turn() -> None:
            for pool, item in zip(pool_by_item, items, strict=True):
                async with pool.connection() as conn:
                    await operate(conn, item)

        samples = _per_item(
            items,
            {
                "map()": lambda: loop.run(router.map(operate, items, key=_same, concurrency=_CONCURRENCY)),
                "gather, 16 at once": lambda: loop.run(gathered()),
                "loop": lambda: loop.run(in_turn()),
            },
        )
        found = measure(samples, effort, rounds=20, seconds=20)
    for baseline in ("gather, 16 at once", "loop"):
        yield compare("map", "async map()", found["map()"], found[baseline], baseline)


def _same(item: int) -> int:
    return item


def _first(item: tuple[int]) -> int:
    return item[0]


def _together(pool_by_item: list[ConnectionPool[Any]], items: list[int]) -> Callable[[ConnectionPool[Any]], None]:
    """All items of one pool in one transaction."""

    def together(pool: ConnectionPool[Any]) -> None:
        with pool.connection() as conn:
            for own, item in zip(pool_by_item, items, strict=True):
                if own is pool:
                    conn.execute(_UPDATE, (item,))

    return together


def _sent(pool_by_item: list[ConnectionPool[Any]], items: list[int]) -> Callable[[ConnectionPool[Any]], None]:
    """All items of one pool in one transaction, by psycopg's executemany()."""

    def sent(pool: ConnectionPool[Any]) -> None:
        with pool.connection() as conn, conn.cursor() as cursor:
            cursor.executemany(_UPDATE, [(item,) for own, item in zip(pool_by_item, items, strict=True) if own is pool])

    return sent


def _per_item(items: list[int], runs: dict[str, Callable[[], object]]) -> dict[str, Sample]:
    """Seconds per item rather than per run."""

    def per_item(sample: Sample) -> Sample:
        return lambda: sample() / len(items)

    return {name: per_item(repeat(operation, 1)) for name, operation in runs.items()}
