"""A bounded number of holders with a bounded, fair queue behind them: one for threads, one for the tasks of one loop.

A place that nobody refers to any more is free again. So none is lost whatever ends its holder, and wherever: also an
exception from a signal handler, which Python raises after any call that its main thread makes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Any

from .deadlines import Deadline

# The attribute of a connection that holds the place of the one who has it; None when nobody has.
PLACE = "_shardpool_place"


class QueueFull(Exception):
    """As many callers wait as may."""


class SentAway(Exception):
    """The queue was dissolved while this caller waited in it."""


class Place:
    """One holder's place among some; `beside` is one that it holds with it."""

    __slots__ = ("_slots", "beside")

    def __init__(self, slots: Any) -> None:
        self._slots = slots
        self.beside: Place | None = None

    def free(self) -> None:
        """Give it up; once more does nothing."""
        slots = self._slots
        slots.holders.discard(id(self))
        # Looked at after that: who has found no place free stands there before looking again.
        if slots.queue:
            slots.release()
        if self.beside is not None:
            self.beside.free()

    def __del__(self) -> None:
        # Without `_slots` when an exception came before it was set.
        slots = getattr(self, "_slots", None)
        if slots is not None and id(self) in slots.holders:
            slots.reclaim(self)


class _Turn:
    """A caller in the queue of threads, who waits for a lock that is held until then."""

    __slots__ = ("come", "place", "sent_away")

    def __init__(self, place: Place) -> None:
        self.place = place
        self.sent_away = False
        self.come = threading.Lock()
        self.come.acquire()

    def wake(self) -> None:
        with suppress(RuntimeError):
            self.come.release()


class Slots:
    """At most `size` holders at a time and at most `max_waiting` callers behind them, served in order.

    An exception may be raised between any two steps of what follows. So one step, adding to `holders` or taking out of
    it, says who holds a place and how many are free, and each can be done once more. That step takes no lock: who has
    added one too many takes it out again, and lets those who wait look.
    """

    def __init__(self, size: int, max_waiting: int) -> None:
        # Reentrant: the collector may free a place anywhere, also in the midst of what holds this lock.
        self._lock = threading.RLock()
        self._size = size
        self._max_waiting = max_waiting
        self.queue: deque[_Turn] = deque()
        # By the id() of their places.
        self.holders: set[int] = set()

    @property
    def in_use(self) -> int:
        return len(self.holders)

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def acquire_at_once(self) -> Place | None:
        """A place if one is free, and nobody waits for it."""
        if self.queue:
            return None
        place = Place(self)
        try:
            self.holders.add(id(place))
            if len(self.holders) <= self._size:
                return place
            place.free()
            return None
        except BaseException:
            place.free()
            raise

    def acquire(self, deadline: Deadline) -> Place:
        """A place; raises `QueueFull` at once, `SentAway`, `TimeoutError` at the deadline (monotonic seconds)."""
        place = self.acquire_at_once()
        if place is not None:
            return place
        turn = _Turn(Place(self))
        try:
            with self._lock:
                if len(self.queue) >= self._max_waiting:
                    raise QueueFull
                self.queue.append(turn)
                self.release()
            self._wait(turn, deadline)
            return turn.place
        except BaseException:  # Ctrl-C: a turn that came in the meantime must not get lost
            self._leave(turn)
            turn.place.free()
            raise

    def _wait(self, turn: _Turn, deadline: Deadline) -> None:
        came = turn.come.acquire(timeout=min(max(0.0, deadline - monotonic()), threading.TIMEOUT_MAX))
        if not came and self._leave(turn):
            raise TimeoutError
        # Looked at last: one who has left the queue is not sent away any more.
        if turn.sent_away:
            raise SentAway

    def _leave(self, turn: _Turn) -> bool:
        """Leave the queue; False when the turn has come in the meantime."""
        with self._lock, suppress(ValueError):
            self.queue.remove(turn)
            return id(turn.place) not in self.holders
        return False

    def send_away(self) -> None:
        """Let nobody wait: those in the queue raise `SentAway`."""
        with self._lock:
            while self.queue:
                turn = self.queue.popleft()
                turn.sent_away = True
                turn.wake()

    def release(self) -> None:
        """Hand what is free to those who wait."""
        with self._lock:
            while self.queue:
                place = self.queue[0].place
                self.holders.add(id(place))
                if len(self.holders) > self._size:
                    self.holders.discard(id(place))
                    return
                self.queue[0].wake()
                self.queue.popleft()

    def reclaim(self, place: Place) -> None:
        """Take back the place of one who is gone; in whatever thread the collector runs."""
        place.free()

    def resize(self, size: int) -> None:
        """Change the number of slots; holders beyond a smaller size keep theirs until they free them."""
        self._size = size
        self.release()


class AsyncSlots:
    """`Slots` for the tasks of one event loop."""

    def __init__(self, size: int, max_waiting: int) -> None:
        self._size = size
        self._max_waiting = max_waiting
        self.queue: deque[tuple[Place, asyncio.Future[None]]] = deque()
        self.holders: set[int] = set()

    @property
    def in_use(self) -> int:
        return len(self.holders)

    @property
    def waiting(self) -> int:
        return len(self.queue)

    def acquire_at_once(self) -> Place | None:
        """A place if one is free, and nobody waits for it."""
        if self.queue or len(self.holders) >= self._size:
            return None
        place = Place(self)
        self.holders.add(id(place))
        return place

    async def acquire(self, deadline: Deadline) -> Place:
        """A place; raises `QueueFull` at once, `SentAway`, `TimeoutError` at the deadline (monotonic seconds)."""
        free = self.acquire_at_once()
        if free is not None:
            return free
        if len(self.queue) >= self._max_waiting:
            raise QueueFull
        place, turn = Place(self), asyncio.get_running_loop().create_future()
        self.queue.append((place, turn))
        try:
            # Not wait_for(), which on Python 3.11 swallows a cancellation that comes together with the turn.
            await asyncio.wait({turn}, timeout=max(0.0, deadline - monotonic()))
        except BaseException:
            self._leave(place, turn)
            place.free()
            raise
        if not turn.done():
            self._leave(place, turn)
            raise TimeoutError
        turn.result()
        return place

    def _leave(self, place: Place, turn: asyncio.Future[None]) -> None:
        with suppress(ValueError):
            self.queue.remove((place, turn))
        if turn.done() and not turn.cancelled():
            # Looked at, so that nobody complains that it was not.
            turn.exception()
        turn.cancel()

    def send_away(self) -> None:
        """Let nobody wait: those in the queue raise `SentAway`."""
        while self.queue:
            _, turn = self.queue.popleft()
            if not turn.done():
                turn.set_exception(SentAway())

    def release(self) -> None:
        """Hand what is free to those who wait."""
        while self.queue and len(self.holders) < self._size:
            place, turn = self.queue.popleft()
            if not turn.done():
                self.holders.add(id(place))
                turn.set_result(None)

    def reclaim(self, place: Place) -> None:
        """Take back the place of one who is gone; it is handed on in the loop: the collector may run in any thread."""
        self.holders.discard(id(place))
        for _, turn in [*self.queue][:1]:
            with suppress(RuntimeError):  # a loop that is closed
                turn.get_loop().call_soon_threadsafe(self.release)

    def resize(self, size: int) -> None:
        """Change the number of slots; holders beyond a smaller size keep theirs until they free them."""
        self._size = size
        self.release()
