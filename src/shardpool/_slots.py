"""A bounded number of holders with a bounded, fair queue behind them: one for threads, one for the tasks of a loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from time import monotonic


class QueueFull(Exception):
    """As many callers wait as may."""


class SentAway(Exception):
    """The queue was dissolved while this caller waited in it."""


class _Turn(threading.Event):
    sent_away = False


class Slots:
    """At most `size` holders at a time and at most `max_waiting` callers behind them, served in order."""

    def __init__(self, size: int, max_waiting: int) -> None:
        self._lock = threading.Lock()
        self._free = size
        self._size = size
        self._max_waiting = max_waiting
        self._queue: deque[_Turn] = deque()

    @property
    def in_use(self) -> int:
        return self._size - self._free

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def acquire_at_once(self) -> bool:
        """Take a slot if one is free."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return True
            return False

    def acquire(self, deadline: float) -> None:
        """Take a slot; raises `QueueFull` at once, `SentAway`, `TimeoutError` at the deadline (monotonic seconds)."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return
            if len(self._queue) >= self._max_waiting:
                raise QueueFull
            turn = _Turn()
            self._queue.append(turn)
        self._wait(turn, deadline)

    def _wait(self, turn: _Turn, deadline: float) -> None:
        try:
            came = turn.wait(max(0.0, deadline - monotonic()))
        except BaseException:  # Ctrl-C: a turn that came in the meantime must not get lost
            if not self._leave(turn) and not turn.sent_away:
                self.release()
            raise
        if not came and self._leave(turn):
            raise TimeoutError
        # Looked at last: one who has left the queue is not sent away any more.
        if turn.sent_away:
            raise SentAway

    def _leave(self, turn: _Turn) -> bool:
        """Leave the queue; False when the turn has come in the meantime, so that the slot is held."""
        with self._lock, suppress(ValueError):
            self._queue.remove(turn)
            return True
        return False

    def send_away(self) -> None:
        """Let nobody wait: those in the queue raise `SentAway`."""
        with self._lock:
            while self._queue:
                turn = self._queue.popleft()
                turn.sent_away = True
                turn.set()

    def release(self) -> None:
        with self._lock:
            if self._queue and self._free >= 0:
                self._queue.popleft().set()
            else:
                self._free += 1

    def resize(self, size: int) -> None:
        """Change the number of slots; holders beyond a smaller size keep theirs until they release them."""
        with self._lock:
            self._free += size - self._size
            self._size = size
            while self._free > 0 and self._queue:
                self._free -= 1
                self._queue.popleft().set()


class AsyncSlots:
    """`Slots` for the tasks of one event loop."""

    def __init__(self, size: int, max_waiting: int) -> None:
        self._free = size
        self._size = size
        self._max_waiting = max_waiting
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def in_use(self) -> int:
        return self._size - self._free

    @property
    def waiting(self) -> int:
        return len(self._queue)

    def acquire_at_once(self) -> bool:
        """Take a slot if one is free."""
        if self._free > 0:
            self._free -= 1
            return True
        return False

    async def acquire(self, deadline: float) -> None:
        """Take a slot; raises `QueueFull` at once, `SentAway`, `TimeoutError` at the deadline (monotonic seconds)."""
        if self._free > 0:
            self._free -= 1
            return
        if len(self._queue) >= self._max_waiting:
            raise QueueFull
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            await asyncio.wait_for(asyncio.shield(turn), max(0.0, deadline - monotonic()))
        except BaseException:
            # The turn may have come between the time-out or the cancellation and here: it must not get lost.
            if turn.done():
                if not turn.cancelled() and turn.exception() is None:
                    self.release()
            else:
                turn.cancel()
                with suppress(ValueError):
                    self._queue.remove(turn)
            raise

    def send_away(self) -> None:
        """Let nobody wait: those in the queue raise `SentAway`."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_exception(SentAway())

    def release(self) -> None:
        if self._free >= 0 and self._hand_over():
            return
        self._free += 1

    def _hand_over(self) -> bool:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return True
        return False

    def resize(self, size: int) -> None:
        """Change the number of slots; holders beyond a smaller size keep theirs until they release them."""
        self._free += size - self._size
        self._size = size
        while self._free > 0 and self._hand_over():
            self._free -= 1
