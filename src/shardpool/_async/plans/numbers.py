"""Numbers of sequences for the rows of a whole fleet: drawn on one shard, a block at a time, and given out here.

nextval() on one server never gives a number twice, whatever is rolled back or killed. So blocks that are drawn by it
are nobody else's. What is left of one when the router ends is never used.
See docs/adr/0053-numbers-come-in-blocks.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from ..._runtime.deadlines import Deadline, halfway
from ...control.sequences import DRAW
from ...errors import DeadlineExceeded, ShardError
from ..fleet.servers import connected
from ..work.handle import AsyncShardHandle

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet


class AsyncNumbers:
    """The blocks that are at hand, by the names of their sequences. Threads share them."""

    def __init__(self, fleet: AsyncFleet) -> None:
        self._fleet = fleet
        self._blocks: dict[str, deque[int]] = {}
        # Sequences of which a block is being drawn: nobody waits for it, and nobody else draws one.
        self._drawing: set[str] = set()

    def drop(self) -> None:
        """Use nothing of what was drawn before: a sequence was set, or this is a forked child."""
        self._blocks = {}

    def start_afresh(self) -> None:
        """In a forked child: its parent goes on with the blocks."""
        self._drawing = set()
        self.drop()

    async def take(self, sequence: str, count: int, deadline: Deadline) -> list[int]:
        """So many numbers, in ascending order where the sequence ascends. I/O only when there are not as many at hand.

        Raises what the shard that numbers says, and `ShardError` when it does not answer until `deadline`.
        """
        found: list[int] = []
        missing, blocks = count, self._blocks
        block = blocks.get(sequence)
        if block is not None:
            try:
                while missing:
                    found.append(block.popleft())
                    missing -= 1
                return found
            except IndexError:
                pass
        size = self._fleet.topology.id_block
        if missing >= size or sequence in self._drawing:
            found += await self._drawn(sequence, missing, missing, deadline)
            return found
        try:
            self._drawing.add(sequence)
            drawn = await self._drawn(sequence, size, missing, deadline)
        finally:
            self._drawing.discard(sequence)
        found += drawn[:missing]
        # Dropped meanwhile, it is put where nobody looks any more.
        blocks.setdefault(sequence, deque()).extend(drawn[missing:])
        return found

    async def _drawn(self, sequence: str, count: int, needed: int, deadline: Deadline) -> Sequence[int]:
        shard = self._fleet.topology.numbering_shard
        params = (sequence, count, needed)
        try:
            if self._has_place(shard):
                with suppress(DeadlineExceeded):
                    handle = AsyncShardHandle(self._fleet, shard)
                    result = await handle._execute(DRAW, params, halfway(deadline), row_factory=tuple_row)
                    return _numbers(*next(iter(result.raw())))
            return await self._drawn_apart(shard, params, deadline)
        except ShardError as error:
            raise _told(sequence, error) from error.__cause__

    def _has_place(self, shard: str) -> bool:
        """Whether a connection is free: those in use may be held by who waits for these numbers, as a load does."""
        pools = self._fleet.snapshot.shards.get(shard)
        place = pools.primary.places.all.acquire_at_once() if pools is not None else None
        if place is not None:
            place.free()
        return pools is None or place is not None

    async def _drawn_apart(self, shard: str, params: tuple[str, int, int], deadline: Deadline) -> Sequence[int]:
        left = max(0.1, deadline - monotonic())
        async with connected(self._fleet, [shard], deadline, left) as (conns, missing):
            for error in missing.values():
                raise error
            cursor = conns[shard].cursor(binary=False)
            try:
                await cursor.execute(DRAW, params)
            except psycopg.OperationalError as error:
                if error.sqlstate is not None:
                    raise
                raise DeadlineExceeded(f"the deadline passed on shard {shard}", shard=shard) from error
            result = cursor.pgresult
            assert result is not None
            return _numbers(*(result.get_value(0, column) for column in range(result.nfields)))


def _numbers(lowest: Any, highest: Any, count: Any, ascends: Any, listed: Any) -> Sequence[int]:
    if listed is not None:
        return list(map(int, bytes(listed).split(b",")))
    first, last, others = int(lowest), int(highest), int(count) - 1
    if not others:
        return (first,)
    step = (last - first) // others
    return range(first, last + 1, step) if ascends == b"t" else range(last, first - 1, -step)


def _told(sequence: str, error: ShardError) -> ShardError:
    """The error with what was wanted of the shard."""
    why = f"It numbers rows for all shards, and the next numbers of {sequence} are to be had there only."
    error.detail = f"{error.detail} {why}" if error.detail else why
    return error
