"""Looks at the topology file in the background, and reloads when it has changed; asks the shards for a newer one.

A file is looked at by `stat()`, through links, so that a link that is swapped is noticed as well as a file that is
written or replaced. What is still being written is left alone until it has rested for a moment. A file that cannot be
taken over changes nothing, is told once, and is tried again when it changes again; one that cannot be read, each time.

The shards have the topology as well, since every edit publishes it there. They are asked for it when one has told of a
newer epoch: on a new connection, or on one that lies idle, which is asked each time that the file is looked at.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import Any, Protocol

from ... import config
from ..._runtime.periodic import AsyncBackground
from ..._runtime.tasks import async_aside, async_sleep
from ...errors import ConfigError, first_line
from ...events import Event, NewerEpochSeen, Observers, ReloadFailed
from ...topology import Topology

# Seconds for which a changed file must rest before it is read, and how often that is waited for at most.
_REST = 0.2
_RESTS = 10
# Seconds for which calls wait for the file when a server has told of a newer epoch for the first time.
_HELD = 2.0
# Seconds that close() waits for a reload that is under way.
_STOP_SECONDS = 2.0

# Seconds between two questions to all shards that have come to nothing: after the first, and at most.
_AGAIN, _SELDOM = 0.2, 30.0
# Twice the seconds between two questions to a session that lies idle, where the file is not looked at more often.
_LISTEN = 1.0

# Which file it is, and which state of it.
FileState = tuple[int, ...]


class AsyncFollowed(Protocol):
    """What follows a file: the fleet."""

    loaded: Topology
    closed: bool
    observers: Observers

    @property
    def topology(self) -> Topology: ...

    async def take_over(self, topology: Topology) -> Topology: ...

    async def published_epoch(self) -> int: ...

    async def learn_topology(self) -> bool: ...


class AsyncTopologyFollower:
    """Keeps a fleet at what its file says. It is an observer of the fleet: a newer epoch somewhere wakes it."""

    def __init__(self, fleet: AsyncFollowed, path: str, interval: float, file_state: FileState) -> None:
        self._fleet = fleet
        self._path = path
        self._interval = interval
        # As it was before it was read: what is written in between is noticed.
        self._file_state = file_state
        self._last_error: str | None = None
        self._reloads = 0
        self._failures = 0
        self._failed_at: float | None = None
        # The newest epoch that shards have told, which of them refuse this router for it, until when calls are held.
        self._newest = 0
        self._ahead: frozenset[str] = frozenset()
        self._held_until = 0.0
        # How many calls are held now; not locked: one too many or too few does no harm.
        self.held = 0
        self._file_epoch: int | None = fleet.topology.epoch
        self._learned = 0
        self._shards_error: str | None = None
        self._listen_after = 0.0
        # Of questions to all shards: not before, the pause after the next that fails, and which epoch they are for.
        self._ask_after, self._ask_pause, self._asked_for = 0.0, _AGAIN, 0
        self._background = AsyncBackground("shardpool-reload", interval, self._step)

    def start(self) -> None:
        self._background.start()

    def start_afresh(self) -> None:
        """In a forked child."""
        self._background.start_afresh()

    async def stop(self, timeout: float) -> None:
        await self._background.stop(min(timeout, _STOP_SECONDS))

    def check_now(self) -> None:
        """Look at the file without waiting for the next time; from any thread, or from the loop."""
        self._background.wake()

    def observe(self, event: Event) -> None:
        if isinstance(event, NewerEpochSeen):
            if event.epoch > self._newest:
                self._newest, self._ahead, self._held_until = event.epoch, frozenset(), monotonic() + _HELD
            self._ahead |= {event.shard}
            self.check_now()

    def is_behind(self, shard: str) -> bool:
        """Whether the shard refuses this router for its older topology, since a moment ago: the file may tell more."""
        return shard in self._ahead and monotonic() < self._held_until and self._fleet.topology.epoch < self._newest

    def stats(self) -> dict[str, Any]:
        """What has come of it; `failed_at` is Unix time, `last_error` is None when the last reload went well.

        `from_shards` counts those that were taken over from the shards; `shards_error` is why the last was not.
        """
        return {
            "interval": self._interval,
            "file_epoch": self._file_epoch,
            "reloads": self._reloads,
            "from_shards": self._learned,
            "shards_error": self._shards_error,
            "failures": self._failures,
            "last_error": self._last_error,
            "failed_at": self._failed_at,
        }

    async def _step(self) -> None:
        await self._check_file()
        fleet = self._fleet
        if not fleet.closed and fleet.loaded.follows == "shards" and fleet.loaded.control == "required":
            await self._check_shards()

    async def _check_shards(self) -> None:
        newest = self._newest
        if newest <= self._fleet.topology.epoch and monotonic() >= self._listen_after:
            newest = await self._fleet.published_epoch()
            # Calls that wait for an owner have us look many times.
            self._listen_after = monotonic() + min(self._interval, _LISTEN) / 2
        if newest <= self._fleet.topology.epoch or self._fleet.closed:
            return
        if newest > self._asked_for:
            self._ask_after, self._ask_pause, self._asked_for = 0.0, _AGAIN, newest
        if monotonic() < self._ask_after:
            return
        try:
            if await self._fleet.learn_topology():
                self._learned += 1
                self._shards_error = None
        except Exception as error:
            if _line(error) != self._shards_error:
                self._shards_error = _line(error)
                self._fleet.observers.observe(ReloadFailed(epoch=self._fleet.topology.epoch, error=self._shards_error))
        if self._fleet.topology.epoch < newest:
            self._ask_after = monotonic() + self._ask_pause
            self._ask_pause = min(2 * self._ask_pause, _SELDOM)

    async def _check_file(self) -> None:
        state = state_of(self._path)
        if state == self._file_state:
            return
        for _ in range(_RESTS):
            await async_sleep(_REST)
            before, state = state, state_of(self._path)
            if state == before:
                break
        if self._fleet.closed:
            return
        try:
            await self._reload()
        except Exception as error:
            self._tell(error)
            if _may_pass(error):
                return
        self._file_state = state

    async def _reload(self) -> None:
        topology = await async_aside(partial(config.load_topology, self._path))
        self._file_epoch = topology.epoch
        if topology != self._fleet.loaded:
            await self._fleet.take_over(topology)
            self._reloads += 1
        self._last_error = self._failed_at = None

    def _tell(self, error: Exception) -> None:
        line = _line(error)
        if line == self._last_error and _may_pass(error):
            return
        self._failures += 1
        self._failed_at = time()
        self._last_error = line
        self._fleet.observers.observe(ReloadFailed(epoch=self._fleet.topology.epoch, error=self._last_error))


def _may_pass(error: Exception) -> bool:
    """Whether it may go away without a change of the file: no descriptor was left, a disk did not answer."""
    return isinstance(error.__cause__, OSError)


def _line(error: Exception) -> str:
    if not isinstance(error, ConfigError) or not error.problems:
        return first_line(error)
    more = len(error.problems) - 1
    return str(error.problems[0]).splitlines()[0] + (f" (and {more} more)" if more else "")


def state_of(path: str) -> FileState:
    """Which file is there now, in which state; no two states of a file look the same."""
    try:
        stat = Path(path).stat()
    except OSError as error:
        return (error.errno or 0,)
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
