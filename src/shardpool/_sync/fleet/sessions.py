# Generated from _async/fleet/sessions.py by tools/unasync.py: edit that one, then run `make sync`.
"""Brings a connection back to what its next caller may find: see `_session`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg import Connection, Cursor
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from ..._endpoint.session import (
    BEGUN,
    GUARDED,
    RAW,
    RAW_HINT,
    RESET,
    SESSION,
    STATE,
    ClientState,
    ConnectionState,
    forget_notifies,
    is_past_reset,
    is_raw,
)
from ..._endpoint.session_sql import FORGETS
from ..._wire.statement import forget_prepared
from ...control import guard as guards
from ...control.settings import SETTINGS
from ...topology import Reset

Configure = Callable[[Connection[Any]], None]


def begin(conn: Connection[Any], reset: Reset, configure: Configure | None, settings: str) -> None:
    """Watch a new connection, and let the user configure it; `settings` are those that it was given by its server."""
    session = ConnectionState(conn, reset, settings)
    setattr(conn, SESSION, session)
    _configured(conn, session, configure)
    if configure is not None:
        session.settings = _settings(conn)
        session.settle(conn)


def _settings(conn: Connection[Any]) -> str:
    autocommit = conn.autocommit
    conn.set_autocommit(True)
    cursor = Cursor(conn)
    cursor.execute(f"select {SETTINGS}", prepare=False)
    conn.set_autocommit(autocommit)
    return settings_in(cursor, 0)


def settings_in(cursor: Cursor[Any], column: int) -> str:
    """The text of `SETTINGS` in the one row of an answer, whatever the loaders of the connection make of texts."""
    assert cursor.pgresult is not None
    return (cursor.pgresult.get_value(0, column) or b"").decode(cursor.connection.info.encoding)


def work_by(conn: Connection[Any], epoch: int) -> None:
    """Tell the server, in one round trip, by which epoch the session works from now on; outside of a transaction."""
    session: ConnectionState = conn.__dict__[SESSION]
    assert session.epoch is not None
    autocommit = conn.autocommit
    conn.set_autocommit(True)
    # At once, and not with a parameter: what is prepared by psycopg is the caller's.
    Cursor(conn).execute(guards.REDECLARE % (epoch, session.epoch), prepare=False)
    conn.set_autocommit(autocommit)
    session.epoch = epoch


def answer(conn: Connection[Any], query: str) -> Any:
    """The row by which a session that is nobody's just now answers a query; outside of a transaction."""
    autocommit = conn.autocommit
    conn.set_autocommit(True)
    cursor = Cursor(conn, row_factory=tuple_row)
    cursor.execute(query, prepare=False)
    row = cursor.fetchone()
    conn.set_autocommit(autocommit)
    return row


def guard(conn: Connection[Any], moves: Sequence[int], *, at_once: bool) -> None:
    """Ask the server whether it owns what the moves move; it owns that until the connection is given back.

    With `at_once` only for now, which is enough for one SELECT. Raises psycopg's error with `GIVEN_AWAY` where it does
    not, with the owner and the epoch of its token as detail.
    """
    session: ConnectionState = conn.__dict__[SESSION]
    if not at_once:
        # Before it is asked: it may have said yes to one who is interrupted then.
        session.guards = (*session.guards, *moves)
        session.marks |= GUARDED
    call = guards.GUARD_READ if at_once else guards.GUARD_SESSION
    conn.set_autocommit(True)
    for move in moves:
        Cursor(conn).execute(call % move, prepare=False)


def _release(conn: Connection[Any], session: ConnectionState) -> None:
    autocommit = conn.autocommit
    conn.set_autocommit(True)
    for move in session.guards:
        Cursor(conn).execute(guards.RELEASE_GUARD % move, prepare=False)
    conn.set_autocommit(autocommit)
    session.guards = ()
    session.marks &= ~GUARDED


def clean(conn: Connection[Any], configure: Configure | None, autocommit: bool) -> None:
    """Undo what the last caller has left, in one round trip if on the server; outside a transaction.

    What cannot be undone, or fails, ends with a closed connection or a `psycopg.Error`.
    """
    session: ConnectionState = conn.__dict__[SESSION]
    if session.guards:
        _release(conn, session)
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
    Cursor(conn).execute(RESET + (guards.DECLARE % session.epoch if session.epoch else ""), prepare=False)
    forget_notifies(conn)
    conn.set_autocommit(autocommit)
    _configured(conn, session, configure)


def _configured(conn: Connection[Any], session: ConnectionState, configure: Configure | None) -> None:
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
