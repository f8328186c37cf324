"""What observers are told, and what stands in the log."""

from __future__ import annotations

import logging

import pytest

from shardpool.events import BreakerClosed, BreakerOpened, Connected, Event, Log, Observers, PrimaryChanged

OPENED = BreakerOpened(shard="s1", endpoint="primary", cause="it does not answer")


class Told:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        self.events.append(event)


class Failing:
    def observe(self, event: Event) -> None:
        raise RuntimeError("an observer's own fault")


def test_an_observer_that_fails_keeps_nothing_from_the_others(caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    Observers([Failing(), told]).observe(OPENED)
    assert told.events == [OPENED]
    assert "an observer failed on BreakerOpened" in caplog.text


def test_changes_stand_in_the_log_and_calls_do_not(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="shardpool")
    for event in (
        OPENED,
        BreakerClosed(shard="s1", endpoint="primary", seconds=2.04),
        PrimaryChanged(shard="s0", before="node-1", endpoint=None),
        Connected(shard="s1", endpoint="primary", seconds=0.01),
    ):
        Log().observe(event)
    assert [record.getMessage() for record in caplog.records] == [
        "s1/primary: calls are refused: it does not answer",
        "s1/primary: well again after 2.0 s",
        "s0: the primary is none, was node-1",
    ]
