"""How often each strategy was taken."""

from __future__ import annotations

from itertools import count

from .plan import STRATEGIES


class Counts:
    """Counters that threads may raise without a lock: the step of an `itertools.count` is atomic."""

    def __init__(self) -> None:
        self._counters = {name: count() for name in STRATEGIES}

    def add(self, strategy: str) -> None:
        next(self._counters[strategy])

    def as_dict(self) -> dict[str, int]:
        """The counts by strategy."""
        return {name: int(repr(counter)[6:-1]) for name, counter in self._counters.items()}
