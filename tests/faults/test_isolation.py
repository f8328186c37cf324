"""G4: a sick shard does not hurt healthy ones. By how much it does is told by `make soak`; here it is not for long."""

from __future__ import annotations

from collections.abc import Callable
from statistics import median

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
    calls = open_calls(fleet.topology(pool=pool, direct=HEALTHY))
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
                assert calls.go(calls.query("select 1", timeout=0.3)) == [(1,)]
            except ShardError:
                failed += 1
    assert failed == 0
