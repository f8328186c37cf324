"""A query on one shard, by way of its key, against the bare psycopg pool: what the library costs.

The bare pool is the router's own, which is a plain `psycopg_pool.ConnectionPool`, used past the router: so both talk to
the same server process. Two server processes differ by more than what is measured here, by where the system runs them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from shardpool import AsyncRouter, Router

from .fleet import Fleet
from .harness import Effort, Loop, Measured, joined, measure, repeat
from .rows import Row, Target, compare

QUERY = "select id, name from items where id = %s"
AUTOCOMMIT = {"autocommit": True}
KEY = 42
_TIMES = 10
_ROUNDS = 200
_SECONDS = 5.0
_TARGET = Target(most=1.05)

# What is measured on connections in autocommit, and on others: case → what it is compared with.
_IN_AUTOCOMMIT = {
    "execute()": "pool",
    "connection(), autocommit": "pool",
    "transaction()": "pool, transaction()",
}
_OTHERWISE = {"connection()": "pool, BEGIN and COMMIT"}


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    openings = range(effort.pick(4, 2))
    for cases, kwargs in ((_IN_AUTOCOMMIT, AUTOCOMMIT), (_OTHERWISE, {})):
        yield from _rows("sync", cases, joined(_sync(effort, fleet, cases, kwargs) for _ in openings))
    for cases, kwargs in ((_IN_AUTOCOMMIT, AUTOCOMMIT), (_OTHERWISE, {})):
        yield from _rows("async", cases, joined(_async(effort, fleet, cases, kwargs) for _ in openings))


def _sync(effort: Effort, fleet: Fleet, cases: dict[str, str], kwargs: dict[str, bool]) -> dict[str, Measured]:
    with Router(fleet.topology(), kwargs=kwargs) as router:
        operations = _operations(router, cases)
        samples = {name: repeat(operation, _TIMES) for name, operation in operations.items()}
        return measure(samples, effort, rounds=_ROUNDS, seconds=_SECONDS)


def _async(effort: Effort, fleet: Fleet, cases: dict[str, str], kwargs: dict[str, bool]) -> dict[str, Measured]:
    with Loop() as loop:
        router = loop.open(AsyncRouter(fleet.topology(), kwargs=kwargs))
        operations = loop.run(_async_operations(router, cases))
        samples = {name: loop.repeat(operation, _TIMES) for name, operation in operations.items()}
        return measure(samples, effort, rounds=_ROUNDS, seconds=_SECONDS)


def _operations(router: Router, cases: dict[str, str]) -> dict[str, Callable[[], Any]]:
    route = router.for_key(KEY)
    route.execute(QUERY, (KEY,))
    pool: Any = router._fleet.snapshot.shards[route.shard].primary._inner.current

    def execute() -> Any:
        return router.for_key(KEY).execute(QUERY, (KEY,)).rows

    def connection() -> Any:
        with router.for_key(KEY).connection() as conn:
            return conn.execute(QUERY, (KEY,)).fetchall()

    def transaction() -> Any:
        with router.for_key(KEY).transaction() as conn:
            return conn.execute(QUERY, (KEY,)).fetchall()

    def bare() -> Any:
        with pool.connection() as conn:
            return conn.execute(QUERY, (KEY,)).fetchall()

    def bare_transaction() -> Any:
        with pool.connection() as conn, conn.transaction():
            return conn.execute(QUERY, (KEY,)).fetchall()

    return _chosen(cases, execute, connection, transaction, bare, bare_transaction)


async def _async_operations(router: AsyncRouter, cases: dict[str, str]) -> dict[str, Callable[[], Awaitable[Any]]]:
    route = router.for_key(KEY)
    await route.execute(QUERY, (KEY,))
    pool: Any = router._fleet.snapshot.shards[route.shard].primary._inner.current

    async def execute() -> Any:
        return (await router.for_key(KEY).execute(QUERY, (KEY,))).rows

    async def connection() -> Any:
        async with router.for_key(KEY).connection() as conn:
            return await (await conn.execute(QUERY, (KEY,))).fetchall()

    async def transaction() -> Any:
        async with router.for_key(KEY).transaction() as conn:
            return await (await conn.execute(QUERY, (KEY,))).fetchall()

    async def bare() -> Any:
        async with pool.connection() as conn:
            return await (await conn.execute(QUERY, (KEY,))).fetchall()

    async def bare_transaction() -> Any:
        async with pool.connection() as conn, conn.transaction():
            return await (await conn.execute(QUERY, (KEY,))).fetchall()

    return _chosen(cases, execute, connection, transaction, bare, bare_transaction)


def _chosen(
    cases: dict[str, str], execute: Any, connection: Any, transaction: Any, bare: Any, bare_transaction: Any
) -> dict[str, Any]:
    operations = {
        "execute()": execute,
        "connection(), autocommit": connection,
        "connection()": connection,
        "transaction()": transaction,
        "pool": bare,
        "pool, transaction()": bare_transaction,
        "pool, BEGIN and COMMIT": bare,
    }
    return {name: operations[name] for name in (*cases, *dict.fromkeys(cases.values()))}


def _rows(kind: str, cases: dict[str, str], found: dict[str, Measured]) -> Iterator[Row]:
    for case, baseline in cases.items():
        yield compare("query", f"{kind} {case}", found[case], found[baseline], baseline, _TARGET)
