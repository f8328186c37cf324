"""What a cancellation or an interrupt may not stop in the middle, and what takes note of one.

`tools/unasync.py` turns the `async_x` and `AsyncX` of this module into its `x` and `X`.
"""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

T = TypeVar("T")

# What a function gave: its value, or the exception that it raised.
Outcome = tuple[Any, BaseException | None]


def outcome(function: Callable[[], T]) -> Outcome:
    try:
        return function(), None
    except BaseException as error:
        return None, error


def is_cancelled() -> bool:
    """Whether the caller was cancelled and does not know it; a thread is not cancelled."""
    return False


def async_is_cancelled() -> bool:
    """Whether the task was cancelled: `wait_for` of Python 3.11 does not tell when what it waits for has come."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def uninterrupted(function: Callable[[Any], None], argument: Any) -> None:
    """Call a function; one that the main thread calls runs in another, and goes on to its end over an interrupt.

    Signal handlers run in the main thread, and may raise after any call: there locks of Python's own stay locked.
    """
    heeded(lambda: function(argument), nothing)


async def async_uninterrupted(function: Callable[[Any], Awaitable[None]], argument: Any) -> None:
    """Await a coroutine function in a task of its own, which goes on to its end when the caller is cancelled."""
    task = asyncio.ensure_future(function(argument))
    keep(task)
    await asyncio.shield(task)


def completed(function: Callable[[], T]) -> T:
    """What a function gives, as `uninterrupted` calls it."""
    return heeded(function, nothing)


async def async_completed(function: Callable[[], Awaitable[T]]) -> T:
    """What a coroutine function gives, in a task of its own: a caller that is cancelled waits for it all the same.

    Unlike with `async_uninterrupted` nothing goes on any more when the caller has left. For what takes a bounded time.
    """
    task = asyncio.ensure_future(_as_coroutine(function))
    keep(task)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        # Looked at, so that nobody is told that it never was.
        if not task.cancelled():
            task.exception()
        raise cancelled
    return task.result()


async def _as_coroutine(function: Callable[[], Awaitable[T]]) -> T:
    return await function()


def heeded(function: Callable[[], T], undo: Callable[[T], None]) -> T:
    """What a function gives, as `uninterrupted` calls it; undone when the caller has been interrupted meanwhile."""
    if threading.get_ident() != threading.main_thread().ident:
        return function()
    outcomes: deque[Outcome] = deque()
    has_left: list[bool] = []
    ended = Flag()
    context = contextvars.copy_context()

    def work() -> None:
        outcomes.append(context.run(outcome, function))
        if has_left:
            _undone(outcomes, undo)
        ended.set()

    try:
        _thread.start_new_thread(work, ())
        ended.wait()
        value, error = outcomes.pop()
    except BaseException:
        # Whoever takes the outcome out of there has to do with it.
        has_left.append(True)
        _thread.start_new_thread(_undone, (outcomes, undo))
        raise
    if error is not None:
        raise error
    return cast("T", value)


def _undone(outcomes: deque[Outcome], undo: Callable[[Any], None]) -> None:
    with suppress(IndexError):
        value, error = outcomes.pop()
        if error is None:
            undo(value)


class Flag:
    """An event for threads, of which each may be interrupted at any step: `threading.Event` stays locked then."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiting: deque[Any] = deque()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        self._is_set = True
        for turn in [*self._waiting]:
            with suppress(RuntimeError):  # another has released it
                turn.release()

    def clear(self) -> None:
        self._is_set = False

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it is set, at most so long."""
        turn = _thread.allocate_lock()
        turn.acquire()
        self._waiting.append(turn)
        try:
            # Looked at after that: who sets it either is seen here, or finds us waiting.
            if not self._is_set:
                turn.acquire(timeout=-1 if seconds is None else min(max(0.0, seconds), threading.TIMEOUT_MAX))
        finally:
            with suppress(ValueError):
                self._waiting.remove(turn)
        return self._is_set


async def async_heeded(function: Callable[[], Awaitable[T]], undo: Callable[[T], Awaitable[None]]) -> T:
    """What a coroutine function gives; undone when the task was cancelled meanwhile, and nobody has said so.

    `wait_for` of Python 3.11 swallows a cancellation that comes together with what it waits for.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task is not None else 0
    result = await function()
    if task is not None and task.cancelling() > before:
        await async_uninterrupted(undo, result)
        raise asyncio.CancelledError
    return result


# The loop itself keeps only weak references to its tasks.
_finishing: set[asyncio.Future[Any]] = set()


def keep(task: asyncio.Future[Any]) -> None:
    if not task.done():
        _finishing.add(task)
        task.add_done_callback(_finishing.discard)


async def async_passed(event: asyncio.Event, seconds: float) -> None:
    """Wait for an event at most so long. Unlike `wait_for` of Python 3.11 it swallows no cancellation."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait({waiting}, timeout=seconds)
    finally:
        waiting.cancel()


def cancel_again() -> None:
    """A thread is not cancelled."""


def async_cancel_again() -> None:
    """Cancel this task in the next round of the loop: for one that swallows the cancellation that it has got now."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().call_soon(task.cancel)


def nothing(*_: object) -> None: ...
