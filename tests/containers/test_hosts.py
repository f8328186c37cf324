"""The promises on deadlines and isolation, where each server is a host of its own that is paused, killed or cut off."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from itertools import count
from time import monotonic
from typing import Any

import pytest

from shardpool import ShardpoolError
from tests.faults.calls import KINDS, Calls
from tests.timing import SLACK, in_time

from .engine import wait_until
from .hosts import FAULTS, SHARDS, Hosts

SICK = "s1"
LIMIT = 1.0
COUNT = "select count(*) from ledger"
# Never the same again: what a frozen host was sent before it was given up may arrive long after.
_NUMBERS = count(1)


@pytest.fixture(params=list(KINDS))
def calls(request: pytest.FixtureRequest, hosts: Hosts) -> Iterator[Calls]:
    opened = KINDS[request.param](hosts.topology())
    try:
        yield opened
    finally:
        opened.stop()


def keys(calls: Calls) -> dict[str, int]:
    """A key of each shard."""
    found: dict[str, int] = {}
    for key in range(1000):
        found.setdefault(calls.router.for_key(key).shard, key)
    assert sorted(found) == SHARDS
    return found


def outcome(future: Future[Any]) -> BaseException | None:
    """How a call ended; fails when it does not end."""
    return future.exception(SLACK * LIMIT)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_sick_host_holds_no_call_past_its_deadline_and_no_call_of_another(
    fault: str, hosts: Hosts, calls: Calls
) -> None:
    key_of = keys(calls)
    calls.go(calls.query(COUNT, timeout=60))
    with FAULTS[fault](hosts, SICK):
        begun = monotonic()
        sick = [calls.spawn(calls.execute(key_of[SICK], COUNT, timeout=LIMIT)) for _ in range(20)]
        everywhere = [calls.spawn(calls.query(COUNT, timeout=LIMIT)) for _ in range(3)]
        healthy = [
            calls.spawn(calls.execute(key, "select 1", timeout=SLACK * LIMIT))
            for shard, key in key_of.items()
            if shard != SICK
            for _ in range(5)
        ]
        assert {type(outcome(call)) for call in healthy} == {type(None)}
        assert all(isinstance(outcome(call), ShardpoolError) for call in sick + everywhere)
        in_time(monotonic() - begun, LIMIT)
    wait_until(lambda: _works(calls, key_of[SICK]), 60, f"{SICK} is well, and is not used again")


def _works(calls: Calls, key: int) -> bool:
    return calls.spawn(calls.execute(key, "select 1", timeout=5)).exception(60) is None


@pytest.mark.parametrize("fault", FAULTS)
def test_a_write_that_was_acknowledged_is_there_once_and_no_other_twice(fault: str, hosts: Hosts, calls: Calls) -> None:
    key = keys(calls)[SICK]
    insert = "insert into ledger values (%s, %s)"
    numbers = [next(_NUMBERS) for _ in range(20)]
    calls.go(calls.execute(key, "select 1", timeout=60))
    writes: dict[int, Future[Any]] = {}

    def write(number: int) -> None:
        writes[number] = calls.spawn(calls.execute(key, insert, (key, number), timeout=LIMIT))

    for number in numbers[:10]:
        write(number)
    with FAULTS[fault](hosts, SICK):
        for number in numbers[10:]:
            write(number)
        acknowledged = {number for number, call in writes.items() if outcome(call) is None}
    wait_until(lambda: _works(calls, key), 60, f"{SICK} is well, and is not used again")
    there = hosts.rows(SICK)
    counts = {number: there[key, number] for number in numbers}
    assert not {number: found for number, found in counts.items() if found > 1}
    assert not {number: found for number, found in counts.items() if found < 1 and number in acknowledged}
