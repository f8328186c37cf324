"""What many want to know at the same time is asked once: beside them, each waiting for it as long as it likes.

`tools/unasync.py` turns the `AsyncX` of this module into its `X`.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Callable, Hashable
from time import monotonic
from typing import Any

from ..errors import DeadlineExceeded
from .deadlines import Deadline
from .interrupts import Flag, Outcome

_INTERRUPTED = "the call that had asked for all was interrupted"


class Run:
    """A function that runs in a thread of its own; `begun` in monotonic seconds."""

    def __init__(self) -> None:
        self.begun = monotonic()
        self._outcome: Outcome = (None, None)
        self._ended = Flag()

    def wait(self, until: Deadline) -> Outcome | None:
        """What has come of it; None when that is not known by then, in monotonic seconds."""
        return self._outcome if self._ended.wait(until - monotonic()) else None

    def end(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._ended.set()


class SingleFlight:
    """Runs functions by a key: of two who ask for the same one the later gets what comes of the first one's."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[Hashable, Run] = {}

    def run(self, key: Hashable, function: Callable[[], Any]) -> Run:
        """The run of that key that is under way, or a new one."""
        run, context = Run(), contextvars.copy_context()

        def work() -> None:
            outcome: Outcome = (None, None)
            try:
                outcome = context.run(function), None
            except BaseException as error:
                outcome = None, error
            finally:
                self._end(key, run, outcome)

        thread = threading.Thread(target=work, name="shardpool-joint", daemon=True)
        try:
            with self._lock:
                first = self._runs.setdefault(key, run)
            if first is run:
                thread.start()
            return first
        except BaseException as error:
            # Those who have come meanwhile are told: no thread is to be had, or to ask anew after an interrupt. When
            # it has come after the start, the thread ends the run once more, which changes nothing.
            self._end(
                key, run, (None, error if isinstance(error, Exception) else DeadlineExceeded(_INTERRUPTED, shard=""))
            )
            raise

    def _end(self, key: Hashable, run: Run, outcome: Outcome) -> None:
        with self._lock:
            if self._runs.get(key) is run:
                del self._runs[key]
        run.end(outcome)

    def stop(self) -> None:
        """A thread ends by itself."""


class AsyncRun:
    """A coroutine function that runs in a task of its own; `begun` in monotonic seconds."""

    def __init__(self, task: asyncio.Task[Outcome]) -> None:
        self.begun = monotonic()
        self.task = task

    async def wait(self, until: Deadline) -> Outcome | None:
        """What has come of it; None when that is not known by then, in monotonic seconds."""
        done, _ = await asyncio.wait({self.task}, timeout=max(0.0, until - monotonic()))
        return self.task.result() if done and not self.task.cancelled() else None


class AsyncSingleFlight:
    """Runs coroutine functions by a key: of two who ask for the same one the later gets what comes of the first's."""

    def __init__(self) -> None:
        self._runs: dict[Hashable, AsyncRun] = {}

    def run(self, key: Hashable, function: Callable[[], Awaitable[Any]]) -> AsyncRun:
        """The run of that key that is under way, or a new one; cancelling those who wait does not end it."""
        current = self._runs.get(key)
        if current is None:
            task = asyncio.ensure_future(_outcome(function))
            current = self._runs[key] = AsyncRun(task)
            task.add_done_callback(lambda _: self._runs.pop(key, None))
        return current

    def stop(self) -> None:
        """End what runs; those who wait for it learn nothing."""
        for run in [*self._runs.values()]:
            run.task.cancel()


async def _outcome(function: Callable[[], Awaitable[Any]]) -> Outcome:
    try:
        return await function(), None
    except Exception as error:
        return None, error


def own(error: BaseException) -> BaseException:
    """A copy of an error that several are told: each raises its own."""
    copy = type(error).__new__(type(error), *error.args)
    copy.__dict__.update(error.__dict__)
    copy.__cause__ = error.__cause__
    return copy
