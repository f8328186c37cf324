"""Transactions over shards against psycopg's own on one server: what one, two and three shards cost. Snapshots of four.

All on the same servers, which do not flush; with flushes count those in sequence: one for a plain COMMIT, three for a
commit in two phases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from threading import Event
from typing import Any

from shardpool import Router
from shardpool.topology import Topology

from .fleet import Fleet
from .harness import Effort, Measured, measure, repeat
from .query import AUTOCOMMIT
from .rows import Row, Target, alone, compare

_UPDATE = "update accounts set hits = hits + 1 where id = %s"
_KEYS = 200
_TIMES = 5
_ROUNDS = 200
_SECONDS = 10.0
_ONE = Target(most=1.05)
_TWO = Target(most=3.5)
_THREE = Target(most=1.3)

_PLAIN = "pool, transaction()"
_ONE_SHARD = "transaction(), 1 shard, 2 updates"
_TWO_SHARDS = "transaction(), 2 shards"
_THREE_SHARDS = "transaction(), 3 shards"
_STATEMENT = "execute(), 1 update of 2 shards"
_ATOMIC = "snapshot(), open and end, 4 shards"
_STRICT = "snapshot(cut='strict'), open and end, 4 shards"
_BESIDE = "{}, beside commits over 2 shards"
_OPENING = 5e-3
# Threads that commit over two shards, and how long they pause in between: some 300 commits in a second.
_WRITERS, _PAUSE = 2, 3e-3


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    # The databases of the fleet hold the same rows each: these are where their keys belong, as `init` wants them.
    topology = fleet.topology(connections=4)
    keyspace = replace(topology.keyspaces["items"], tables={"public.accounts": ("id",)})
    topology = replace(topology, control="required", keyspaces={"items": keyspace})
    with Router(topology, kwargs=AUTOCOMMIT) as router:
        router.init()
        router.scatter("create table accounts (id bigint primary key, hits bigint not null)")
        router.copy_into("accounts", [(key, 0) for key in range(_KEYS)], columns=["id", "hits"])
        samples = {name: repeat(operation, _TIMES) for name, operation in _operations(router).items()}
        found = measure(samples, effort, rounds=_ROUNDS, seconds=_SECONDS)
        snapshots = {_ATOMIC: repeat(_opened(router, "atomic"), 1), _STRICT: repeat(_opened(router, "strict"), 1)}
        found |= measure(snapshots, effort, rounds=_ROUNDS, seconds=_SECONDS / 2)
        with _writers(topology):
            beside = {_BESIDE.format(name): sample for name, sample in snapshots.items()}
            found |= measure(beside, effort, rounds=_ROUNDS, seconds=_SECONDS / 2)
        router.scatter("drop table accounts; drop schema shardpool cascade")
    yield _row(_ONE_SHARD, found, _PLAIN, _ONE)
    yield _row(_STATEMENT, found, _PLAIN, _TWO)
    yield _row(_TWO_SHARDS, found, _PLAIN, _TWO)
    yield _row(_THREE_SHARDS, found, _TWO_SHARDS, _THREE)
    for name in (_ATOMIC, _STRICT):
        most = _OPENING if name == _ATOMIC else None
        yield alone("transactions", name, found[name], most)
        yield alone("transactions", _BESIDE.format(name), found[_BESIDE.format(name)], most)


def _row(name: str, found: dict[str, Measured], baseline: str, target: Target) -> Row:
    return compare("transactions", name, found[name], found[baseline], baseline, target)


def _opened(router: Router, cut: Any) -> Callable[[], None]:
    def snapshot() -> None:
        with router.snapshot(cut=cut):
            pass

    return snapshot


@contextmanager
def _writers(topology: Topology) -> Iterator[None]:
    """Threads that commit over two shards, by a router of their own."""
    stop = Event()

    def write(first: int, second: int) -> None:
        while not stop.wait(_PAUSE):
            router.execute("update accounts set hits = hits + 1 where id = any (%s)", ([first, second],))

    with Router(topology, kwargs=AUTOCOMMIT) as router, ThreadPoolExecutor(_WRITERS) as threads:
        keys = list(_keys(router).values())
        for number in range(_WRITERS):
            threads.submit(write, keys[2 * number][0], keys[2 * number + 1][0])
        try:
            yield
        finally:
            stop.set()


def _keys(router: Router) -> dict[str, list[int]]:
    """By shard its keys."""
    keys: dict[str, list[int]] = {}
    for key in range(_KEYS):
        keys.setdefault(router.for_key(key).shard, []).append(key)
    return keys


def _operations(router: Router) -> dict[str, Callable[[], Any]]:
    first, second, third, *_ = _keys(router).values()
    pool: Any = router.for_key(first[0])
    pool.execute(_UPDATE, (first[0],))
    pool = router._fleet.snapshot.shards[pool.shard].primary._inner.current

    def plain() -> None:
        with pool.connection() as conn, conn.transaction():
            conn.execute(_UPDATE, (first[0],))
            conn.execute(_UPDATE, (first[1],))

    def over(*chosen: int) -> Callable[[], None]:
        def transaction() -> None:
            with router.transaction() as tx:
                for key in chosen:
                    tx.execute(_UPDATE, (key,))

        return transaction

    def statement() -> None:
        router.execute("update accounts set hits = hits + 1 where id = any (%s)", ([first[0], second[0]],))

    return {
        _PLAIN: plain,
        _ONE_SHARD: over(first[0], first[1]),
        _TWO_SHARDS: over(first[0], second[0]),
        _THREE_SHARDS: over(first[0], second[0], third[0]),
        _STATEMENT: statement,
    }
