# Generated from _async/session.py by tools/unasync.py: edit that one, then run `make sync`.
"""Brings a connection back to what its next caller may find: see `_session`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg
from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus

from .._leg import forget_prepared
from .._session import BEGUN, RAW, RAW_HINT, RESET, SESSION, STATE, ClientState, Session, is_past_reset, is_raw
from .._session_sql import FORGETS
from ..settings import TOLD
from ..topology import Reset

Configure = Callable[[Connection[Any]], None]


def begin(conn: Connection[Any], reset: Reset, configure: Configure | None, settings: str) -> None:
    """Watch a new connection, and let the user configure it; `settings` are those that it was given by its server."""
    session = Session(conn, reset, settings)
    setattr(conn, SESSION, session)
    _configured(conn, session, configure)
    if configure is not None:
        session.settings = _settings(conn)
        session.settle(conn)


def _settings(conn: Connection[Any]) -> str:
    autocommit = conn.autocommit
    conn.set_autocommit(True)
    cursor = Cursor(conn)
    cursor.execute(f"select {TOLD}", prepare=False)
    conn.set_autocommit(autocommit)
    return told_in(cursor, 0)


def told_in(cursor: Cursor[Any], column: int) -> str:
    """The text of `TOLD` in the one row of an answer, whatever the loaders of the connection make of texts."""
    assert cursor.pgresult is not None
    return (cursor.pgresult.get_value(0, column) or b"").decode(cursor.connection.info.encoding)


def clean(conn: Connection[Any], configure: Configure | None, autocommit: bool) -> None:
    """Undo what the last caller has left, in one round trip if on the server; outside a transaction.

    What cannot be undone, or fails, ends with a closed connection or a `psycopg.Error`.
    """
    session: Session = conn.__dict__[SESSION]
    marks = session.marks
    if is_past_reset(conn, marks):
        conn.close()
        return
    reset = bool(marks & (STATE | BEGUN))
    wanted = session.pristine if reset else session.baseline
    _restore(conn, wanted)
    if not reset:
        session.settle(conn)
        return
    if marks & FORGETS:
        forget_prepared(conn)
    conn.set_autocommit(True)
    Cursor(conn).execute(RESET, prepare=False)
    if conn._notifies_backlog:
        conn._notifies_backlog.clear()
    conn.set_autocommit(autocommit)
    _configured(conn, session, configure)


def _configured(conn: Connection[Any], session: Session, configure: Configure | None) -> None:
    if configure is not None:
        configure(conn)
        session.baseline = ClientState(conn)
        if is_raw(conn.cursor_factory):
            raise psycopg.ProgrammingError(f"configure(): {RAW}. {RAW_HINT}")
        if conn.pgconn.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
            raise psycopg.ProgrammingError("configure() has left a transaction open: end it with commit()")
    session.settle(conn)


def _restore(conn: Connection[Any], wanted: ClientState) -> None:
    if wanted.transaction_differs(conn):
        isolation_level, read_only, deferrable = wanted.transaction
        conn.set_isolation_level(isolation_level)
        conn.set_read_only(read_only)
        conn.set_deferrable(deferrable)
    wanted.restore(conn)
