# Generated from _async/fleet/epochs.py by tools/unasync.py: edit that one, then run `make sync`.
"""By which epoch the idle sessions of an endpoint work, and what is asked of them meanwhile."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import psycopg
from psycopg import Connection

from ..._endpoint.session import SESSION, ConnectionState
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.interrupts import uninterrupted
from ...topology import Topology
from . import sessions
from .connector import Connector
from .health import EndpointHealth
from .inner_pool import InnerPool, put_back, replaced

# What an idle session may take to be told its epoch.
_SECONDS = 1.0


class Epochs:
    """Each session has told its server by which epoch it works; one that is behind is told that of this moment."""

    def __init__(self, connector: Connector, inner: InnerPool, health: EndpointHealth) -> None:
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

    def catch_up(self) -> None:
        """Have idle sessions work by the epoch of this moment."""
        for _ in range(self._inner.idle_count):
            conn = self._inner.take_idle()
            if conn is None:
                break
            try:
                if self.is_behind(conn):
                    self._tell(conn, deadline_after(_SECONDS))
            finally:
                uninterrupted(put_back, conn)

    def answer(self, query: str, seconds: float) -> Any:
        """The row by which a session that lies idle answers; None where there is none, or it fails, and is closed."""
        conn = self._inner.take_idle()
        if conn is None:
            return None
        row = None
        watch = self._health.watchdog.watch(conn, deadline_after(seconds), self._health)
        try:
            with suppress(psycopg.Error):
                row = sessions.answer(conn, query)
        finally:
            if not self._health.watchdog.release(watch) or row is None:
                conn.close()
            uninterrupted(put_back, conn)
        return row

    def bring_up(self, conn: Connection[Any], deadline: Deadline) -> None:
        """Have the session of a connection that was taken work by the epoch of this moment; it is closed if it cannot.

        When that is interrupted, the pool gets it back, closed.
        """
        try:
            self._tell(conn, deadline)
        except BaseException:
            uninterrupted(replaced, conn)
            raise

    def _tell(self, conn: Connection[Any], deadline: Deadline) -> None:
        epoch = self._connector.epoch
        assert epoch is not None
        watch = self._health.watchdog.watch(conn, deadline, self._health)
        try:
            with suppress(psycopg.Error):
                sessions.work_by(conn, epoch)
        finally:
            if not self._health.watchdog.release(watch) or conn.__dict__[SESSION].epoch != epoch:
                conn.close()
