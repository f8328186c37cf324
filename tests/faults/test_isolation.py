"""G4: a sick shard does not hurt healthy ones. By how much it does is told by `make soak`; here it is not for long."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, wait
from statistics import median
from time import monotonic

import pytest

from shardpool import ShardError
from tests.timing import in_time

from .calls import Calls
from .fleet import FaultFleet
from .isolation import HEALTHY, SICK, before_and_during
from .processes import FAULTS


@pytest.mark.parametrize(
    ("pool", "settling", "fault"),
    [
        # A short queue: the callers that the sick shard can hold are few from the first moment on.
        pytest.param("{max_size: 3, max_waiting: 1}", 0.0, "frozen", id="short queue, frozen"),
        pytest.param("{max_size: 3, max_waiting: 1}", 0.0, "black hole", id="short queue, black hole"),
        # The queue as it is by default: once the breaker is open nobody is held.
        pytest.param("{max_size: 8}", 1.4, "frozen", id="default queue, frozen"),
    ],
)
def test_healthy_shards_go_on(
    pool: str, settling: float, fault: str, fleet: FaultFleet, open_calls: Callable[..., Calls], seconds: float
) -> None:
    # Of the sick shard alone: a busy machine makes others wait for the few places of a healthy one.
    calls = open_calls(fleet.topology(sick_pool=pool, direct=HEALTHY))
    before, during = before_and_during(calls, fleet, fault, settling, seconds)
    assert during.failed == 0
    # With a pool for each shard and nothing else, callers that are shared keep 1 to 46 % of it.
    assert during.rate > 0.5 * before.rate
    in_time(median(during.seconds), 0.05)


def test_what_any_shard_can_answer_is_not_asked_of_a_sick_one(fleet: FaultFleet, calls: Calls) -> None:
    calls.go(calls.query("select 1"))
    with FAULTS["frozen"](fleet, SICK):
        key = fleet.keys(1)[SICK][0]
        for _ in range(3):
            with pytest.raises(ShardError):
                calls.go(calls.execute(key, "select 1", timeout=0.3))
        failed = 0
        for _ in range(20):
            try:
                assert calls.go(calls.query("select 1", timeout=2.0)) == [(1,)]
            except ShardError:
                failed += 1
    assert failed == 0


def test_nobody_waits_for_a_place_of_a_server_that_does_not_answer_a_look(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(pool="{max_size: 2}", timeout=30.0))
    key = fleet.keys(1)[SICK][0]
    calls.go(calls.execute(key, "select 1"))
    with FAULTS["frozen"](fleet, SICK):
        begun = monotonic()
        waiting = [calls.spawn(calls.execute(key, "select 1")) for _ in range(6)]
        # Two hold connections until their deadline, or until the look has failed; the others have left the queue.
        refused, _ = wait(waiting, timeout=15, return_when=FIRST_COMPLETED)
        assert all(isinstance(call.exception(), ShardError) for call in refused)
        in_time(monotonic() - begun, 1.0)


def test_a_pool_that_is_full_of_slow_statements_is_waited_for(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(pool="{max_size: 2}", timeout=30.0))
    key = fleet.keys(1)[SICK][0]
    slow = [calls.spawn(calls.execute(key, "select pg_sleep(1)")) for _ in range(2)]
    waiting = [calls.spawn(calls.execute(key, "select 1")) for _ in range(6)]
    assert [call.result(30) for call in waiting] == [[(1,)]] * 6
    assert [len(call.result(30)) for call in slow] == [1, 1]
