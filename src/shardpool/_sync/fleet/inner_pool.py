# Generated from _async/fleet/inner_pool.py by tools/unasync.py: edit that one, then run `make sync`.
"""The pool of psycopg_pool behind an endpoint's own: made at its first use, and anew when it was closed under us."""

from __future__ import annotations

import gc
import threading
from contextlib import suppress
from functools import partial
from typing import Any, cast

from psycopg import Connection
from psycopg_pool import ConnectionPool, PoolClosed

from ..._endpoint.idle import (
    believed_count,
    correct_count,
    idle_count,
    is_making,
    lock_of,
    pool_of,
    take_idle,
    was_opened,
)
from ..._endpoint.refusals import Retired
from ..._runtime.interrupts import heeded, uninterrupted
from ..._runtime.tasks import spawn
from ...topology import PoolSettings
from .connector import Connector
from .lossless_pool import LosslessPool


class InnerPool:
    """`current` is the pool of just now, or None; `retired` is set when it closes, and nothing is opened after that."""

    def __init__(self, name: str, settings: PoolSettings, connector: Connector) -> None:
        self.name = name
        self.settings = settings
        self.retired = False
        self.current: ConnectionPool[Any] | None = None
        self._connector = connector
        self._making = threading.Lock()

    def take_idle(self) -> Any:
        """An idle connection, in whatever state it is; None when there is none."""
        pool = self.current
        return None if pool is None else take_idle(pool)

    @property
    def idle_count(self) -> int:
        pool = self.current
        return 0 if pool is None else idle_count(pool)

    def opened(self) -> ConnectionPool[Any]:
        """The open pool, made anew when there is none, or when it was closed under us; `Retired` after `close`."""
        pool = self.current
        return self._open() if pool is None or pool.closed else pool

    def _open(self) -> ConnectionPool[Any]:
        while not self.retired:
            pool = self._unopened()
            try:
                heeded(pool.open, _kept)
            except PoolClosed:
                continue
            except Exception:
                if self.current is pool:
                    self.current = None
                uninterrupted(_closed, pool)
                raise
            # Looked at again: a close() that came meanwhile has found nothing open to close.
            if not self.retired:
                return pool
            pool.close()
        raise Retired

    def _unopened(self) -> ConnectionPool[Any]:
        """The pool that callers open together. psycopg_pool opens none again that was closed."""
        with self._making:
            if self.current is None or (was_opened(self.current) and self.current.closed):
                self.current = self._make()
            return self.current

    def _make(self) -> ConnectionPool[Any]:
        settings = self.settings
        return LosslessPool(
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

    def recount(self, pool: ConnectionPool[Any], before: int | None) -> int | None:
        """How many connections the pool has, or None while it makes one; it is told when it was as many `before`.

        An interrupt in the midst of the pool's own doings makes it count one that is not there, or is not being made.
        """
        if self._connector.connecting or is_making(pool):
            return None
        counted = idle_count(pool) + sum(pool_of(conn) is pool for conn in self._connector.made())
        if counted == before and counted < believed_count(pool):
            with lock_of(pool):
                correct_count(pool, counted)
        elif counted == before and counted >= pool.max_size:
            # There are as many places as connections, and one who asks here has a place: something that is garbage
            # refers to a connection, and has not been collected.
            gc.collect()
        return counted

    def drain(self) -> None:
        """Replace every connection, those in use when they are given back: what they have prepared is out of date."""
        pool = self.current
        if pool is not None and not pool.closed:
            uninterrupted(ConnectionPool.drain, pool)

    def discard(self) -> None:
        """Close the idle connections in the background, and those in use when they are given back."""
        self._connector.give_up()
        with self._making:
            pool, self.current = self.current, None
        if pool is not None:
            # When no thread is to be had the pool is closed as it is collected.
            with suppress(RuntimeError):
                spawn(partial(_closed, pool), f"shardpool-close-{self.name}")

    def resize(self) -> None:
        """Give the open pool the size that the settings have now."""
        settings = self.settings
        pool = self.current
        if pool is not None and not pool.closed and (pool.min_size, pool.max_size) != sizes(settings):
            pool.resize(*sizes(settings))

    def close(self, timeout: float) -> None:
        """Close the idle connections now, those in use when they are given back. Waits at most `timeout` seconds."""
        self.retired = True
        self._connector.give_up()
        if self.current is not None:
            self.current.close(timeout=timeout)

    def start_afresh(self) -> ConnectionPool[Any] | None:
        """For a forked child: forget the parent's pool; the caller gets it, and must keep it from being closed."""
        old, self.current = self.current, None
        self._making = threading.Lock()
        return old

    def stats(self) -> dict[str, Any]:
        """psycopg_pool's counters; absent ones are 0."""
        return self.current.get_stats() if self.current is not None else {}


def _kept(_: None) -> None:
    """A pool that has been opened for one who is gone by now is there for the next."""


def _closed(pool: ConnectionPool[Any]) -> None:
    pool.close(timeout=5)


def put_back(conn: Connection[Any]) -> None:
    """Give back what a caller has held; the pool replaces what is broken, and a closed one closes it."""
    pool: Any = pool_of(conn)
    try:
        pool.putconn(conn)
    except BaseException:
        # Interrupted: the pool still counts a connection that nobody holds. It takes a closed one
        # without waiting for anything, and so without being interrupted again.
        if pool_of(conn) is not None:
            conn.close()
            pool.putconn(conn)
        raise


def replaced(conn: Connection[Any]) -> None:
    """Have its pool make another in the place of one that has gone."""
    conn.close()
    cast("ConnectionPool[Any]", pool_of(conn)).putconn(conn)


def sizes(settings: PoolSettings) -> tuple[int, int]:
    """The least and the greatest number of connections."""
    return min(settings.min_size, settings.max_size), settings.max_size
