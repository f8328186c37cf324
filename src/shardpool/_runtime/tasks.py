"""Threads or tasks: functions side by side, in the background, one after a delay; where they may run.

`tools/unasync.py` turns the `async_x` and `AsyncX` of this module into its `x` and `X`.
"""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar, cast

from .interrupts import Flag, Outcome, async_passed, keep, nothing, outcome

T = TypeVar("T")


def run_all(
    functions: Sequence[Callable[[], T]],
    limit: int | None = None,
    on_interrupt: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Run functions side by side on threads, at most `limit` at once; every outcome, in the order of the functions.

    The caller's context variables are seen in each. An interrupt of the caller waits for those that run, after
    `on_interrupt`, which may tell them to end.
    """
    outcomes: list[Outcome] = [(None, None)] * len(functions)
    left = iter(range(len(functions)))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                index = next(left, None)
            if index is None:
                return
            outcomes[index] = outcome(functions[index])

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(work,), name=f"shardpool-{number}", daemon=True)
        for number in range(min(limit or len(functions), len(functions)))
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException:
        # Nothing new is begun. What runs holds connections, and ends by its own deadline; a second interrupt leaves it.
        on_interrupt()
        with lock:
            left = iter(())
        for thread in threads:
            if thread.is_alive():
                thread.join()
        raise
    return outcomes


async def async_run_all(
    functions: Sequence[Callable[[], Awaitable[T]]],
    limit: int | None = None,
    on_interrupt: Callable[[], None] = lambda: None,
) -> list[Outcome]:
    """Run coroutine functions side by side as tasks, at most `limit` at once; every outcome, in their order.

    Cancelling the caller calls `on_interrupt`, cancels them and waits until they have ended.
    """
    turns = asyncio.Semaphore(limit or max(1, len(functions)))

    async def work(function: Callable[[], Awaitable[T]]) -> Outcome:
        async with turns:
            try:
                return await function(), None
            except Exception as error:
                return None, error

    tasks = [asyncio.create_task(work(function)) for function in functions]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        on_interrupt()
        for task in tasks:
            task.cancel()
            # When the caller is cancelled once more it leaves before they have ended.
            keep(task)
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def aside(function: Callable[[], T]) -> T:
    """Call a function that computes for a while; a thread may."""
    return function()


async def async_aside(function: Callable[[], T]) -> T:
    """Call a function that computes for a while in a thread, so that the event loop goes on."""
    return await asyncio.to_thread(function)


def hedged(first: Callable[[], T], second: Callable[[], T], delay: float, may: Callable[[], bool]) -> T:
    """What the first of two functions to succeed gives; the second is begun after `delay` seconds, if it `may`.

    Each runs in a thread. The one that is late goes on to its end, and is not waited for.
    """
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def begin(function: Callable[[], T]) -> None:
        context = contextvars.copy_context()
        work = lambda: outcomes.put(context.run(outcome, function))  # noqa: E731
        threading.Thread(target=work, name="shardpool-hedge", daemon=True).start()

    begin(first)
    try:
        value, error = outcomes.get(timeout=delay)
    except queue.Empty:
        if may():
            begin(second)
            value, error = outcomes.get()
            if error is not None:
                value, error = outcomes.get()
        else:
            value, error = outcomes.get()
    if error is not None:
        raise error
    return cast("T", value)


async def async_hedged(
    first: Callable[[], Awaitable[T]], second: Callable[[], Awaitable[T]], delay: float, may: Callable[[], bool]
) -> T:
    """What the first of two coroutine functions to succeed gives; the other is cancelled, and not waited for."""
    tasks = {asyncio.ensure_future(first())}
    try:
        done, _ = await asyncio.wait(tasks, timeout=delay)
        if not done and may():
            tasks.add(asyncio.ensure_future(second()))
        while True:
            done, left = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            well = next((task for task in done if not task.exception()), None)
            if well is not None:
                return well.result()
            if not left:
                return done.pop().result()
    finally:
        for task in tasks:
            if not task.done():
                keep(task)
                task.cancel()


class Nap:
    """A sleep in the background that somebody can end."""

    def __init__(self) -> None:
        self._woken = Flag()

    def sleep(self, seconds: float) -> None:
        self._woken.wait(seconds)
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()


class AsyncNap:
    """A sleep in the background that somebody can end."""

    def __init__(self) -> None:
        self._woken = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await async_passed(self._woken, seconds)
        self._woken.clear()

    def wake(self) -> None:
        self._woken.set()


def spawn(function: Callable[[], None], name: str) -> Callable[[], None]:
    """Run a function in a daemon thread; what is given back does nothing: a thread ends by itself."""
    threading.Thread(target=function, name=name, daemon=True).start()
    return nothing


def async_spawn(function: Callable[[], Awaitable[None]], name: str) -> Callable[[], None]:
    """Run a coroutine function in a task of its own; what is given back cancels it."""
    task = asyncio.ensure_future(function())
    keep(task)
    return lambda: cast(None, task.cancel())


class Home:
    """Where a router may be used: from any thread."""

    def is_here(self) -> bool:
        return True


class AsyncHome:
    """Where a router may be used: on the event loop that opened it."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()

    def is_here(self) -> bool:
        return asyncio.get_running_loop() is self.loop


sleep = time.sleep


async_sleep = asyncio.sleep
