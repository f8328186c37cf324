"""The pool of psycopg_pool behind an endpoint's own: made at its first use, and anew when it was closed under us."""

from __future__ import annotations

import gc
import threading
from contextlib import suppress
from functools import partial
from typing import Any, cast

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolClosed

from ..._endpoint.idle import (
    async_take_idle,
    believed_count,
    correct_count,
    idle_count,
    is_making,
    lock_of,
    pool_of,
    was_opened,
)
from ..._endpoint.refusals import Retired
from ..._runtime.interrupts import async_heeded, async_uninterrupted
from ..._runtime.tasks import async_spawn
from ...topology import PoolSettings
from .connector import AsyncConnector
from .lossless_pool import AsyncLosslessPool


class AsyncInnerPool:
    """`current` is the pool of just now, or None; `retired` is set when it closes, and nothing is opened after that."""

    def __init__(self, name: str, settings: PoolSettings, connector: AsyncConnector) -> None:
        self.name = name
        self.settings = settings
        self.retired = False
        self.current: AsyncConnectionPool[Any] | None = None
        self._connector = connector
        self._making = threading.Lock()

    def take_idle(self) -> Any:
        """An idle connection, in whatever state it is; None when there is none."""
        pool = self.current
        return None if pool is None else async_take_idle(pool)

    @property
    def idle_count(self) -> int:
        pool = self.current
        return 0 if pool is None else idle_count(pool)

    async def opened(self) -> AsyncConnectionPool[Any]:
        """The open pool, made anew when there is none, or when it was closed under us; `Retired` after `close`."""
        pool = self.current
        return await self._open() if pool is None or pool.closed else pool

    async def _open(self) -> AsyncConnectionPool[Any]:
        while not self.retired:
            pool = self._unopened()
            try:
                await async_heeded(pool.open, _kept)
            except PoolClosed:
                continue
            except Exception:
                if self.current is pool:
                    self.current = None
                await async_uninterrupted(_closed, pool)
                raise
            # Looked at again: a close() that came meanwhile has found nothing open to close.
            if not self.retired:
                return pool
            await pool.close()
        raise Retired

    def _unopened(self) -> AsyncConnectionPool[Any]:
        """The pool that callers open together. psycopg_pool opens none again that was closed."""
        with self._making:
            if self.current is None or (was_opened(self.current) and self.current.closed):
                self.current = self._make()
            return self.current

    def _make(self) -> AsyncConnectionPool[Any]:
        settings = self.settings
        return AsyncLosslessPool(
            connection_class=cast(Any, self._connector),
            kwargs={"in_worker": True},
            min_size=sizes(settings)[0],
            max_size=sizes(settings)[1],
            name=self.name,
            open=False,
            max_lifetime=settings.max_lifetime,
            max_idle=settings.max_idle,
            # A connection that cannot be made is tried again by the next caller, not by psycopg_pool's back-off,
            # which has no cap.
            reconnect_timeout=0,
            num_workers=1,
        )

    async def recount(self, pool: AsyncConnectionPool[Any], before: int | None) -> int | None:
        """How many connections the pool has, or None while it makes one; it is told when it was as many `before`.

        An interrupt in the midst of the pool's own doings makes it count one that is not there, or is not being made.
        """
        if self._connector.connecting or is_making(pool):
            return None
        counted = idle_count(pool) + sum(pool_of(conn) is pool for conn in self._connector.made())
        if counted == before and counted < believed_count(pool):
            async with lock_of(pool):
                correct_count(pool, counted)
        elif counted == before and counted >= pool.max_size:
            # There are as many places as connections, and one who asks here has a place: something that is garbage
            # refers to a connection, and has not been collected.
            gc.collect()
        return counted

    async def drain(self) -> None:
        """Replace every connection, those in use when they are given back: what they have prepared is out of date."""
        pool = self.current
        if pool is not None and not pool.closed:
            await async_uninterrupted(AsyncConnectionPool.drain, pool)

    def discard(self) -> None:
        """Close the idle connections in the background, and those in use when they are given back."""
        self._connector.give_up()
        with self._making:
            pool, self.current = self.current, None
        if pool is not None:
            # When no thread is to be had the pool is closed as it is collected.
            with suppress(RuntimeError):
                async_spawn(partial(_closed, pool), f"shardpool-close-{self.name}")

    async def resize(self) -> None:
        """Give the open pool the size that the settings have now."""
        settings = self.settings
        pool = self.current
        if pool is not None and not pool.closed and (pool.min_size, pool.max_size) != sizes(settings):
            await pool.resize(*sizes(settings))

    async def close(self, timeout: float) -> None:
        """Close the idle connections now, those in use when they are given back. Waits at most `timeout` seconds."""
        self.retired = True
        self._connector.give_up()
        if self.current is not None:
            await self.current.close(timeout=timeout)

    def start_afresh(self) -> AsyncConnectionPool[Any] | None:
        """For a forked child: forget the parent's pool; the caller gets it, and must keep it from being closed."""
        old, self.current = self.current, None
        self._making = threading.Lock()
        return old

    def stats(self) -> dict[str, Any]:
        """psycopg_pool's counters; absent ones are 0."""
        return self.current.get_stats() if self.current is not None else {}


async def _kept(_: None) -> None:
    """A pool that has been opened for one who is gone by now is there for the next."""


async def _closed(pool: AsyncConnectionPool[Any]) -> None:
    await pool.close(timeout=5)


async def put_back(conn: AsyncConnection[Any]) -> None:
    """Give back what a caller has held; the pool replaces what is broken, and a closed one closes it."""
    pool: Any = pool_of(conn)
    try:
        await pool.putconn(conn)
    except BaseException:
        # Interrupted: the pool still counts a connection that nobody holds. It takes a closed one
        # without waiting for anything, and so without being interrupted again.
        if pool_of(conn) is not None:
            await conn.close()
            await pool.putconn(conn)
        raise


async def replaced(conn: AsyncConnection[Any]) -> None:
    """Have its pool make another in the place of one that has gone."""
    await conn.close()
    await cast("AsyncConnectionPool[Any]", pool_of(conn)).putconn(conn)


def sizes(settings: PoolSettings) -> tuple[int, int]:
    """The least and the greatest number of connections."""
    return min(settings.min_size, settings.max_size), settings.max_size
