"""What all shards say of their migrations, at once and without a lock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING

import psycopg

from .._runtime.deadlines import deadline_after
from ..errors import ShardError
from . import state
from .session import connect, one, rows_of
from .state import LockHolder, ShardState, rows_by_version

if TYPE_CHECKING:
    from .._async.fleet.fleet import AsyncFleet


async def read_states(fleet: AsyncFleet, shards: Iterable[str], timeout: float) -> dict[str, ShardState]:
    """Every shard's rows, or the error for which it said nothing, within `timeout` seconds."""
    names = list(shards)
    states = await asyncio.gather(*(_read(fleet, name, timeout) for name in names))
    return dict(zip(names, states, strict=True))


async def _read(fleet: AsyncFleet, shard: str, timeout: float) -> ShardState:
    deadline = deadline_after(timeout)
    try:
        async with fleet.dialer.until(await connect(fleet, shard, readonly=True), deadline) as conn:
            installed, *runner = await one(conn, state.INSTALLED_AND_RUNNING)
            if not installed:
                return ShardState(shard, {}, installed=False)
            rows = await rows_of(conn, state.READ)
            return ShardState(
                shard, rows_by_version(rows), True, LockHolder(*runner) if runner[0] is not None else None
            )
    except (psycopg.Error, ShardError) as error:
        return ShardState(shard, {}, installed=False, error=error)
