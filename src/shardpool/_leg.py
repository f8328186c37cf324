"""One statement on one connection of a scatter, as a step that a driver runs side by side with others.

All legs are sent before any is read, by one thread: on four local servers that costs a quarter of what four threads
cost. libpq is spoken to directly (https://www.postgresql.org/docs/current/libpq-async.html), outside a transaction.
A statement that a connection has run several times is prepared on it, by the connection's own `prepare_threshold`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus

from ._concurrency import OVERDUE, READ, WRITE, Step
from ._intake import look
from ._session import note
from .errors import ResultTooLarge

_COPY = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)
_PREPARED_MAX = 100
BEGIN_READ_ONLY = "begin read only"
LEFT_OPEN = "the statement left a transaction open, which was rolled back"
# Both say that the prepared statement is no good and that nothing was run: 0A000 comes after DDL changed its columns.
_STALE_STATEMENT = (b"0A000", b"26000")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement ready to be sent: text with `$n`, and what PQsendQueryParams takes beside it."""

    text: bytes
    values: Sequence[Any] | None
    types: Sequence[int] = ()
    formats: Sequence[Any] = ()
    result_format: int = 0

    @property
    def identity(self) -> tuple[bytes, tuple[int, ...]]:
        return self.text, tuple(self.types)


class Prepared:
    """The statements prepared on one connection by scatters, and how often the others were run."""

    __slots__ = ("_counts", "_names", "_next")

    def __init__(self) -> None:
        self._counts: dict[tuple[bytes, tuple[int, ...]], int] = {}
        self._names: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._next = 0

    def name(self, statement: Statement) -> bytes | None:
        return self._names.get(statement.identity)

    def is_due(self, statement: Statement, threshold: int | None) -> bool:
        """Count one more run; True when it is time to prepare. Full at `_PREPARED_MAX`: later ones run unprepared."""
        if threshold is None or len(self._names) >= _PREPARED_MAX:
            return False
        count = self._counts.get(statement.identity, 0)
        if len(self._counts) > 10 * _PREPARED_MAX:
            self._counts.clear()
        self._counts[statement.identity] = count + 1
        return count >= threshold

    def add(self, statement: Statement, name: bytes) -> None:
        self._counts.pop(statement.identity, None)
        self._names[statement.identity] = name

    def forget(self, statement: Statement) -> None:
        self._names.pop(statement.identity, None)

    def clear(self) -> None:
        """No name is given again: the server may still have it."""
        self._counts.clear()
        self._names.clear()

    def new_name(self) -> bytes:
        self._next += 1
        return b"_shardpool_%d" % self._next


