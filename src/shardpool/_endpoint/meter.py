"""What a router counts of each endpoint: uses of connections, how long they were waited for, errors, events."""

from __future__ import annotations

import re
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any

from ..events import (
    BreakerClosed,
    BreakerOpened,
    Connected,
    ConnectFailed,
    DeadlineCut,
    EndpointEvent,
    Event,
    PrimaryChanged,
    Refused,
    Reloaded,
    ReloadFailed,
    Retried,
)
from .histogram import BOUNDS, LE, Histogram

# The attribute of a connection that says since when it was waited for and when it was had, in monotonic seconds.
TAKEN = "_shardpool_taken"
# Waits of at most that many seconds were for no one: they count as 0.
_NO_WAIT = LE[0]

OnUse = Callable[["Meter", float, float], None]


def _snake(event: type[Event]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", event.__name__).lower()


_OF_ENDPOINTS: dict[type[Event], str] = {
    event: _snake(event)
    for event in (Connected, ConnectFailed, BreakerOpened, BreakerClosed, Refused, DeadlineCut, Retried)
}
_OF_FLEETS: dict[type[Event], str] = {Reloaded: "reloads", ReloadFailed: "reload_failures"}


class Meter:
    """The counters of one endpoint, which a reload leaves as they are."""

    __slots__ = ("_errors", "_events", "_lock", "_timeouts", "connect", "endpoint", "on_use", "shard", "use", "wait")

    def __init__(self, shard: str, endpoint: str) -> None:
        self.shard = shard
        self.endpoint = endpoint
        # Called after each use with the meter, the seconds of waiting and those of use.
        self.on_use: OnUse | None = None
        self.reset()

    def reset(self) -> None:
        """Begin at 0, in a forked child."""
        self._lock = threading.Lock()
        self.wait, self.use, self.connect = Histogram(), Histogram(), Histogram()
        self._errors: dict[str, int] = {}
        self._events = dict.fromkeys(_OF_ENDPOINTS.values(), 0)
        self._timeouts = 0

    def used(self, taken: tuple[float, float], now: float) -> None:
        """A connection is given back `now`; `taken` is when it was asked for and when it was had."""
        # On the hot path, so the histograms' add() is written out.
        begun, had = taken
        waits, uses, seconds = self.wait, self.use, now - had
        if now >= uses.move_at:
            uses.move(now)
            waits.move(now)
        if had - begun > _NO_WAIT:
            waits.add(had - begun, now)
        else:
            waits.counts[0] += 1
        uses.counts[bisect_left(BOUNDS, seconds)] += 1
        uses.total += seconds
        if self.on_use is not None:
            self.on_use(self, had - begun, seconds)

    def failed(self, error: str) -> None:
        """A call had an error of that class."""
        with self._lock:
            self._errors[error] = self._errors.get(error, 0) + 1

    def timed_out(self) -> None:
        """A caller got no connection before its deadline."""
        with self._lock:
            self._timeouts += 1
        self.failed("DeadlineExceeded")

    def note(self, event: EndpointEvent) -> None:
        """Count an event."""
        name = _OF_ENDPOINTS.get(type(event))
        if name is not None:
            with self._lock:
                self._events[name] += 1
        if isinstance(event, Connected):
            self.connect.add(event.seconds, monotonic())

    def stats(self) -> dict[str, Any]:
        """JSON-ready; see docs/reference/stats.md."""
        now = monotonic()
        use = self.use.stats(now)
        return {
            "calls": use["count"],
            "errors": dict(self._errors),
            "timeouts": self._timeouts,
            "wait": self.wait.stats(now),
            "use": use,
            "connect": self.connect.stats(now),
            "events": dict(self._events),
        }


class Meters:
    """The meters of all endpoints that a router has had, and an observer that counts its events."""

    def __init__(self) -> None:
        self._making = threading.Lock()
        self._meters: dict[tuple[str, str], Meter] = {}
        self._on_use: OnUse | None = None
        self._begin()

    def _begin(self) -> None:
        self._counts = dict.fromkeys(_OF_FLEETS.values(), 0)
        self._primary_changes: dict[str, int] = {}

    def of(self, shard: str, endpoint: str) -> Meter:
        """The meter of an endpoint, made when it is first asked for."""
        with self._making:
            meter = self._meters.get((shard, endpoint))
            if meter is None:
                meter = self._meters[shard, endpoint] = Meter(shard, endpoint)
                meter.on_use = self._on_use
            return meter

    def call_on_use(self, function: OnUse | None) -> None:
        """Have every meter call a function after each use of a connection, or none."""
        with self._making:
            self._on_use = function
            for meter in self._meters.values():
                meter.on_use = function

    def observe(self, event: Event) -> None:
        """Count an event."""
        if isinstance(event, EndpointEvent):
            self.of(event.shard, event.endpoint).note(event)
            return
        with self._making:
            if isinstance(event, PrimaryChanged):
                self._primary_changes[event.shard] = self._primary_changes.get(event.shard, 0) + 1
            elif type(event) in _OF_FLEETS:
                self._counts[_OF_FLEETS[type(event)]] += 1

    def reset(self) -> None:
        """Begin at 0, in a forked child."""
        self._making = threading.Lock()
        self._begin()
        for meter in self._meters.values():
            meter.reset()

    def stats(self, shards: Any) -> dict[str, Any]:
        """What is counted of the fleet, with `primary_changes` of these shards; JSON-ready."""
        return {
            **self._counts,
            "primary_changes": {shard: self._primary_changes.get(shard, 0) for shard in shards},
            "bounds": list(LE),
        }


def skew(calls_by_shard: Iterable[int]) -> float | None:
    """How many times the calls of an average shard the busiest one has had: 1.0 is even. None before any call."""
    calls = list(calls_by_shard)
    return round(max(calls) * len(calls) / sum(calls), 3) if any(calls) else None
