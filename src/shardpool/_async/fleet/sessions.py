"""Brings a connection back to what its next caller may find: see `_session`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg
from psycopg import AsyncConnection, AsyncCursor
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

Configure = Callable[[AsyncConnection[Any]], Awaitable[None]]


async def begin(conn: AsyncConnection[Any], reset: Reset, configure: Configure | None, settings: str) -> None:
    """Watch a new connection, and let the user configure it; `settings` are those that it was given by its server."""
    session = ConnectionState(conn, reset, settings)
    setattr(conn, SESSION, session)
    await _configured(conn, session, configure)
    if configure is not None:
        session.settings = await _settings(conn)
        session.settle(conn)


async def _settings(conn: AsyncConnection[Any]) -> str:
    autocommit = conn.autocommit
    await conn.set_autocommit(True)
    cursor = AsyncCursor(conn)
    await cursor.execute(f"select {SETTINGS}", prepare=False)
    await conn.set_autocommit(autocommit)
    return settings_in(cursor, 0)


def settings_in(cursor: AsyncCursor[Any], column: int) -> str:
    """The text of `SETTINGS` in the one row of an answer, whatever the loaders of the connection make of texts."""
    assert cursor.pgresult is not None
    return (cursor.pgresult.get_value(0, column) or b"").decode(cursor.connection.info.encoding)


async def work_by(conn: AsyncConnection[Any], epoch: int) -> None:
    """Tell the server, in one round trip, by which epoch the session works from now on; outside of a transaction."""
    session: ConnectionState = conn.__dict__[SESSION]
    assert session.epoch is not None
    autocommit = conn.autocommit
    await conn.set_autocommit(True)
    # At once, and not with a parameter: what is prepared by psycopg is the caller's.
    await AsyncCursor(conn).execute(guards.REDECLARE % (epoch, session.epoch), prepare=False)
    await conn.set_autocommit(autocommit)
    session.epoch = epoch


async def answer(conn: AsyncConnection[Any], query: str) -> Any:
    """The row by which a session that is nobody's just now answers a query; outside of a transaction."""
    autocommit = conn.autocommit
    await conn.set_autocommit(True)
    cursor = AsyncCursor(conn, row_factory=tuple_row)
    await cursor.execute(query, prepare=False)
    row = await cursor.fetchone()
    await conn.set_autocommit(autocommit)
    return row


async def guard(conn: AsyncConnection[Any], moves: Sequence[int], *, at_once: bool) -> None:
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
    await conn.set_autocommit(True)
    for move in moves:
        await AsyncCursor(conn).execute(call % move, prepare=False)


async def _release(conn: AsyncConnection[Any], session: ConnectionState) -> None:
    autocommit = conn.autocommit
    await conn.set_autocommit(True)
    for move in session.guards:
        await AsyncCursor(conn).execute(guards.RELEASE_GUARD % move, prepare=False)
    await conn.set_autocommit(autocommit)
    session.guards = ()
    session.marks &= ~GUARDED


async def clean(conn: AsyncConnection[Any], configure: Configure | None, autocommit: bool) -> None:
    """Undo what the last caller has left, in one round trip if on the server; outside a transaction.

    What cannot be undone, or fails, ends with a closed connection or a `psycopg.Error`.
    """
    session: ConnectionState = conn.__dict__[SESSION]
    if session.guards:
        await _release(conn, session)
    marks = session.marks
    if is_past_reset(conn, marks):
        await conn.close()
        return
    reset = bool(marks & (STATE | BEGUN))
    wanted = session.pristine if reset else session.baseline
    await _restore(conn, wanted)
    if not reset:
        session.settle(conn)
        return
    if marks & FORGETS:
        forget_prepared(conn)
    await conn.set_autocommit(True)
    await AsyncCursor(conn).execute(RESET + (guards.DECLARE % session.epoch if session.epoch else ""), prepare=False)
    forget_notifies(conn)
    await conn.set_autocommit(autocommit)
    await _configured(conn, session, configure)


async def _configured(conn: AsyncConnection[Any], session: ConnectionState, configure: Configure | None) -> None:
    if configure is not None:
        await configure(conn)
        session.baseline = ClientState(conn)
        if is_raw(conn.cursor_factory):
            raise psycopg.ProgrammingError(f"configure(): {RAW}. {RAW_HINT}")
        if conn.pgconn.transaction_status not in (TransactionStatus.IDLE, TransactionStatus.UNKNOWN):
            raise psycopg.ProgrammingError("configure() has left a transaction open: end it with commit()")
    session.settle(conn)


async def _restore(conn: AsyncConnection[Any], wanted: ClientState) -> None:
    if wanted.transaction_differs(conn):
        isolation_level, read_only, deferrable = wanted.transaction
        await conn.set_isolation_level(isolation_level)
        await conn.set_read_only(read_only)
        await conn.set_deferrable(deferrable)
    wanted.restore(conn)
