"""The same one-row query on many shards at once, against what one would write without the library."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from typing import Any

from shardpool import AsyncRouter, Router

from .fleet import Fleet
from .harness import Effort, Loop, Measured, joined, measure, repeat
from .query import AUTOCOMMIT, KEY, QUERY
from .rows import Row, Target, compare
from .scatter_baselines import gathered, one_after_another, sharded_session, threads

COUNTS = (2, 4, 8, 16, 32)
_OURS = "scatter()"
_ONE = "one shard, execute()"
_THREADS = "psycopg2 pools on threads"
_GATHER = "asyncio.gather over pools"
_TIMES = 4
_ROUNDS = 100
_SECONDS = 4.0


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    openings = range(effort.pick(3, 1))
    for count in COUNTS:
        yield from _rows("sync", count, joined(_sync(effort, fleet, count) for _ in openings))
    for count in COUNTS:
        yield from _rows("async", count, joined(_async(effort, fleet, count) for _ in openings))


def _rows(kind: str, count: int, found: dict[str, Measured]) -> Iterator[Row]:
    for name, measured in found.items():
        if name != _OURS:
            yield compare("scatter", f"{kind}, {count} shards", found[_OURS], measured, name, _target(name, count))


def _target(baseline: str, count: int) -> Target | None:
    if baseline in (_THREADS, _GATHER):
        return Target(most=1.0)
    return Target(most=2.5) if baseline == _ONE and count == 4 else None


def _sync(effort: Effort, fleet: Fleet, count: int) -> dict[str, Measured]:
    databases = fleet.databases[:count]
    with ExitStack() as stack:
        router = stack.enter_context(Router(fleet.topology(count), kwargs=AUTOCOMMIT))
        operations: dict[str, Callable[[], Any]] = {
            _OURS: lambda: [result.rows for result in router.scatter(QUERY, (KEY,)).values()],
            _ONE: lambda: router.for_key(KEY).execute(QUERY, (KEY,)).rows,
            "one after another": stack.enter_context(one_after_another(databases, QUERY, (KEY,))),
            _THREADS: stack.enter_context(threads(databases, QUERY, (KEY,))),
            "SQLAlchemy ShardedSession": stack.enter_context(sharded_session(databases, KEY)),
        }
        samples = {name: repeat(operation, _TIMES) for name, operation in operations.items()}
        return measure(samples, effort, rounds=_ROUNDS, seconds=_SECONDS)


def _async(effort: Effort, fleet: Fleet, count: int) -> dict[str, Measured]:
    with Loop() as loop:
        router = loop.open(AsyncRouter(fleet.topology(count), kwargs=AUTOCOMMIT))
        at_once, in_turn = loop.open(gathered(fleet.databases[:count], QUERY, (KEY,)))

        async def scatter() -> Any:
            return [result.rows for result in (await router.scatter(QUERY, (KEY,))).values()]

        async def one() -> Any:
            return (await router.for_key(KEY).execute(QUERY, (KEY,))).rows

        operations: dict[str, Callable[[], Awaitable[Any]]] = {
            _OURS: scatter,
            _ONE: one,
            "one after another": in_turn,
            _GATHER: at_once,
        }
        samples = {name: loop.repeat(operation, _TIMES) for name, operation in operations.items()}
        return measure(samples, effort, rounds=_ROUNDS, seconds=_SECONDS)
