"""The fleet that the tests of this folder break, and callers of both kinds."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from .calls import KINDS, Calls
from .fleet import FaultFleet
from .pair import Pair, running_pair

# How long a fault lasts; the promises are measured with 15 s.
FAULT_SECONDS = float(os.environ.get("SHARDPOOL_FAULT_SECONDS", "2"))


@pytest.fixture(autouse=True)
def _quiet_pools(caplog: pytest.LogCaptureFixture) -> None:
    """psycopg warns of every connection that a test breaks on purpose."""
    caplog.set_level(logging.ERROR, logger="psycopg")


@pytest.fixture(scope="session")
def broken_fleet() -> Iterator[FaultFleet]:
    made = FaultFleet()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def fleet(broken_fleet: FaultFleet) -> FaultFleet:
    """The fleet, well, with an empty ledger."""
    broken_fleet.heal()
    return broken_fleet


@pytest.fixture
def seconds() -> float:
    """How long a fault lasts in this run."""
    return FAULT_SECONDS


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    """`sync` or `async`."""
    return str(request.param)


@pytest.fixture
def open_calls(kind: str, fleet: FaultFleet) -> Iterator[Callable[..., Calls]]:
    """Open a router of the kind: `open_calls(topology=None, router options)`."""
    opened: list[Calls] = []

    def make(topology: Any = None, **options: Any) -> Calls:
        calls = KINDS[kind](topology if topology is not None else fleet.topology(), **options)
        opened.append(calls)
        return calls

    yield make
    for calls in opened:
        calls.stop()


@pytest.fixture
def calls(open_calls: Callable[..., Calls]) -> Calls:
    """A router of the kind on the fleet, through its proxies."""
    return open_calls()


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A new pair for each test: a promotion is not undone."""
    with running_pair() as found:
        yield found


@pytest.fixture
def open_pair(kind: str) -> Iterator[Callable[..., Calls]]:
    """Open a router of the kind on a pair: `open_pair(topology, router options)`."""
    opened: list[Calls] = []

    def make(topology: Any, **options: Any) -> Calls:
        calls = KINDS[kind](topology, **options)
        opened.append(calls)
        return calls

    yield make
    for calls in opened:
        calls.stop()
