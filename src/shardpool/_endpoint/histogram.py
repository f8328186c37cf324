"""Counts of durations by size: what a mean hides. Pure: the time comes in as an argument."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate
from typing import Any

# Upper bounds in seconds, six to a decade, from 10 µs to 100 s. Each of LE is among them.
BOUNDS = (*(float(f"{step}e{power}") for power in range(-5, 2) for step in (1, 1.5, 2, 3, 5, 7)), 100.0)
# The bounds that are shown: those that OpenTelemetry advises for databases, with two below.
LE = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0)
# Seconds after which the window moves on: it holds what came in the last one to two periods.
PERIOD = 5.0

_SHOWN = tuple(BOUNDS.index(bound) for bound in LE)


class Histogram:
    """Durations counted since the beginning, with quantiles of the last 5 to 10 seconds.

    `counts[i]` are those above `BOUNDS[i - 1]` and at most `BOUNDS[i]`; the last are above all. Adding is without a
    lock: threads that hold the interpreter's lock in turn lose nothing.
    """

    __slots__ = ("_before", "_between", "counts", "move_at", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)
        self.total = 0.0
        # The counts as they were at the last two moves of the window.
        self._before = self._between = tuple(self.counts)
        self.move_at = float("-inf")

    def add(self, seconds: float, now: float) -> None:
        """Count one duration, which ended at `now` (monotonic seconds)."""
        if now >= self.move_at:
            self.move(now)
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def move(self, now: float) -> None:
        """Move the window on, which is due from `move_at`."""
        idle = now >= self.move_at + PERIOD
        self.move_at = now + PERIOD
        counts = tuple(self.counts)
        self._before = counts if idle else self._between
        self._between = counts

    @property
    def count(self) -> int:
        return sum(self.counts)

    def quantile(self, share: float, now: float) -> float | None:
        """The duration that `share` (0 to 1) of those in the window do not exceed, or None when there are none.

        Interpolated between two bounds, of which the upper is at most twice the lower; above all bounds it is the last.
        """
        if now >= self.move_at:
            self.move(now)
        window = [after - before for after, before in zip(self.counts, self._before, strict=True)]
        return _quantile(window, share)

    def stats(self, now: float) -> dict[str, Any]:
        """`count`, `sum`, `p50`, `p99` in seconds, and `at_most`: how many did not exceed each bound of `LE`."""
        counts = list(self.counts)
        running = list(accumulate(counts))
        return {
            "count": running[-1],
            "sum": self.total,
            "p50": self.quantile(0.5, now),
            "p99": self.quantile(0.99, now),
            "at_most": [running[place] for place in _SHOWN],
        }


def _quantile(counts: list[int], share: float) -> float | None:
    wanted = share * sum(counts)
    if sum(counts) <= 0:
        return None
    reached = 0
    for place, count in enumerate(counts[:-1]):
        if count and reached + count >= wanted:
            low = BOUNDS[place - 1] if place else 0.0
            return low + (BOUNDS[place] - low) * (wanted - reached) / count
        reached += count
    return BOUNDS[-1]
