"""The moves of a sync router: the same methods, each in an event loop of its own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from ..topology import RunningMove, Topology
from .moves import AsyncMoves
from .status import MoveStatus
from .verify import Comparison

T = TypeVar("T")


class Moves:
    """What `AsyncMoves` does, for a sync router: see there for the arguments."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._moves = AsyncMoves(path)

    @property
    def topology(self) -> Topology:
        """See `AsyncMoves.topology`."""
        return self._moves.topology

    def plan(self, *args: Any, **kwargs: Any) -> RunningMove:
        """See `AsyncMoves.plan`."""
        return _run(self._moves.plan, *args, **kwargs)

    def plan_split(self, *args: Any, **kwargs: Any) -> RunningMove:
        """See `AsyncMoves.plan_split`."""
        return _run(self._moves.plan_split, *args, **kwargs)

    def make(self, *args: Any, **kwargs: Any) -> list[int]:
        """See `AsyncMoves.make`."""
        return _run(self._moves.make, *args, **kwargs)

    def resume(self, *args: Any, **kwargs: Any) -> None:
        """See `AsyncMoves.resume`."""
        _run(self._moves.resume, *args, **kwargs)

    def finish(self, *args: Any, **kwargs: Any) -> None:
        """See `AsyncMoves.finish`."""
        _run(self._moves.finish, *args, **kwargs)

    def roll_back(self, *args: Any, **kwargs: Any) -> None:
        """See `AsyncMoves.roll_back`."""
        _run(self._moves.roll_back, *args, **kwargs)

    def abort(self, *args: Any, **kwargs: Any) -> None:
        """See `AsyncMoves.abort`."""
        _run(self._moves.abort, *args, **kwargs)

    def pause(self, number: int) -> None:
        """See `AsyncMoves.pause`."""
        _run(self._moves.pause, number)

    def status(self, *args: Any, **kwargs: Any) -> list[MoveStatus]:
        """See `AsyncMoves.status`."""
        return _run(self._moves.status, *args, **kwargs)

    def verify(self, number: int) -> Comparison:
        """See `AsyncMoves.verify`."""
        return _run(self._moves.verify, number)


def _run(method: Callable[..., Coroutine[Any, Any, T]], *args: Any, **kwargs: Any) -> T:
    """In a thread of its own where this one has a loop already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(method(*args, **kwargs))
    with ThreadPoolExecutor(1, thread_name_prefix="shardpool-move") as thread:
        return thread.submit(asyncio.run, method(*args, **kwargs)).result()
