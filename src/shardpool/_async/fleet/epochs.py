"""By which epoch the idle sessions of an endpoint work, and what is asked of them meanwhile."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg import AsyncConnection

from ..._endpoint.session import SESSION, ConnectionState
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.interrupts import async_uninterrupted
from ...topology import Topology
from . import sessions
from .connector import AsyncConnector
from .health import AsyncEndpointHealth
from .inner_pool import AsyncInnerPool, put_back, replaced

# What an idle session may take to be told its epoch.
_SECONDS = 1.0


class AsyncEpochs:
    """Each session has told its server by which epoch it works; one that is behind is told that of this moment."""

    def __init__(self, connector: AsyncConnector, inner: AsyncInnerPool, health: AsyncEndpointHealth) -> None:
        self._connector = connector
        self._inner = inner
        self._health = health

    def work_by(self, topology: Topology) -> None:
        """Whoever takes a connection from here on was routed by that topology, and its session is to say so."""
        self._connector.work_by(topology)

    def is_behind(self, conn: Any) -> bool:
        """Whether its session has told the server an older epoch than that of this moment."""
        session: ConnectionState | None = conn.__dict__.get(SESSION)
        epoch = self._connector.epoch
        return epoch is not None and session is not None and session.epoch is not None and session.epoch < epoch

    def any_behind(self) -> bool:
        """Whether there is a session that works by an older epoch than that of this moment."""
        return any(self.is_behind(conn) for conn in self._connector.made() if not conn.closed)

    async def catch_up(self) -> None:
        """Have idle sessions work by the epoch of this moment."""
        for _ in range(self._inner.idle_count):
            conn = self._inner.take_idle()
            if conn is None:
                break
            try:
                if self.is_behind(conn):
                    await self._tell(conn, deadline_after(_SECONDS))
            finally:
                await async_uninterrupted(put_back, conn)

    async def answer(self, query: str, seconds: float) -> Any:
        """The row by which a session that lies idle answers; None where there is none, or it fails, and is closed."""
        conn = self._inner.take_idle()
        if conn is None:
            return None
        row = None
        watch = self._health.watchdog.watch(conn, deadline_after(seconds), self._health)
        try:
            with suppress(psycopg.Error):
                row = await sessions.answer(conn, query)
        finally:
            if not self._health.watchdog.release(watch) or row is None:
                await conn.close()
            await async_uninterrupted(put_back, conn)
        return row

    async def bring_up(self, conn: AsyncConnection[Any], deadline: Deadline) -> None:
        """Have the session of a connection that was taken work by the epoch of this moment; it is closed if it cannot.

        When that is interrupted, the pool gets it back, closed.
        """
        try:
            await self._tell(conn, deadline)
        except BaseException:
            await async_uninterrupted(replaced, conn)
            raise

    async def _tell(self, conn: AsyncConnection[Any], deadline: Deadline) -> None:
        epoch = self._connector.epoch
        assert epoch is not None
        watch = self._health.watchdog.watch(conn, deadline, self._health)
        try:
            with suppress(psycopg.Error):
                await sessions.work_by(conn, epoch)
        finally:
            if not self._health.watchdog.release(watch) or conn.__dict__[SESSION].epoch != epoch:
                await conn.close()
