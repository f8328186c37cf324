"""Slots and AsyncSlots: never more holders than slots, served in order, and no slot is ever lost."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from time import monotonic

import pytest

from shardpool._slots import AsyncSlots, QueueFull, SentAway, Slots
from tests.timing import in_time


def test_a_full_queue_refuses_at_once() -> None:
    slots = Slots(1, max_waiting=0)
    slots.acquire(monotonic() + 5)
    started = monotonic()
    with pytest.raises(QueueFull):
        slots.acquire(monotonic() + 5)
    in_time(monotonic() - started, 0.1)


def test_a_waiter_gives_up_at_its_deadline_and_leaves_the_queue() -> None:
    slots = Slots(1, max_waiting=5)
    slots.acquire(monotonic() + 5)
    with pytest.raises(TimeoutError):
        slots.acquire(monotonic() + 0.05)
    assert slots.waiting == 0
    slots.release()
    slots.acquire(monotonic() + 0.05)


def test_threads_never_hold_more_than_there_are() -> None:
    slots = Slots(3, max_waiting=100)
    holding, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal holding, most
        for _ in range(200):
            slots.acquire(monotonic() + 30)
            with lock:
                holding += 1
                most = max(most, holding)
            with lock:
                holding -= 1
            slots.release()

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most <= 3
    assert slots.in_use == 0


def test_growing_lets_waiters_in_and_shrinking_takes_effect_as_slots_are_released() -> None:
    slots = Slots(1, max_waiting=5)
    slots.acquire(monotonic() + 1)
    came = threading.Event()
    thread = threading.Thread(target=lambda: (slots.acquire(monotonic() + 10), came.set()))
    thread.start()
    slots.resize(2)
    assert came.wait(5)
    thread.join()
    slots.resize(1)
    slots.release()
    with pytest.raises(TimeoutError):
        slots.acquire(monotonic() + 0.02)
    slots.release()
    slots.acquire(monotonic() + 0.02)


async def test_tasks_are_served_in_order() -> None:
    slots = AsyncSlots(1, max_waiting=10)
    await slots.acquire(monotonic() + 5)
    order: list[int] = []

    async def work(number: int) -> None:
        await slots.acquire(monotonic() + 5)
        order.append(number)
        slots.release()

    tasks = [asyncio.create_task(work(number)) for number in range(5)]
    await asyncio.sleep(0)
    slots.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3, 4]
    assert slots.in_use == 0


async def test_cancelled_waiters_lose_no_slot() -> None:
    slots = AsyncSlots(2, max_waiting=1000)

    async def work() -> None:
        await slots.acquire(monotonic() + 30)
        try:
            await asyncio.sleep(0)
        finally:
            slots.release()

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
    await slots.acquire(monotonic() + 5)
    with pytest.raises(TimeoutError):
        await slots.acquire(monotonic() + 0.02)
    assert slots.waiting == 0
    slots.release()
    assert slots.in_use == 0


def test_one_who_is_sent_away_at_the_deadline_holds_no_slot() -> None:
    slots = Slots(1, max_waiting=5)
    slots.acquire(monotonic() + 1)
    got: list[bool] = []

    def wait() -> None:
        with suppress(SentAway, TimeoutError):
            slots.acquire(monotonic() + 0.05)
            got.append(True)

    thread = threading.Thread(target=wait)
    # Held while the deadline passes: whoever wants to leave the queue comes too late.
    slots._lock = lock = threading.RLock()  # type: ignore[assignment]
    thread.start()
    while not slots.waiting:
        threading.Event().wait(0.001)
    with lock:
        threading.Event().wait(0.2)
        slots.send_away()
    thread.join()
    assert not got
    slots.release()
    assert (slots.in_use, slots.waiting) == (0, 0)
