"""Something done again and again in the background: in a daemon thread, or in a task of the running loop."""

from __future__ import annotations

import asyncio
import logging
import threading
import weakref
from collections.abc import Awaitable, Callable
from queue import Empty, SimpleQueue
from typing import TypeVar, cast

from .interrupts import Flag, async_passed

T = TypeVar("T")

_log = logging.getLogger("shardpool")


class Background:
    """Calls a method every `period` seconds, and when woken, until it is stopped or its object is gone.

    The method may set another `period` for the next time. The thread holds the object only while it calls it. What the
    method raises is logged, and ends nothing.
    """

    def __init__(self, name: str, period: float, method: Callable[[], None]) -> None:
        self._name = name
        self.period = period
        self._method = weakref.WeakMethod(method)
        self._wake = Flag()
        self._ending = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None and not self._ending:
            self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            self._thread.start()

    def wake(self) -> None:
        """Do it now; from any thread."""
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """End, waiting at most `timeout` seconds for a call that is under way."""
        self._ending = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def start_afresh(self) -> None:
        """In a forked child, which has not got the thread: start one, when the parent had one."""
        self._wake = Flag()
        if self._thread is not None:
            self._thread = None
            self.start()

    def _run(self) -> None:
        while not self._ending:
            self._wake.wait(self.period)
            self._wake.clear()
            method = self._method()
            if self._ending or method is None:
                return
            try:
                method()
            except Exception:
                _log.exception("%s failed", self._name)
            del method


class AsyncBackground:
    """`Background` as a task of the loop in which it is started."""

    def __init__(self, name: str, period: float, method: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self.period = period
        self._method = weakref.WeakMethod(method)
        self._wake = asyncio.Event()
        self._ending = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None and not self._ending:
            self._task = asyncio.create_task(self._run(), name=self._name)

    def wake(self) -> None:
        """Do it now; from the loop."""
        self._wake.set()

    async def stop(self, timeout: float) -> None:
        """End, waiting at most `timeout` seconds for a call that is under way, which is then cancelled."""
        self._ending = True
        self._wake.set()
        if self._task is not None and self._task is not asyncio.current_task():
            try:
                await asyncio.wait({self._task}, timeout=timeout)
            finally:
                self._task.cancel()
            await asyncio.wait({self._task}, timeout=timeout)

    def start_afresh(self) -> None:
        """In a forked child, which does not go on with the parent's loop: nothing is done any more."""
        self._task = None

    async def _run(self) -> None:
        while not self._ending:
            await async_passed(self._wake, self.period)
            self._wake.clear()
            method = self._method()
            if self._ending or method is None:
                return
            try:
                await method()
            except Exception:
                _log.exception("%s failed", self._name)
            del method


def within(function: Callable[[], T], seconds: float) -> T:
    """What a function of the user gives, or `TimeoutError`: then it goes on in its thread, and nobody waits for it."""
    outcomes: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def call() -> None:
        try:
            outcomes.put((function(), None))
        except BaseException as error:
            outcomes.put((None, error))

    threading.Thread(target=call, name="shardpool-within", daemon=True).start()
    try:
        value, error = outcomes.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    if error is not None:
        raise error
    return cast("T", value)


async def async_within(function: Callable[[], Awaitable[T]], seconds: float) -> T:
    """What a coroutine function of the user gives, or `TimeoutError`: then it is cancelled."""
    async with asyncio.timeout(seconds):
        return await function()
