"""How work goes out over the shards: one first, then the others in waves. Nothing here knows what the work is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..errors import BadMigration, check_choice, nearest

OnError = Literal["stop", "continue"]


@dataclass(frozen=True, slots=True)
class Rollout:
    """`canary` is the shard that goes first, alone: None is the first one, an empty name is none.

    `parallel` shards follow at the same time. With `on_error="stop"` no shard is begun after one has failed; those that
    are under way get to their end. When the canary fails, no other is begun in any case.
    """

    canary: str | None = None
    parallel: int = 4
    on_error: OnError = "stop"

    def waves(self, shards: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Who goes with whom: the canary, then all others."""
        if not shards:
            return ()
        if self.canary == "":
            return (tuple(shards),)
        first = self.canary if self.canary is not None and self.canary in shards else shards[0]
        rest = tuple(shard for shard in shards if shard != first)
        return ((first,), rest) if rest else ((first,),)

    def check(self, shards: Sequence[str]) -> None:
        """Raise `BadMigration` for a canary that is no shard, or a width that is no number of shards."""
        if self.canary and self.canary not in shards:
            raise BadMigration(f"no shard {self.canary} to go first", hint=nearest(self.canary, shards))
        if self.parallel < 1:
            raise BadMigration("parallel is at least 1")
        check_choice("on_error", self.on_error, get_args(OnError))


async def roll_out(rollout: Rollout, shards: Sequence[str], work: Callable[[str], Awaitable[bool]]) -> bool:
    """Call `work(shard)` on all, in their waves; it gives whether all went well, and so does this."""
    well = True
    for number, wave in enumerate(rollout.waves(shards)):
        is_canary = number == 0 and rollout.canary != "" and len(shards) > 1
        well = await _wave(rollout, wave, work) and well
        if not well and (is_canary or rollout.on_error == "stop"):
            return False
    return well


async def _wave(rollout: Rollout, wave: Sequence[str], work: Callable[[str], Awaitable[bool]]) -> bool:
    waiting = list(reversed(wave))
    failed = False

    async def take() -> None:
        nonlocal failed
        while waiting and not (failed and rollout.on_error == "stop"):
            if not await work(waiting.pop()):
                failed = True

    tasks = [asyncio.ensure_future(take()) for _ in range(min(rollout.parallel, len(wave)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        # Interrupted: each shard's transaction is undone, and its lock given back, before this ends.
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return not failed
