"""Calls that are cancelled anywhere, once and again while they tidy up: every place and connection is there afterwards.

Each verb, and each way in which a statement is answered by several shards.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, ShardpoolError
from tests.timing import not_after

from .fleet import FaultFleet

MAX_SIZE = 4
SECONDS = 0.1
ROWS = 4000
Verb = Callable[[AsyncRouter, int], Awaitable[Any]]
# Of about a tenth of a second, to be cancelled while it runs.
SLOW = "select pg_sleep(0.05), id from ledger limit 1"


async def _sleep(conn: Any, *_: Any) -> None:
    await conn.execute("insert into ledger values (-1, 1)")
    await conn.execute("select pg_sleep(0.05)")


async def _connection(router: AsyncRouter, key: int) -> None:
    async with router.for_key(key).connection(timeout=SECONDS) as conn:
        await _sleep(conn)


async def _transaction(router: AsyncRouter, key: int) -> None:
    async with router.for_key(key).transaction(timeout=SECONDS, block_timeout=SECONDS) as conn:
        await _sleep(conn)


async def _getconn(router: AsyncRouter, key: int) -> None:
    conn = await router.for_key(key).getconn(timeout=SECONDS)
    try:
        await _sleep(conn)
    finally:
        await router.for_key(key).putconn(conn)


def _stream(sql: str, *, left: bool = False, **options: Any) -> Verb:
    async def stream(router: AsyncRouter, key: int) -> None:
        rows: Any = router.stream(sql, timeout=SECONDS, size=50, **options)
        async with aclosing(rows):
            async for _ in rows:
                await asyncio.sleep(0)
                if left:
                    break

    return stream


def _execute(sql: str, **options: Any) -> Verb:
    return lambda router, key: router.execute(sql, timeout=SECONDS, **options)


def _copy(router: AsyncRouter, key: int) -> Awaitable[Any]:
    rows = [(number, -2) for number in range(3000)]
    return router.copy_into("ledger", rows, columns=["tenant_id", "id"], timeout=SECONDS)


SORTED = "select tenant_id, id from ledger order by id, tenant_id"
VERBS: dict[str, Verb] = {
    "execute of a route": lambda router, key: router.for_key(key).execute(SLOW, timeout=SECONDS),
    "execute of a key in the text": _execute("select pg_sleep(0.05) from ledger where tenant_id = 1 limit 1"),
    "concatenate": _execute("select tenant_id, id from ledger"),
    "merge": _execute(SORTED),
    "add": _execute("select count(*), max(pg_sleep(0.0001)::text) from ledger"),
    "combine": _execute("select id % 7, count(*), max(pg_sleep(0.0001)::text) from ledger group by 1 order by 1"),
    "pull": _execute("select count(*) from ledger", strategy="pull"),
    "partial": _execute(SORTED, partial=True),
    "write": _execute("update ledger set id = id where id = 5"),
    "stream that merges": _stream(SORTED),
    "stream that is left": _stream(SORTED, left=True),
    "stream that concatenates": _stream("select tenant_id, id from ledger", left=True),
    "stream that pulls": _stream("select tenant_id, id from ledger", strategy="pull"),
    "scatter": lambda router, key: router.scatter(SLOW, timeout=SECONDS),
    "scatter of a function": lambda router, key: router.scatter(_sleep, timeout=SECONDS),
    "map": lambda router, key: router.map(_sleep, range(8), key=lambda item: item, timeout=SECONDS),
    "map by shard": lambda router, key: router.map(
        _sleep, range(8), key=lambda item: item, per="shard", timeout=SECONDS
    ),
    "copy_into": _copy,
    "connection": _connection,
    "transaction": _transaction,
    "getconn": _getconn,
    "run": lambda router, key: router.for_key(key).run(_sleep, timeout=SECONDS),
    "token": lambda router, key: router.for_key(key).token(timeout=SECONDS),
    "explain": lambda router, key: router.explain(f"{SORTED} limit {random.randrange(10**6)}", timeout=SECONDS),
    "wait": lambda router, key: router.wait(SECONDS),
    "check": lambda router, key: router.check(timeout=SECONDS),
}
# Seconds after which a call is cancelled, and again after the one before.
CANCELS: dict[str, Callable[[random.Random], list[float]]] = {
    "once": lambda rng: [rng.random() * 0.04],
    "twice": lambda rng: [rng.random() * 0.04, rng.choice((0, 0, rng.random() * 0.01))],
    "three times": lambda rng: [rng.random() * 0.04, 0, 0],
    # Where it tidies up after its own deadline.
    "at its deadline": lambda rng: [SECONDS + rng.random() * 0.03, rng.choice((0, rng.random() * 0.01))],
}


@pytest.mark.parametrize("cancels", CANCELS)
async def test_whatever_is_cancelled_every_place_is_free_afterwards(cancels: str, fleet: FaultFleet) -> None:
    rng = random.Random(cancels)
    topology = fleet.topology(pool=f"{{max_size: {MAX_SIZE}}}", timeout=10.0, direct=tuple(fleet.servers))
    async with AsyncRouter(topology) as router:
        await router.copy_into("ledger", ((n, n) for n in range(ROWS)), columns=["tenant_id", "id"])
        surprises: list[BaseException] = []

        async def caller() -> None:
            for verb in rng.sample(list(VERBS), len(VERBS)):
                error = await _cancelled(VERBS[verb](router, rng.randrange(100)), CANCELS[cancels](rng))
                if not isinstance(error, ShardpoolError | psycopg.Error | asyncio.CancelledError | None):
                    surprises.append(error)
                    raise error

        async with asyncio.timeout(60):
            await asyncio.gather(*(caller() for _ in range(4)))
        assert [repr(error) for error in surprises] == []
        await _all_is_free(router)


async def _cancelled(call: Awaitable[Any], pauses: list[float]) -> BaseException | None:
    task = asyncio.ensure_future(_as_coroutine(call))
    for pause in pauses:
        await asyncio.wait({task}, timeout=pause) if pause else await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait({task})
    return asyncio.CancelledError() if task.cancelled() else task.exception()


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _all_is_free(router: AsyncRouter) -> None:
    """What was left to be done in the background ends; then no place is taken, and every shard serves a full pool."""
    pools = [pool for shard in router._fleet.snapshot.shards.values() for pool in shard.endpoints]
    end = monotonic() + 5
    while any(pool.in_flight or pool.places.scatter.in_use for pool in pools):
        not_after(end, f"places stay taken: {[(pool.in_flight, pool.places.scatter.in_use) for pool in pools]}")
        await asyncio.sleep(0.01)
    for name in router.shards:
        await _serves_all_at_once(router, name)
    for pool in pools:
        stats = pool.stats()["pool"]
        assert (stats["pool_size"], stats["pool_available"]) == (MAX_SIZE, MAX_SIZE)
    assert len(await router.scatter("select 1", timeout=5)) == len(pools)


async def _serves_all_at_once(router: AsyncRouter, name: str) -> None:
    together = asyncio.Barrier(MAX_SIZE)

    async def one() -> None:
        async with router.shard(name).connection(timeout=5) as conn:
            await conn.execute("select 1")
            async with asyncio.timeout(5):
                await together.wait()

    with suppress(asyncio.BrokenBarrierError):
        await asyncio.gather(*(one() for _ in range(MAX_SIZE)))
