"""How far behind each replica is, in seconds, from positions in the WAL."""

from __future__ import annotations

from collections import deque
from time import monotonic


class LagGauge:
    """What was written when, and what each replica has replayed.

    A replica that has replayed all that the primary had written at a time t lags at most `now - t`. That needs no
    privilege and no traffic, and a replica cut off from its primary is seen to fall behind, which its own clock would
    not tell: it has replayed all that it has received.
    """

    def __init__(self) -> None:
        self._written: deque[tuple[float, int]] = deque(maxlen=600)
        self._current: dict[str, float] = {}

    def primary_at(self, at: float, lsn: int) -> None:
        """The primary had written `lsn` bytes by `at`, in monotonic seconds."""
        self._written.append((at, lsn))

    def replica_at(self, name: str, lsn: int) -> None:
        """A replica has replayed `lsn` bytes: remember until when it has everything."""
        times = [at for at, written in self._written if written <= lsn]
        if times:
            self._current[name] = max(self._current.get(name, float("-inf")), max(times))

    def seconds(self, name: str) -> float:
        """The lag at most; infinite when the replica was never seen to have everything."""
        return monotonic() - self._current.get(name, float("-inf"))

    def is_within(self, name: str, limit: float | None) -> bool:
        """Whether the lag is known and within a limit."""
        lag = self.seconds(name)
        return lag != float("inf") and (limit is None or lag <= limit)

    def rounded(self, name: str) -> float | None:
        """The lag in milliseconds' precision, None when it is not known."""
        lag = self.seconds(name)
        return None if lag == float("inf") else round(lag, 3)
