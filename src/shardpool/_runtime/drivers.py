"""Run generators that do I/O on sockets: on `poll` in a thread, or on the event loop.

`tools/unasync.py` turns the `async_x` and `AsyncX` of this module into its `x` and `X`.
"""

from __future__ import annotations

import asyncio
import select
from collections.abc import Callable, Generator, Iterable
from contextlib import suppress
from time import monotonic
from typing import Any, TypeVar, cast

from .deadlines import Deadline

T = TypeVar("T")

READ = 1


WRITE = 2


OVERDUE = 0


# A step of I/O on one socket: it yields the events that it waits for, and is sent those that are ready, or OVERDUE.
Step = Generator[int, int, None]


# I/O on several sockets at a time: it yields {descriptor: events that it waits for}, and is sent those that are ready.
Flow = Generator[dict[int, int], dict[int, int], T]


class Overdue(Exception):
    """Thrown into a flow at its deadline."""


def _never() -> bool:
    return False


def drive(steps: Iterable[tuple[int, Step]], deadline: Deadline, stop: Callable[[], bool] = _never) -> None:
    """Run the steps, each on its socket, side by side in this thread until all have ended.

    At the deadline (monotonic seconds) each step that is left is sent OVERDUE, upon which it must end. An interrupt
    closes those that are left, and so does `stop()` when it says True after a step has ended.
    """
    waiting: dict[int, Step] = {}
    poll = select.poll()
    try:
        for descriptor, step in steps:
            _advance(poll, waiting, descriptor, step, None)
        while waiting:
            if stop():
                _close(waiting.values())
                waiting.clear()
                return
            left = deadline - monotonic()
            ready = poll.poll(max(1, int(left * 1000))) if left > 0 else []
            if not ready and left <= 0:
                break
            for descriptor, events in ready:
                _advance(poll, waiting, descriptor, waiting[descriptor], _flags(events))
    finally:
        _end(waiting.values())


def _advance(poll: select.poll, waiting: dict[int, Step], descriptor: int, step: Step, ready: int | None) -> None:
    """One go of a step; waits for what it asks for next, or takes it out when it has ended."""
    try:
        wanted = next(step) if ready is None else step.send(ready)
    except StopIteration:
        if waiting.pop(descriptor, None) is not None:
            poll.unregister(descriptor)
        return
    waiting[descriptor] = step
    poll.register(descriptor, (select.POLLIN if wanted & READ else 0) | (select.POLLOUT if wanted & WRITE else 0))


def _flags(events: int) -> int:
    """poll()'s events; an error or a hang-up counts as readable, since reading then tells what it is."""
    readable = READ if events & ~select.POLLOUT else 0
    return readable | (WRITE if events & select.POLLOUT else 0)


def _close(steps: Iterable[Step]) -> None:
    for step in steps:
        step.close()


def _end(steps: Any) -> None:
    for step in list(steps):
        with suppress(StopIteration):
            step.send(OVERDUE)
        step.close()


async def async_drive(steps: Iterable[tuple[int, Step]], deadline: Deadline, stop: Callable[[], bool] = _never) -> None:
    """`drive` on the running event loop; cancelling it ends the steps that are left."""
    loop = asyncio.get_running_loop()
    runs = [_Run(loop, descriptor, step) for descriptor, step in steps]
    try:
        for run in runs:
            run.advance(None)
        left = {run.ended for run in runs if not run.ended.done()}
        when = asyncio.ALL_COMPLETED if stop is _never else asyncio.FIRST_COMPLETED
        while left and not stop():
            done, left = await asyncio.wait(left, timeout=max(0.0, deadline - monotonic()), return_when=when)
            if not done:
                break
        if left and stop():
            for run in runs:
                run.abandon()
    finally:
        for run in runs:
            run.stop()


