"""Reads the schema of every shard, and what is invalid there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import AsyncConnection

from .._runtime.deadlines import deadline_after
from ..errors import ShardpoolError
from . import drift
from .session import connect, rows_of

if TYPE_CHECKING:
    from .._async.fleet.fleet import AsyncFleet

T = TypeVar("T")


async def on_each(
    fleet: AsyncFleet,
    shards: Iterable[str],
    timeout: float,
    work: Callable[[str, AsyncConnection[Any]], Awaitable[T]],
) -> tuple[dict[str, T], dict[str, BaseException]]:
    """`work(shard, conn)` on all shards at once, `timeout` seconds each: what it gave, and the errors of the others."""

    async def on(shard: str) -> T | BaseException:
        deadline = deadline_after(timeout)
        try:
            async with fleet.dialer.until(await connect(fleet, shard, readonly=True), deadline) as conn:
                return await work(shard, conn)
        except (psycopg.Error, ShardpoolError) as error:
            return error

    names = list(shards)
    outcomes = dict(zip(names, await asyncio.gather(*map(on, names)), strict=True))
    failed = {name: outcome for name, outcome in outcomes.items() if isinstance(outcome, BaseException)}
    return {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, BaseException)}, failed


async def things_of(
    fleet: AsyncFleet, shards: Iterable[str], timeout: float, ignore: Sequence[str]
) -> tuple[dict[str, dict[drift.Key, drift.Thing]], dict[str, BaseException]]:
    """What each shard's schema is made of."""

    async def read(shard: str, conn: AsyncConnection[Any]) -> dict[drift.Key, drift.Thing]:
        await conn.execute("SET search_path = ''", prepare=False)
        return drift.things(await rows_of(conn, drift.query()), fleet.topology, ignore)

    return await on_each(fleet, shards, timeout, read)
