"""How many calls may be made once more: a share of all calls, so that retries never become the load."""

from __future__ import annotations

# How many calls may be repeated before there were as many calls as that takes.
BURST = 10.0


class Budget:
    """Earned by calls, spent by repetitions: a `share` of the calls. Not locked: a race costs or gives a repetition."""

    __slots__ = ("_left", "_share")

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = BURST

    def earn(self) -> None:
        """A call has begun."""
        if self._left < BURST:
            self._left += self._share

    def spend(self) -> bool:
        """Whether one more may be made; if so it is counted."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True