class Leg:
    """One connection's part of a scatter: after its step has ended it has a `pgresult` or an `error`.

    `reusable` is False when the connection was left in the middle of an answer: it has to be closed.
    """

    def __init__(self, shard: str, conn: Any, statement: Statement, overdue: Callable[[], BaseException]) -> None:
        self.shard = shard
        self.conn = conn
        self.pgconn = conn.pgconn
        self.statement = statement
        self.pgresult: Any = None
        self.error: BaseException | None = None
        self.reusable = False
        self._overdue = overdue

    def step(self) -> Step:
        """Send the statement and read its whole answer."""
        try:
            yield from self._run()
            self.reusable = True
        except _Overdue:
            self.error = self._overdue()
        except ResultTooLarge as error:
            self.error = error
        except psycopg.Error as error:
            self.error = error
            # The server answered to the end; an error without SQLSTATE is one of the connection.
            self.reusable = (
                error.sqlstate is not None
                and not ends_session(error)
                and self.pgconn.transaction_status != TransactionStatus.ACTIVE
            )

    def _run(self) -> Step:
        yield from self._run_statement()
        if self.pgconn.transaction_status == TransactionStatus.INTRANS:
            yield from self._roll_back()

    def _run_statement(self) -> Step:
        prepared = prepared_of(self.conn)
        statement = self.statement
        note(self.conn, statement.text)
        if statement.values is None:
            yield from self._ask(partial(self.pgconn.send_query, statement.text))
        elif (known := prepared.name(statement)) is not None:
            yield from self._ask(partial(self._send_prepared, known))
            if self._is_stale():
                prepared.forget(statement)
                yield from self._ask(self._send_unprepared)
        elif prepared.is_due(statement, self.conn.prepare_threshold):
            name = prepared.new_name()
            yield from self._ask(partial(self.pgconn.send_prepare, name, statement.text, statement.types))
            self._raise_error()
            prepared.add(statement, name)
            yield from self._ask(partial(self._send_prepared, name))
        else:
            yield from self._ask(self._send_unprepared)
        self._raise_error()

    def _roll_back(self) -> Step:
        """Refuse what would be lost unseen when the connection goes back. It is not broken, so nothing is raised."""
        yield from self._ask(partial(self.pgconn.send_query, b"rollback"))
        self._raise_error()
        self.error = psycopg.ProgrammingError(f"{LEFT_OPEN}; use transaction() for what is to be one transaction")

    def _send_prepared(self, name: bytes) -> None:
        statement = self.statement
        self.pgconn.send_query_prepared(
            name, statement.values, param_formats=statement.formats, result_format=statement.result_format
        )

    def _send_unprepared(self) -> None:
        statement = self.statement
        self.pgconn.send_query_params(
            statement.text,
            statement.values,
            param_types=statement.types,
            param_formats=statement.formats,
            result_format=statement.result_format,
        )

    def _ask(self, send: Callable[[], None]) -> Step:
        """Send one request and read to the end of its answer; `pgresult` is then the last result that came."""
        send()
        yield from self._flushed()
        self.pgresult = None
        self.pgresult = yield from self._answer()

    def _flushed(self) -> Step:
        while self.pgconn.flush():
            ready = yield READ | WRITE
            if ready == OVERDUE:
                raise _Overdue
            if ready & READ:
                self.pgconn.consume_input()

    def _answer(self) -> Generator[int, int, Any]:
        """The last result of one answer, read to its end; an error stands, whatever follows it."""
        pgconn, last, reads = self.pgconn, None, 0
        while True:
            while pgconn.is_busy():
                if (yield READ) == OVERDUE:
                    raise _Overdue
                pgconn.consume_input()
                reads += 1
                look(self.conn, reads)
            pgresult = pgconn.get_result()
            if pgresult is None:
                return last
            if last is None or last.status != ExecStatus.FATAL_ERROR:
                last = pgresult
            if pgresult.status in _COPY:
                raise psycopg.NotSupportedError("COPY cannot be scattered: use copy_into(), or copy() on a connection")
            if pgresult.status == ExecStatus.PIPELINE_SYNC:
                return last

    def _is_stale(self) -> bool:
        return (
            self.pgresult is not None
            and self.pgresult.status == ExecStatus.FATAL_ERROR
            and self.pgresult.error_field(DiagnosticField.SQLSTATE) in _STALE_STATEMENT
        )

    def _raise_error(self) -> None:
        if self.pgresult is None:
            raise psycopg.OperationalError("the server closed the connection before it answered")
        if self.pgresult.status == ExecStatus.FATAL_ERROR:
            raise errors.error_from_result(self.pgresult, encoding=self.conn.info.encoding)


class Repetition(Leg):
    """A leg that is made once more, in a transaction that may only read and is left open."""

    def _run(self) -> Step:
        yield from self._ask(partial(self.pgconn.send_query, BEGIN_READ_ONLY.encode()))
        self._raise_error()
        yield from self._run_statement()


class _Overdue(Exception):
    """The driver said that the time is over."""


def ends_session(error: psycopg.Error) -> bool:
    """Whether it is the last word of a server, which then closes the connection: that may come a moment later."""
    return (error.sqlstate or "").startswith("57P")


def forget_prepared(conn: Any) -> None:
    """For a server that may have thrown away some of what was prepared by the protocol."""
    conn._prepared.clear()
    prepared_of(conn).clear()


def prepared_of(conn: Any) -> Prepared:
    """The connection's own record of statements that scatters prepared on it."""
    try:
        found: Prepared = conn._shardpool_prepared
    except AttributeError:
        found = conn._shardpool_prepared = Prepared()
    return found
