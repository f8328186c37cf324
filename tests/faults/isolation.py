"""What the callers of healthy shards have while one is sick, against before; both in one run, by the same callers.

The callers are few and shared, and calls become due at a rate that leaves the machine idle for much of the time. A call
counts from when it was due, so that a caller that was stuck elsewhere makes the next calls late.
"""

from __future__ import annotations

from dataclasses import dataclass
from threading import Event
from time import monotonic

from .calls import Calls
from .fleet import FaultFleet
from .processes import FAULTS
from .workload import Call, Workload, percentile

SICK = "s1"
HEALTHY = ("s0", "s2", "s3")
RATE = 250.0


@dataclass(frozen=True, slots=True)
class Window:
    """The calls on healthy shards that ended in a window: how many a second were well, and how long they took."""

    rate: float
    seconds: list[float]
    failed: int

    @property
    def p99(self) -> float:
        return percentile(self.seconds, 99)


def before_and_during(
    calls: Calls, fleet: FaultFleet, fault: str, settling: float, seconds: float
) -> tuple[Window, Window]:
    """Two windows of so many `seconds`: all is well, and the fault; the second begins `settling` seconds after it."""
    with Workload(calls, fleet.keys(10), callers=16, rate=RATE) as workload:
        Event().wait(0.7)
        warm = monotonic()
        Event().wait(seconds)
        ill = monotonic()
        with FAULTS[fault](fleet, SICK):
            Event().wait(settling)
            measured = monotonic()
            Event().wait(seconds)
            end = monotonic()
    return _window(workload.calls, warm, ill), _window(workload.calls, measured if settling else ill, end)


def _window(calls: list[Call], begin: float, end: float) -> Window:
    ended = [call for call in calls if call.shard in HEALTHY and begin <= call.due + call.seconds < end]
    well = [call.seconds for call in ended if call.is_well]
    return Window(len(well) / (end - begin), well, len(ended) - len(well))
