"""Rows in lists, from an iterable or an async one.

`tools/unasync.py` turns the `async_x` and `AsyncX` of this module into its `x` and `X`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, TypeVar

T = TypeVar("T")

_BATCH_ROWS = 128
_BATCH_BYTES = 2**20
# Of so many rows the last one tells how wide they are.
_SAMPLED_ROWS = 32
_SIZED = frozenset((str, bytes, bytearray, memoryview))


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


class Room:
    """How many rows are held at a time: so many that they cost little each, and fewer that are wide."""

    def __init__(self) -> None:
        self._most = _BATCH_ROWS
        self._widest = 0

    def __call__(self, batch: Sequence[Sequence[Any]]) -> int:
        """The rows that may be read before it is asked again: one first, to see how wide it is; 0 when it is enough."""
        if not batch:
            self._widest = 1
            return 1
        self._widest = max(self._widest, _width(batch[-1]))
        most = min(self._most, _BATCH_BYTES // self._widest)
        return max(0, min(_SAMPLED_ROWS, most - len(batch)))

    def took(self, rows: int, size: int) -> None:
        """What so many rows were in the end: values that do not tell their width are known by it."""
        self._most = _BATCH_ROWS if size < _BATCH_BYTES else max(1, rows * _BATCH_BYTES // size)


def one(batch: Sequence[Any]) -> int:
    """Room for one: blocks of a file are batches already."""
    return 1 - len(batch)


def _width(row: Sequence[Any]) -> int:
    width = 0
    for value in row:
        if type(value) in _SIZED:
            width += len(value)
    return width
