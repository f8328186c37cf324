"""How often each of several things was done."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count


class Counts:
    """Counters that threads may raise without a lock: the step of an `itertools.count` is atomic."""

    def __init__(self, names: Iterable[str]) -> None:
        self._counters = {name: count() for name in names}

    def add(self, name: str) -> None:
        next(self._counters[name])

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {name: int(repr(counter)[6:-1]) for name, counter in self._counters.items()}
