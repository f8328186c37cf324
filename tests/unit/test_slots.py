"""Slots and AsyncSlots: never more holders than slots, served in order, and no slot is ever lost."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import pytest

from shardpool._runtime.slots import AsyncSlots, Place, QueueFull, SentAway, Slots
from tests.timing import in_time


def test_a_full_queue_refuses_at_once() -> None:
    slots = Slots(1, max_waiting=0)
    held = slots.acquire(monotonic() + 5)
    started = monotonic()
    with pytest.raises(QueueFull):
        slots.acquire(monotonic() + 5)
    in_time(monotonic() - started, 0.1)
    held.free()


def test_a_waiter_gives_up_at_its_deadline_and_leaves_the_queue() -> None:
    slots = Slots(1, max_waiting=5)
    held = slots.acquire(monotonic() + 5)
    with pytest.raises(TimeoutError):
        slots.acquire(monotonic() + 0.05)
    assert slots.waiting == 0
    held.free()
    slots.acquire(monotonic() + 0.05)


def test_threads_never_hold_more_than_there_are() -> None:
    slots = Slots(3, max_waiting=100)
    holding, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal holding, most
        for _ in range(200):
            place = slots.acquire(monotonic() + 30)
            with lock:
                holding += 1
                most = max(most, holding)
            with lock:
                holding -= 1
            place.free()

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 3
    assert slots.in_use == 0


def test_growing_lets_waiters_in_and_shrinking_takes_effect_as_slots_are_released() -> None:
    slots = Slots(1, max_waiting=5)
    held = [slots.acquire(monotonic() + 1)]
    came = threading.Event()
    thread = threading.Thread(target=lambda: (held.append(slots.acquire(monotonic() + 10)), came.set()))
    thread.start()
    slots.resize(2)
    assert came.wait(5)
    thread.join()
    slots.resize(1)
    held.pop().free()
    with pytest.raises(TimeoutError):
        slots.acquire(monotonic() + 0.02)
    held.pop().free()
    slots.acquire(monotonic() + 0.02)


async def test_tasks_are_served_in_order() -> None:
    slots = AsyncSlots(1, max_waiting=10)
    held = await slots.acquire(monotonic() + 5)
    order: list[int] = []

    async def work(number: int) -> None:
        place = await slots.acquire(monotonic() + 5)
        order.append(number)
        place.free()

    tasks = [asyncio.create_task(work(number)) for number in range(5)]
    await asyncio.sleep(0)
    held.free()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert slots.in_use == 0


async def test_cancelled_waiters_lose_no_slot() -> None:
    slots = AsyncSlots(2, max_waiting=1000)

    async def work() -> None:
        place = await slots.acquire(monotonic() + 30)
        try:
            await asyncio.sleep(0)
        finally:
            place.free()

    tasks = [asyncio.create_task(work()) for _ in range(300)]
    for number, task in enumerate(tasks):
        if number % 3:
            await asyncio.sleep(0)
        if number % 2:
            task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert slots.in_use == 0
    assert slots.waiting == 0


async def test_a_task_gives_up_at_its_deadline() -> None:
    slots = AsyncSlots(1, max_waiting=10)
    held = await slots.acquire(monotonic() + 5)
    with pytest.raises(TimeoutError):
        await slots.acquire(monotonic() + 0.02)
    assert slots.waiting == 0
    held.free()
    assert slots.in_use == 0


async def test_a_task_that_is_cancelled_as_its_turn_comes_is_cancelled_and_holds_no_slot() -> None:
    slots = AsyncSlots(1, max_waiting=10)
    held = await slots.acquire(monotonic() + 5)
    waiting = asyncio.create_task(slots.acquire(monotonic() + 5))
    await _until_waiting(slots)
    held.free()
    waiting.cancel()
    await asyncio.wait({waiting})
    assert waiting.cancelled()
    assert (slots.in_use, slots.waiting) == (0, 0)


def test_a_place_that_nobody_refers_to_any_more_is_free_again_and_given_to_those_who_wait() -> None:
    slots = Slots(1, max_waiting=5)
    held = [slots.acquire(monotonic() + 1)]
    came = threading.Event()
    thread = threading.Thread(target=lambda: slots.acquire(monotonic() + 10) and came.set())
    thread.start()
    while not slots.waiting:
        threading.Event().wait(0.001)
    held.clear()
    assert came.wait(5)
    thread.join()
    assert slots.in_use == 0


async def test_a_place_that_a_thread_lets_go_of_is_given_to_a_task_that_waits() -> None:
    slots = AsyncSlots(1, max_waiting=5)
    held = [await slots.acquire(monotonic() + 1)]
    waiting = asyncio.create_task(slots.acquire(monotonic() + 10))
    await _until_waiting(slots)
    await asyncio.to_thread(held.clear)
    (await waiting).free()
    assert slots.in_use == 0


async def _until_waiting(slots: AsyncSlots) -> None:
    while not slots.waiting:  # noqa: ASYNC110
        await asyncio.sleep(0)


class _Interrupt(BaseException):
    pass


def test_an_exception_after_any_call_in_here_loses_no_slot() -> None:
    for make in (Slots.acquire_at_once, lambda slots: slots.acquire(monotonic() + 1)):
        for count in range(300):
            slots = Slots(1, max_waiting=1)
            with suppress(_Interrupt), _raised_at(count):
                make(slots).free()  # type: ignore[union-attr]
            assert slots.in_use == 0, count
            assert slots.acquire_at_once() is not None


@contextmanager
def _raised_at(count: int) -> Iterator[None]:
    """Raise where a function of `_slots` is called, or goes on after a call, for the count-th time."""
    left = count

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith("_slots.py") or frame.f_code.co_name in ("__del__", "reclaim"):
            return None
        frame.f_trace_opcodes = True
        left -= 1
        if left == -1:
            raise _Interrupt
        return trace

    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(None)


def test_one_who_is_sent_away_at_the_deadline_holds_no_slot() -> None:
    slots = Slots(1, max_waiting=5)
    held = slots.acquire(monotonic() + 1)
    got: list[Place] = []

    def wait() -> None:
        with suppress(SentAway, TimeoutError):
            got.append(slots.acquire(monotonic() + 0.05))

    thread = threading.Thread(target=wait)
    # Held while the deadline passes: whoever wants to leave the queue comes too late.
    slots._lock = lock = threading.RLock()
    thread.start()
    while not slots.waiting:
        threading.Event().wait(0.001)
    with lock:
        threading.Event().wait(0.2)
        slots.send_away()
    thread.join()
    assert not got
    held.free()
    assert (slots.in_use, slots.waiting) == (0, 0)
