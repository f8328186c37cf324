"""Keeps deadlines by shutting the socket: the one thing that frees a caller of a hung server, in threads and in tasks.

A watched call is an entry in a dictionary; a ticker looks through it every `PERIOD` seconds while there are any. So a
deadline costs a call one insertion and one removal, and is kept within `PERIOD` of its time. Taking the entry out of
the dictionary is atomic and decides who wins: the call that has finished, or the cut.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from time import monotonic, sleep
from typing import Any
from weakref import ref

from ..errors import ResultTooLarge
from .deadlines import Deadline
from .intake import Intake
from .interrupts import Flag
from .slots import PLACE
from .sockets import shut

PERIOD = 0.02
# Checks of a call after which whoever suspects harm is told that it is slow, and told again.
_AGAIN = 5


class Watch:
    """One call on one connection until `deadline` (monotonic seconds); the deadline may be moved while it runs.

    `health.suspect()` is called when it has gone on for a tenth of a second, and as often from then on.
    With `most` it is cut, too, when so many bytes have come, which its `error` tells then.
    One that an interrupt has left behind holds no connection, and does nothing to who has got it since.
    """

    __slots__ = ("_conn", "_intake", "_place", "checks", "deadline", "error", "health", "most")

    def __init__(self, conn: Any, deadline: Deadline, health: Any) -> None:
        self._conn = ref(conn)
        self._place = conn.__dict__.get(PLACE)
        self.deadline = deadline
        self.health = health
        self.checks = 0
        self.most: int | None = None
        self.error: ResultTooLarge | None = None
        self._intake: Intake | None = None

    def is_over(self, now: float) -> bool:
        """Whether it has to be cut, or has been left behind."""
        conn = self._held()
        if self.most is not None and conn is not None:
            self._intake = self._intake or Intake(self.most)
            self.error = self._intake.excess(conn)
        return self.deadline <= now or self.error is not None or conn is None

    def cut(self) -> None:
        conn = self._held()
        if conn is not None:
            shut(conn)

    def _held(self) -> Any:
        """The connection, as long as the one who is watched has it."""
        conn = self._conn()
        return conn if conn is not None and conn.__dict__.get(PLACE) is self._place else None


class _Watching:
    def __init__(self) -> None:
        self._watches: dict[Watch, None] = {}
        self._cutting = threading.Lock()

    def release(self, watch: Watch) -> bool:
        """End a watch; False when the deadline came first and the connection was cut: it has to be closed then."""
        if self._watches.pop(watch, False) is None:
            return True
        # The cut may be under way: a descriptor that was closed in its midst could be another connection's by now.
        with self._cutting:
            return False

    def has_cut(self, watch: Watch) -> bool:
        """Whether the deadline of a watch that has not been released has passed, and its connection was cut."""
        return watch not in self._watches

    def cut_overdue(self) -> None:
        now = monotonic()
        for watch in [*self._watches]:
            watch.checks += 1
            if watch.checks % _AGAIN == 0 and watch.health is not None:
                # Whatever fails there, the other calls keep their deadlines.
                with suppress(Exception):
                    watch.health.suspect()
            if watch.is_over(now):
                with self._cutting:
                    if self._watches.pop(watch, False) is None:
                        watch.cut()


class Watchdog(_Watching):
    """Watches the calls of threads from a daemon thread of its own, which sleeps while there is no call."""

    def __init__(self) -> None:
        super().__init__()
        self._asleep = False
        self._wake = Flag()
        self._closing = Flag()
        self._start = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, conn: Any, deadline: Deadline, health: Any = None) -> Watch:
        watch = Watch(conn, deadline, health)
        self._watches[watch] = None
        if self._asleep:
            self._wake.set()
        elif self._thread is None:
            self._start_thread()
        return watch

    def _start_thread(self) -> None:
        with self._start:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="shardpool-watchdog", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._ends():
            if self._watches:
                self.cut_overdue()
                sleep(PERIOD)
                continue
            self._asleep = True
            # Looked at again: a watch that was set before `_asleep` was does not wake us.
            if not self._watches and not self._closing.is_set():
                self._wake.wait()
            self._wake.clear()
            self._asleep = False

    def _ends(self) -> bool:
        if not self._closing.is_set() or self._watches:
            return False
        with self._start:
            # Given up before the last look: a watch that comes now either is seen here or starts a new thread.
            ending, self._thread = self._thread, None
            if self._watches:
                self._thread = ending
            return self._thread is None

    def close(self) -> None:
        """End the thread when the last watch has ended: calls that are under way keep their deadlines."""
        self._closing.set()
        self._wake.set()


class AsyncWatchdog(_Watching):
    """Watches the calls of one event loop from a timer of that loop, which is set only while there are calls."""

    def __init__(self) -> None:
        super().__init__()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, conn: Any, deadline: Deadline, health: Any = None) -> Watch:
        watch = Watch(conn, deadline, health)
        self._watches[watch] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._tick)
        return watch

    def _tick(self) -> None:
        self.cut_overdue()
        self._timer = None
        if self._watches:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._tick)

    def close(self) -> None:
        """Stop the timer, unless there are watches: calls that are under way keep their deadlines."""
        if self._timer is not None and not self._watches:
            self._timer.cancel()
            self._timer = None
