"""The places of those who may hold a connection of an endpoint: of all callers, and of calls on many shards."""

from __future__ import annotations

from ..._runtime.slots import AsyncSlots
from ...topology import PoolSettings


class AsyncPlaces:
    """A call on many shards holds one of `scatter` beside one of `all`."""

    def __init__(self, settings: PoolSettings) -> None:
        self._settings = settings
        self.start_afresh()

    def start_afresh(self) -> None:
        """For a forked child: all are free, whatever the parent's calls hold."""
        settings = self._settings
        self.all = AsyncSlots(settings.max_size, settings.max_waiting)
        self.scatter = AsyncSlots(scatter_size(settings), settings.max_waiting)

    def send_away(self) -> None:
        """Let nobody wait: those in the queues raise `SentAway`."""
        self.all.send_away()
        self.scatter.send_away()

    def resize(self, settings: PoolSettings) -> None:
        """Have as many as those settings say."""
        self._settings = settings
        self.all.resize(settings.max_size)
        self.scatter.resize(scatter_size(settings))


def scatter_size(settings: PoolSettings) -> int:
    """How many of a pool's connections calls on many shards may hold: a fifth, at least one, is left to the others."""
    return max(1, settings.max_size - max(1, settings.max_size // 5))
