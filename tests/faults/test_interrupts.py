"""Exceptions that a signal handler raises, which come after any call: no place and no connection is lost."""

from __future__ import annotations

import gc
import random
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from time import monotonic
from typing import Any, cast

import psycopg
import pytest

from shardpool import Router, ShardpoolError
from tests.timing import not_after

from .fleet import FaultFleet

MAX_SIZE = 4
SECONDS = 0.2
ROUNDS = 12
SORTED = "select tenant_id, id from ledger order by id, tenant_id"
Verb = Callable[[Router, int], Any]


def _sleep(conn: Any, *_: Any) -> None:
    conn.execute("insert into ledger values (-1, 1)")
    conn.execute("select pg_sleep(0.005)")


def _block(router: Router, key: int) -> None:
    with router.for_key(key).connection(timeout=SECONDS, block_timeout=SECONDS) as conn:
        _sleep(conn)


def _transaction(router: Router, key: int) -> None:
    with router.for_key(key).transaction(timeout=SECONDS, block_timeout=SECONDS) as conn:
        _sleep(conn)


def _stream(router: Router, key: int) -> None:
    with closing(cast("Any", router.stream(SORTED, timeout=SECONDS, size=50))) as rows:
        for number, _ in enumerate(rows):
            if number > key * 10:
                break


def _copy(router: Router, key: int) -> None:
    router.copy_into("ledger", [(n, -2) for n in range(500)], columns=["tenant_id", "id"], timeout=SECONDS)


VERBS: dict[str, Verb] = {
    "execute of a route": lambda router, key: router.for_key(key).execute("select 1", timeout=SECONDS),
    "execute of a key in the text": lambda router, key: router.execute(
        "select id from ledger where tenant_id = %s", (key,), timeout=SECONDS
    ),
    "merge": lambda router, key: router.execute(SORTED, timeout=SECONDS),
    "add": lambda router, key: router.execute("select count(*) from ledger", timeout=SECONDS),
    "pull": lambda router, key: router.execute("select count(*) from ledger", strategy="pull", timeout=SECONDS),
    "write": lambda router, key: router.execute("update ledger set id = id where id = 5", timeout=SECONDS),
    "stream": _stream,
    "scatter": lambda router, key: router.scatter("select 1", timeout=SECONDS),
    "scatter of a function": lambda router, key: router.scatter(_sleep, timeout=SECONDS),
    "map": lambda router, key: router.map(_sleep, range(8), key=lambda item: item, timeout=SECONDS),
    "copy_into": _copy,
    "connection": _block,
    "transaction": _transaction,
    "run": lambda router, key: router.for_key(key).run(_sleep, timeout=SECONDS),
    "explain": lambda router, key: router.explain(f"{SORTED} limit {random.randrange(10**6)}", timeout=SECONDS),
    "wait": lambda router, key: router.wait(SECONDS),
    "check": lambda router, key: router.check(timeout=SECONDS),
}


class _Interrupt(BaseException):
    pass


@contextmanager
def _alarms() -> Iterator[None]:
    def interrupt(*_: Any) -> None:
        raise _Interrupt

    before, hook = signal.signal(signal.SIGALRM, interrupt), sys.unraisablehook
    # Where a finalizer is interrupted, Python only says so: here to nobody, by a function that is not interrupted.
    sys.unraisablehook = bool  # type: ignore[assignment]
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = hook


@pytest.mark.parametrize("again", [0.0, 0.002], ids=["once", "every two milliseconds"])
def test_wherever_a_signal_handler_raises_every_place_is_free_afterwards(again: float, fleet: FaultFleet) -> None:
    rng = random.Random(again)
    topology = fleet.topology(pool=f"{{max_size: {MAX_SIZE}}}", timeout=10.0, direct=tuple(fleet.servers))
    with Router(topology) as router, _alarms():
        router.copy_into("ledger", ((n, n) for n in range(1000)), columns=["tenant_id", "id"])
        for _ in range(ROUNDS):
            for verb in rng.sample(list(VERBS), len(VERBS)):
                _interrupted(VERBS[verb], router, rng, again)
        _all_is_free(router)


def _interrupted(verb: Verb, router: Router, rng: random.Random, again: float) -> None:
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, rng.choice((0.0002, 0.002, 0.02)) * (rng.random() + 0.01), again)
            verb(router, rng.randrange(100))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except (_Interrupt, ShardpoolError, psycopg.Error):
        pass
    except RuntimeError as error:
        # threading.Condition's own, when it is interrupted between two steps of its wait.
        assert "un-acquired lock" in str(error) or "release unlocked lock" in str(error)


def _all_is_free(router: Router) -> None:
    pools = [pool for shard in router._fleet.snapshot.shards.values() for pool in shard.endpoints]
    # An exception and the frames that it went through refer to each other: what those held is garbage by now.
    gc.collect()
    end = monotonic() + 15
    while any(pool.in_flight or pool.places.scatter.in_use for pool in pools):
        not_after(end, f"places stay taken: {[(pool.in_flight, pool.places.scatter.in_use) for pool in pools]}")
        threading.Event().wait(0.01)
    for name in router.shards:
        _serves_all_at_once(router, name)
    assert len(router.scatter("select 1", timeout=5)) == len(pools)


def _serves_all_at_once(router: Router, name: str) -> None:
    """As many callers as the pool is to hold have a connection at the same time."""
    together = threading.Barrier(MAX_SIZE, timeout=30)
    errors: list[BaseException] = []

    def one() -> None:
        try:
            with router.shard(name).connection(timeout=20) as conn:
                conn.execute("select 1")
                together.wait()
        except BaseException as error:
            errors.append(error)
            together.abort()

    threads = [threading.Thread(target=one) for _ in range(MAX_SIZE)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
