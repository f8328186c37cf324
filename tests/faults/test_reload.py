"""G9: a reload never breaks a running call, and a bad file changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Event
from time import monotonic

import pytest

from shardpool import ConfigError, RouterMisuse, StaleTopology

from .calls import Calls
from .fleet import FaultFleet
from .workload import Workload

RELOADS = 40


@pytest.mark.parametrize("change", ["pool sizes", "addresses"])
def test_forty_reloads_under_load_break_no_call(
    change: str, fleet: FaultFleet, open_calls: Callable[..., Calls], tmp_path: Path
) -> None:
    """Addresses: a shard moves from its proxy to the server itself and back, which is another endpoint."""
    file = tmp_path / "topology.yaml"
    file.write_text(fleet.text())
    calls = open_calls(str(file))
    with Workload(calls, fleet.keys(5), callers=8, think=0.004, timeout=5.0) as workload:
        for number in range(RELOADS):
            if change == "pool sizes":
                text = fleet.text(epoch=number + 2, pool=f"{{max_size: {(2, 8, 5)[number % 3]}}}")
            else:
                text = fleet.text(epoch=number + 2, direct=("s2",) if number % 2 else ())
            file.write_text(text)
            calls.go(calls.reload())
            _wait_for_more(workload)
    failed = [(call.verb, call.shard, repr(call.error)) for call in workload.calls if not call.is_well]
    assert failed == []
    assert workload.violations(fleet.rows()) == []
    assert len(workload.calls) > 300
    assert calls.router.topology.epoch == RELOADS + 1
    in_flight = {name: shard["primary"]["in_flight"] for name, shard in calls.router.stats()["shards"].items()}
    assert set(in_flight.values()) == {0}


def _wait_for_more(workload: Workload) -> None:
    """Return when a call on the changed shard that began after now was well: a busy machine connects slowly."""
    begun, end = monotonic(), monotonic() + 20
    while monotonic() < end:
        Event().wait(0.005)
        if any(call.shard == "s2" and call.is_well and call.due >= begun for call in workload.calls[-40:]):
            return


def test_scatters_streams_and_loads_go_on_over_reloads(
    fleet: FaultFleet, open_calls: Callable[..., Calls], tmp_path: Path
) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(fleet.text())
    calls = open_calls(str(file))
    ended = Event()
    rounds: list[int] = []

    async def ask() -> int:
        times = 0
        while not ended.is_set():
            assert len(await calls.scatter("select 1", timeout=5.0)) == 4
            await calls.stream("select id from ledger order by id", timeout=5.0)
            await calls.query("select count(*) from ledger", timeout=5.0)
            assert len(await calls.copy_into([(key, key) for key in range(20)], timeout=5.0)) == 4
            times += 1
            rounds.append(times)
        return times

    running = [calls.spawn(ask()) for _ in range(3)]
    for number in range(30):
        file.write_text(fleet.text(epoch=number + 2, direct=("s2",) if number % 2 else ()))
        calls.go(calls.reload())
        done, end = len(rounds), monotonic() + 20
        while len(rounds) == done and monotonic() < end:
            Event().wait(0.005)
    ended.set()
    assert min(future.result(20) for future in running) > 3


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("shards: [", ConfigError),
        ("", ConfigError),
        ("version: 1\nfleet: other\nepoch: 9\nshards: {s0: {primary: {host: 127.0.0.1}}}\n", StaleTopology),
    ],
    ids=["not YAML", "empty", "another fleet"],
)
def test_a_bad_file_changes_nothing(
    text: str, error: type[Exception], fleet: FaultFleet, open_calls: Callable[..., Calls], tmp_path: Path
) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(fleet.text(epoch=5))
    calls = open_calls(str(file))
    with Workload(calls, fleet.keys(2), callers=2, timeout=5.0) as workload:
        before = calls.router.topology
        for bad in (text, fleet.text(epoch=4)):
            file.write_text(bad)
            with pytest.raises(error if bad is text else StaleTopology):
                calls.go(calls.reload())
        Event().wait(0.1)
        assert calls.router.topology is before
    assert all(call.is_well for call in workload.calls)


def test_a_call_that_waits_behind_one_of_an_old_pool_goes_on_in_the_new_one(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(pool="{max_size: 1}"))
    key = fleet.keys(1)["s2"][0]
    calls.go(calls.execute(key, "select 1"))
    holds = calls.spawn(calls.execute(key, "select pg_sleep(3)", timeout=10.0))
    Event().wait(0.2)
    waits = [
        calls.spawn(calls.execute(key, "select 1", timeout=10.0)),
        calls.spawn(calls.scatter("select 1", timeout=10.0)),
    ]
    Event().wait(0.2)
    calls.go(calls.reload(fleet.topology(pool="{max_size: 1}", epoch=2, direct=("s2",))))
    for waiting in waits:
        waiting.result(1.5)
    assert not holds.done()
    holds.result(5.0)


def test_a_call_that_waits_when_the_router_is_closed_is_told_so_at_once(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(pool="{max_size: 1}"))
    key = fleet.keys(1)["s2"][0]
    calls.go(calls.execute(key, "select 1"))
    holds = calls.spawn(calls.execute(key, "select pg_sleep(2)", timeout=10.0))
    Event().wait(0.2)
    waits = calls.spawn(calls.execute(key, "select 1", timeout=10.0))
    Event().wait(0.2)
    calls.go(calls.close())
    with pytest.raises(RouterMisuse):
        waits.result(1.0)
    holds.result(5.0)
