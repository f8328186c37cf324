"""Several moves at once: no more than so many, and a shard takes rows of one at a time, and gives none meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from ..errors import first_line
from ..topology import RunningMove
from . import plan


async def side_by_side(
    moves: Sequence[RunningMove], make: Callable[[RunningMove], Awaitable[int]], at_once: int
) -> list[int]:
    """Make moves; gives their numbers, in their order.

    When one fails, those that run are made to their end, and no other is begun; then its error is raised. When this is
    cancelled, so are they.
    """
    waiting = list(range(len(moves)))
    running: dict[asyncio.Future[int], int] = {}
    numbers: dict[int, int] = {}
    failed: list[Exception] = []
    try:
        while running or (waiting and not failed):
            for place in [*waiting] if not failed else ():
                apart = all(plan.can_be_made_beside(moves[place], moves[other]) for other in running.values())
                if len(running) < at_once and apart:
                    waiting.remove(place)
                    running[asyncio.ensure_future(make(moves[place]))] = place
            over, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in over:
                place = running.pop(task)
                try:
                    numbers[place] = task.result()
                except Exception as error:
                    error.add_note(f"{moves[place].what}: {moves[place].source} → {moves[place].target}")
                    failed.append(error)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    if failed:
        for other in failed[1:]:
            failed[0].add_note(f"And another one: {first_line(other)}")
        raise failed[0]
    return [numbers[place] for place in sorted(numbers)]
