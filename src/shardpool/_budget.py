"""How many calls may be made once more: a share of all calls, so that retries never become the load."""

from __future__ import annotations

# The share of calls that may be repeated, and how many may be before there were that many calls.
SHARE = 0.1
BURST = 10.0


class Budget:
    """Earned by calls, spent by repetitions. Not locked: a race gives or takes a repetition, no more."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = BURST

    def earn(self) -> None:
        """A call has begun."""
        if self._left < BURST:
            self._left += SHARE

    def spend(self) -> bool:
        """Whether one more may be made; if so it is counted."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
