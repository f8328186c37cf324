"""What all shards say of their migrations, at once and without a lock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from ..errors import ShardError
from . import state
from .session import connect, one, rows_of
from .state import Runner, ShardState, rows_by_version

if TYPE_CHECKING:
    from .._async.router import AsyncRouter


async def read_states(router: AsyncRouter, shards: Iterable[str], timeout: float) -> dict[str, ShardState]:
    """Every shard's rows, or the error for which it said nothing, within `timeout` seconds."""
    names = list(shards)
    found = await asyncio.gather(*(_read(router, name, timeout) for name in names))
    return dict(zip(names, found, strict=True))


async def _read(router: AsyncRouter, shard: str, timeout: float) -> ShardState:
    deadline = monotonic() + timeout
    try:
        conn = await connect(router, shard, readonly=True)
        watch = router._watchdog.watch(conn, deadline)
        try:
            installed, *runner = await one(conn, state.INSTALLED_AND_RUNNING)
            if not installed:
                return ShardState(shard, {}, installed=False)
            rows = await rows_of(conn, state.READ)
            return ShardState(shard, rows_by_version(rows), True, Runner(*runner) if runner[0] is not None else None)
        finally:
            router._watchdog.release(watch)
            await conn.close()
    except (psycopg.Error, ShardError) as error:
        return ShardState(shard, {}, installed=False, error=error)
