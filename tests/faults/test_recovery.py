"""G6 and G7: down is told at once, back is back at once, and nothing is ever stuck for good."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from threading import Event
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import Router, ShardpoolError, ShardUnavailable
from tests.timing import SLACK, in_time, not_after

from .calls import Calls
from .fleet import FaultFleet
from .processes import FAULTS, network
from .proxy import Cut
from .workload import Workload

SICK = "s1"
TIMEOUT = 1.0
# The breaker may take one deadline to be sure.
OPEN_SECONDS = TIMEOUT + 0.3
# Not a connection made in vain, and no time of a server: 0.2 ms on a quiet machine.
REFUSAL_SECONDS = 0.01
FIRST_SECONDS = 1.0
STEADY_SECONDS = 2.0


class _Callers:
    """Some callers of one key, one call after another: (begun, error) of each call."""

    def __init__(self, calls: Calls, key: int, count: int = 4) -> None:
        self.made: list[tuple[float, BaseException | None]] = []
        self._calls = calls
        self._key = key
        self._ended = False
        self._running = [calls.spawn(self._call()) for _ in range(count)]

    async def _call(self) -> None:
        while not self._ended:
            begun = monotonic()
            error: BaseException | None = None
            try:
                await self._calls.execute(self._key, "select 1", timeout=TIMEOUT)
            except Exception as raised:
                error = raised
            self.made.append((begun, error))
            await self._calls.pause(0.02)

    def end(self) -> None:
        self._ended = True
        for caller in self._running:
            caller.result(10)


@pytest.mark.parametrize("fault", ["killed", "frozen", "black hole", "unreachable", "refused"])
def test_a_shard_that_is_down_refuses_at_once_and_answers_soon_after_it_is_back(
    fault: str, fleet: FaultFleet, calls: Calls, seconds: float
) -> None:
    key = fleet.keys(1)[SICK][0]
    callers = _Callers(calls, key)
    Event().wait(0.3)
    with FAULTS[fault](fleet, SICK):
        Event().wait(OPEN_SECONDS)
        refusals = calls.go(_refusals(calls, key))
        Event().wait(max(0.0, seconds - OPEN_SECONDS))
    back = monotonic()
    assert _answers_within(calls, key, SLACK * FIRST_SECONDS)
    Event().wait(0.5)
    callers.end()
    sick = [begun - back for begun, error in callers.made if error is not None and begun >= back]
    in_time(median(refusals), REFUSAL_SECONDS / SLACK, f"the refusals, {len(refusals)} calls")
    in_time(max(sick, default=0.0), STEADY_SECONDS, "errors after the end")


async def _refusals(calls: Calls, key: int) -> list[float]:
    """The seconds of 300 calls one after another; of fewer when that takes ten times as long as is promised at most."""
    found: list[float] = []
    end = monotonic() + SLACK * TIMEOUT
    while monotonic() < end and len(found) < 300:
        begun = monotonic()
        with pytest.raises((ShardpoolError, psycopg.Error)):
            await calls.execute(key, "select 1", timeout=TIMEOUT)
        found.append(monotonic() - begun)
    return found


def test_ten_times_killed_and_started_a_shard_answers_each_time(fleet: FaultFleet, calls: Calls) -> None:
    key = fleet.keys(1)[SICK][0]
    with Workload(calls, fleet.keys(5), callers=6, think=0.01) as workload:
        for cycle in range(10):
            with FAULTS["killed"](fleet, SICK):
                Event().wait(0.1)
            assert _answers_within(calls, key, SLACK * STEADY_SECONDS), f"stuck after {cycle + 1} times"
    assert workload.violations(fleet.rows()) == [], workload.account()


def _answers_within(calls: Calls, key: int, seconds: float) -> bool:
    end = monotonic() + seconds
    while monotonic() < end:
        try:
            calls.go(calls.execute(key, "select 1", timeout=TIMEOUT))
        except (ShardpoolError, psycopg.Error):
            Event().wait(0.02)
        else:
            return True
    return False


@pytest.mark.parametrize("fault", ["frozen", "black hole"])
def test_a_full_queue_is_empty_again_after_the_fault(
    fault: str, fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(pool="{max_size: 2, max_waiting: 2}"))
    key = fleet.keys(1)[SICK][0]
    callers = _Callers(calls, key, count=12)
    Event().wait(0.2)
    with FAULTS[fault](fleet, SICK):
        Event().wait(1.5)
    callers.end()
    assert _answers_within(calls, key, SLACK * STEADY_SECONDS)
    stats: dict[str, Any] = calls.router.stats()["shards"][SICK]["primary"]
    assert (stats["in_flight"], stats["waiting"]) == (0, 0)


def test_odd_errors_of_what_the_user_brings_do_not_keep_a_shard_down(
    kind: str, fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    odd: list[type[Exception]] = []

    class Sometimes(psycopg.Connection[Any] if kind == "sync" else psycopg.AsyncConnection[Any]):  # type: ignore[misc]
        @classmethod
        def connect(cls, *args: Any, **kwargs: Any) -> Any:
            if odd:
                raise odd[0]("odd")
            return super().connect(*args, **kwargs)

    calls = open_calls(connection_class=Sometimes)
    key = fleet.keys(1)[SICK][0]
    calls.go(calls.execute(key, "select 1"))
    for error in (ValueError, ZeroDivisionError):
        odd.append(error)
        fleet.proxies[SICK].reset_all()
        _fails_until_refused(calls, key)
        Event().wait(0.5)
        odd.clear()
        seconds = _seconds_until_well(calls, key)
        in_time(seconds, FIRST_SECONDS)


def _fails_until_refused(calls: Calls, key: int) -> None:
    end = monotonic() + 20
    while calls.router.stats()["shards"][SICK]["primary"]["state"] != "open":
        not_after(end)
        with pytest.raises((ShardpoolError, psycopg.Error)):
            calls.go(calls.execute(key, "select 1"))


def _seconds_until_well(calls: Calls, key: int) -> float | None:
    begun = monotonic()
    while monotonic() - begun < 20:
        try:
            calls.go(calls.execute(key, "select 1"))
        except (ShardpoolError, psycopg.Error):
            Event().wait(0.02)
        else:
            return monotonic() - begun
    return None


@pytest.mark.parametrize("verb", ["query", "stream"])
def test_a_shard_that_only_calls_on_all_shards_use_is_found_frozen_by_their_first_deadline(
    verb: str, fleet: FaultFleet, calls: Calls
) -> None:
    sql = "select count(distinct id) from ledger" if verb == "query" else "select id from ledger order by id"
    call: Any = getattr(calls, verb)
    calls.go(call(sql, timeout=5.0))
    with FAULTS["frozen"](fleet, SICK):
        begun = monotonic()
        while calls.router.stats()["shards"][SICK]["primary"]["state"] != "open":
            in_time(monotonic() - begun, 0.5 + OPEN_SECONDS)
            with pytest.raises(ShardpoolError):
                calls.go(call(sql, timeout=0.5))


def test_a_pool_that_has_lost_its_connections_is_made_anew(fleet: FaultFleet, open_calls: Callable[..., Calls]) -> None:
    """As it does when interrupts come in the midst of psycopg_pool's doings."""
    calls = open_calls(fleet.topology(pool="{max_size: 2}", connect=", connect_timeout: 1"))
    key = fleet.keys(1)[SICK][0]
    calls.go(calls.execute(key, "select 1"))
    snapshot: Any = calls.router._fleet.snapshot
    lost = [calls.go(_taken_behind(calls, snapshot.shards[SICK].primary._inner.current)) for _ in range(2)]
    assert len(lost) == 2
    with pytest.raises(ShardpoolError):
        calls.go(calls.execute(key, "select 1", timeout=0.3))
    seconds = _seconds_until_well(calls, key)
    in_time(seconds, 4.0)


async def _taken_behind(calls: Calls, pool: Any) -> Any:
    found = pool.getconn()
    return await found if hasattr(found, "__await__") else found


def test_an_answer_shows_that_an_endpoint_is_well_though_the_last_connection_to_it_failed(fleet: FaultFleet) -> None:
    """What reads its state must not hear for good of a connection that nobody has needed since."""
    (key,) = fleet.keys(1)[SICK]
    with Router(fleet.topology(timeout=SLACK)) as router:

        def last_error() -> Any:
            return router.stats()["shards"][SICK]["primary"]["last_error"]

        route = router.for_key(key)
        with route.connection() as conn:
            with network(Cut(b"shardpool.", times=2))(fleet, SICK), pytest.raises(ShardUnavailable):
                route.execute("select 1")
            assert last_error() is not None
            conn.execute("select 1")
        assert last_error() is None