class _Run:
    """One step on the loop: a reader or a writer is registered only while the step waits for it."""

    __slots__ = ("_descriptor", "_loop", "_step", "_wanted", "ended")

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, step: Step) -> None:
        self._loop = loop
        self._descriptor = descriptor
        self._step = step
        self._wanted = 0
        self.ended: asyncio.Future[None] = loop.create_future()

    def advance(self, ready: int | None) -> None:
        try:
            wanted = next(self._step) if ready is None else self._step.send(ready)
        except StopIteration:
            self._want(0)
            if not self.ended.done():
                self.ended.set_result(None)
        else:
            self._want(wanted)

    def _want(self, wanted: int) -> None:
        changed = wanted ^ self._wanted
        if changed & READ:
            if wanted & READ:
                self._loop.add_reader(self._descriptor, self.advance, READ)
            else:
                self._loop.remove_reader(self._descriptor)
        if changed & WRITE:
            if wanted & WRITE:
                self._loop.add_writer(self._descriptor, self.advance, WRITE)
            else:
                self._loop.remove_writer(self._descriptor)
        self._wanted = wanted

    def abandon(self) -> None:
        """Close the step where it stands."""
        if not self.ended.done():
            self._want(0)
            self._step.close()
            self.ended.cancel()

    def stop(self) -> None:
        if not self.ended.done():
            self._want(0)
            _end([self._step])
            self.ended.cancel()


def drive_flow(flow: Flow[T], deadline: Deadline) -> T:
    """Run a flow, which waits for several sockets at a time, to its end in this thread; gives what it returns.

    At the deadline (monotonic seconds) `Overdue` is thrown into it, upon which it must end.
    """
    ready: dict[int, int] | None = None
    try:
        while True:
            wanted = flow.send(ready) if ready is not None else next(flow)
            ready = _poll(wanted, deadline)
            if ready is None:
                flow.throw(Overdue())
                raise RuntimeError("a flow went on after its deadline")
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        flow.close()


def _poll(wanted: dict[int, int], deadline: Deadline) -> dict[int, int] | None:
    poll = select.poll()
    for descriptor, interest in wanted.items():
        poll.register(
            descriptor, (select.POLLIN if interest & READ else 0) | (select.POLLOUT if interest & WRITE else 0)
        )
    while True:
        left = deadline - monotonic()
        if left <= 0:
            return None
        ready = poll.poll(max(1, int(left * 1000)))
        if ready:
            return {descriptor: _flags(events) for descriptor, events in ready}


async def async_drive_flow(flow: Flow[T], deadline: Deadline) -> T:
    """`drive_flow` on the running event loop; cancelling it ends the flow."""
    loop = asyncio.get_running_loop()
    waiting = _Waiting(loop)
    ready: dict[int, int] | None = None
    try:
        while True:
            wanted = flow.send(ready) if ready is not None else next(flow)
            ready = await waiting.wait(wanted, deadline)
            if ready is None:
                flow.throw(Overdue())
                raise RuntimeError("a flow went on after its deadline")
    except StopIteration as end:
        return cast("T", end.value)
    finally:
        waiting.stop()
        flow.close()


class _Waiting:
    """The sockets that a flow waits for, registered with the loop for as long as what is wanted of them stays."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._wanted: dict[int, int] = {}
        self._ready: dict[int, int] = {}
        self._woken: asyncio.Future[None] | None = None

    async def wait(self, wanted: dict[int, int], deadline: Deadline) -> dict[int, int] | None:
        self._ready = {}
        self._woken = self._loop.create_future()
        self._register(wanted)
        timer = self._loop.call_at(self._loop.time() + max(0.0, deadline - monotonic()), self._wake)
        try:
            await self._woken
        finally:
            timer.cancel()
        return self._ready or None

    def _register(self, wanted: dict[int, int]) -> None:
        for descriptor in self._wanted.keys() | wanted.keys():
            before, after = self._wanted.get(descriptor, 0), wanted.get(descriptor, 0)
            if (before ^ after) & READ:
                if after & READ:
                    self._loop.add_reader(descriptor, self._note, descriptor, READ)
                else:
                    self._loop.remove_reader(descriptor)
            if (before ^ after) & WRITE:
                if after & WRITE:
                    self._loop.add_writer(descriptor, self._note, descriptor, WRITE)
                else:
                    self._loop.remove_writer(descriptor)
        self._wanted = dict(wanted)

    def _note(self, descriptor: int, flag: int) -> None:
        self._ready[descriptor] = self._ready.get(descriptor, 0) | flag
        self._wake()

    def _wake(self) -> None:
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def stop(self) -> None:
        self._register({})
