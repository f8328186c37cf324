# Generated from _async/reloading.py by tools/unasync.py: edit that one, then run `make sync`.
"""Looks at the topology file in the background, and reloads when it has changed.

A file is looked at by `stat()`, through links, so that a link that is swapped is noticed as well as a file that is
written or replaced. What is still being written is left alone until it has rested for a moment. A file that cannot be
taken over changes nothing, is told once, and is tried again when it changes again; one that cannot be read, each time.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any

from .. import config
from .._background import Background
from .._concurrency import aside, sleep
from ..errors import ConfigError, first_line
from ..events import Event, NewerEpochSeen, ReloadFailed

if TYPE_CHECKING:
    from .router import Router

# Seconds for which a changed file must rest before it is read, and how often that is waited for at most.
_REST = 0.2
_RESTS = 10
# Seconds for which calls wait for the file when a server has told of a newer epoch for the first time.
_HELD = 2.0
# Seconds that close() waits for a reload that is under way.
_STOP_SECONDS = 2.0

# Which file it is, and which state of it.
Seen = tuple[int, ...]


class Reloader:
    """Keeps a router at what its file says. It is an observer of the router: a newer epoch somewhere wakes it."""

    def __init__(self, router: Router, path: str, interval: float, seen: Seen) -> None:
        self._router = router
        self._path = path
        self._interval = interval
        # As it was before it was read: what is written in between is noticed.
        self._seen = seen
        self._told: str | None = None
        self._reloads = 0
        self._failures = 0
        self._failed_at: float | None = None
        # The newest epoch that shards have told, which of them refuse this router for it, until when calls are held.
        self._newest = 0
        self._ahead: frozenset[str] = frozenset()
        self._held_until = 0.0
        # How many calls are held now; not locked: one too many or too few does no harm.
        self.held = 0
        self._file_epoch: int | None = router.topology.epoch
        self._background = Background("shardpool-reload", interval, self._step)

    def start(self) -> None:
        self._background.start()

    def start_afresh(self) -> None:
        """In a forked child."""
        self._background.start_afresh()

    def stop(self, timeout: float) -> None:
        self._background.stop(min(timeout, _STOP_SECONDS))

    def look_now(self) -> None:
        """Look at the file without waiting for the next time; from any thread, or from the loop."""
        self._background.wake()

    def observe(self, event: Event) -> None:
        if isinstance(event, NewerEpochSeen):
            if event.epoch > self._newest:
                self._newest, self._ahead, self._held_until = event.epoch, frozenset(), monotonic() + _HELD
            self._ahead |= {event.shard}
            self.look_now()

    def is_behind(self, shard: str) -> bool:
        """Whether the shard refuses this router for its older topology, since a moment ago: the file may tell more."""
        return shard in self._ahead and monotonic() < self._held_until and self._router.topology.epoch < self._newest

    def stats(self) -> dict[str, Any]:
        """What has come of it; `failed_at` is Unix time, `last_error` is None when the last reload went well."""
        return {
            "interval": self._interval,
            "file_epoch": self._file_epoch,
            "reloads": self._reloads,
            "failures": self._failures,
            "last_error": self._told,
            "failed_at": self._failed_at,
        }

    def _step(self) -> None:
        seen = look(self._path)
        if seen == self._seen:
            return
        for _ in range(_RESTS):
            sleep(_REST)
            before, seen = seen, look(self._path)
            if seen == before:
                break
        if self._router._closed:
            return
        try:
            self._reload()
        except Exception as error:
            self._tell(error)
            if _may_pass(error):
                return
        self._seen = seen

    def _reload(self) -> None:
        topology = aside(partial(config.load_topology, self._path))
        self._file_epoch = topology.epoch
        if topology != self._router._loaded:
            self._router.reload(topology)
            self._reloads += 1
        self._told = self._failed_at = None

    def _tell(self, error: Exception) -> None:
        told = _line(error)
        if told == self._told and _may_pass(error):
            return
        self._failures += 1
        self._failed_at = time()
        self._told = told
        self._router._observers.observe(ReloadFailed(epoch=self._router.topology.epoch, error=self._told))


def _may_pass(error: Exception) -> bool:
    """Whether it may go away without a change of the file: no descriptor was left, a disk did not answer."""
    return isinstance(error.__cause__, OSError)


def _line(error: Exception) -> str:
    if not isinstance(error, ConfigError) or not error.problems:
        return first_line(error)
    more = len(error.problems) - 1
    return str(error.problems[0]).splitlines()[0] + (f" (and {more} more)" if more else "")


def look(path: str) -> Seen:
    """Which file is there now, in which state; no two states of a file look the same."""
    try:
        found = Path(path).stat()
    except OSError as error:
        return (error.errno or 0,)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
