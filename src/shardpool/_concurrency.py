"""The pairs that differ between threads and tasks, each under one interface; nothing here knows PostgreSQL.

`tools/unasync.py` turns the `async_x` and `AsyncX` of this module into its `x` and `X`.
"""

from __future__ import annotations

import _thread
import asyncio
import contextvars
import queue
import select
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from time import monotonic
from typing import Any, TypeVar, cast

T = TypeVar("T")

READ = 1
WRITE = 2
OVERDUE = 0

# A step of I/O on one socket: it yields the events that it waits for, and is sent those that are ready, or OVERDUE.
Step = Generator[int, int, None]
# I/O on several sockets at a time: it yields {descriptor: events that it waits for}, and is sent those that are ready.
Flow = Generator[dict[int, int], dict[int, int], T]
# What a function gave: its value, or the exception that it raised.
Outcome = tuple[Any, BaseException | None]


class Overdue(Exception):
    """Thrown into a flow at its deadline."""


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
            outcomes[index] = _outcome(functions[index])

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


def _outcome(function: Callable[[], T]) -> Outcome:
    try:
        return function(), None
    except BaseException as error:
        return None, error


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
            _keep(task)
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _never() -> bool:
    return False


def drive(steps: Iterable[tuple[int, Step]], deadline: float, stop: Callable[[], bool] = _never) -> None:
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


async def async_drive(steps: Iterable[tuple[int, Step]], deadline: float, stop: Callable[[], bool] = _never) -> None:
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


def drive_flow(flow: Flow[T], deadline: float) -> T:
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


def _poll(wanted: dict[int, int], deadline: float) -> dict[int, int] | None:
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


async def async_drive_flow(flow: Flow[T], deadline: float) -> T:
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

    async def wait(self, wanted: dict[int, int], deadline: float) -> dict[int, int] | None:
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


def aside(function: Callable[[], T]) -> T:
    """Call a function that computes for a while; a thread may."""
    return function()


async def async_aside(function: Callable[[], T]) -> T:
    """Call a function that computes for a while in a thread, so that the event loop goes on."""
    return await asyncio.to_thread(function)


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
    heeded(lambda: function(argument), _nothing)


async def async_uninterrupted(function: Callable[[Any], Awaitable[None]], argument: Any) -> None:
    """Await a coroutine function in a task of its own, which goes on to its end when the caller is cancelled."""
    task = asyncio.ensure_future(function(argument))
    _keep(task)
    await asyncio.shield(task)


def heeded(function: Callable[[], T], undo: Callable[[T], None]) -> T:
    """What a function gives, as `uninterrupted` calls it; undone when the caller has been interrupted meanwhile."""
    if threading.get_ident() != threading.main_thread().ident:
        return function()
    outcomes: deque[Outcome] = deque()
    has_left: list[bool] = []
    ended = Flag()
    context = contextvars.copy_context()

    def work() -> None:
        outcomes.append(context.run(_outcome, function))
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
    found = await function()
    if task is not None and task.cancelling() > before:
        await async_uninterrupted(undo, found)
        raise asyncio.CancelledError
    return found


def hedged(first: Callable[[], T], second: Callable[[], T], delay: float, may: Callable[[], bool]) -> T:
    """What the first of two functions to succeed gives; the second is begun after `delay` seconds, if it `may`.

    Each runs in a thread. The one that is late goes on to its end, and is not waited for.
    """
    outcomes: queue.SimpleQueue[Outcome] = queue.SimpleQueue()

    def begin(function: Callable[[], T]) -> None:
        context = contextvars.copy_context()
        work = lambda: outcomes.put(context.run(_outcome, function))  # noqa: E731
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
                _keep(task)
                task.cancel()


# The loop itself keeps only weak references to its tasks.
_finishing: set[asyncio.Future[Any]] = set()


def _keep(task: asyncio.Future[Any]) -> None:
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
    return _nothing


def async_spawn(function: Callable[[], Awaitable[None]], name: str) -> Callable[[], None]:
    """Run a coroutine function in a task of its own; what is given back cancels it."""
    task = asyncio.ensure_future(function())
    _keep(task)
    return lambda: cast(None, task.cancel())


def _nothing(*_: object) -> None: ...


class Home:
    """Where a router may be used: from any thread."""

    def is_here(self) -> bool:
        return True


class AsyncHome:
    """Where a router may be used: on the event loop that opened it."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def is_here(self) -> bool:
        return asyncio.get_running_loop() is self._loop


sleep = time.sleep
async_sleep = asyncio.sleep


def batches(rows: Iterable[T], room: Callable[[list[T]], int]) -> Iterator[list[T]]:
    """The rows in lists; nothing is read ahead of the list that is asked for.

    `room(batch)` says how many more rows may be read before it is asked again; 0 when the batch is full.
    """
    left = iter(rows)
    batch: list[T] = []
    wanted = room(batch)
    while more := list(islice(left, wanted)):
        batch += more
        wanted = room(batch)
        if not wanted:
            yield batch
            batch = []
            wanted = room(batch)
    if batch:
        yield batch


async def async_batches(rows: Iterable[T] | AsyncIterable[T], room: Callable[[list[T]], int]) -> AsyncIterator[list[T]]:
    """`batches` of an iterable or an async iterable; the loop gets a turn after each batch of one that never waits."""
    if isinstance(rows, AsyncIterable):
        batch: list[T] = []
        wanted, add = room(batch), batch.append
        async for row in rows:
            add(row)
            wanted -= 1
            if not wanted:
                wanted = room(batch)
                if not wanted:
                    yield batch
                    batch = []
                    wanted, add = room(batch), batch.append
        if batch:
            yield batch
        return
    for batch in batches(rows, room):
        yield batch
        await asyncio.sleep(0)
