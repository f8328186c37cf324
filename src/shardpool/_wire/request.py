"""One statement on one connection of a scatter, as a step that a driver runs side by side with others.

All requests are sent before any is read, by one thread: on four local servers that costs a quarter of what four threads
cost. libpq is spoken to directly (https://www.postgresql.org/docs/current/libpq-async.html), outside a transaction.
A statement that a connection has run several times is prepared on it, by the connection's own `prepare_threshold`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from functools import partial
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import DiagnosticField, ExecStatus, TransactionStatus

from .._endpoint.session import note
from .._runtime.drivers import OVERDUE, READ, WRITE, Step
from .._runtime.intake import look
from ..errors import ResultTooLarge
from .statement import Statement, prepared_of

_COPY = (ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH)
BEGIN_READ_ONLY = "begin read only"
LEFT_OPEN = "the statement left a transaction open, which was rolled back"
# Both say that the prepared statement is no good and that nothing was run: 0A000 comes after DDL changed its columns.
_STALE_STATEMENT = (b"0A000", b"26000")


class Request:
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
        except TimeOver:
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
        """Send one thing and read to the end of its answer; `pgresult` is then the last result that came."""
        send()
        yield from self._flushed()
        self.pgresult = None
        self.pgresult = yield from self._answer()

    def _flushed(self) -> Step:
        while self.pgconn.flush():
            ready = yield READ | WRITE
            if ready == OVERDUE:
                raise TimeOver
            if ready & READ:
                self.pgconn.consume_input()

    def _answer(self) -> Generator[int, int, Any]:
        """The last result of one answer, read to its end; an error stands, whatever follows it."""
        pgconn, last, reads = self.pgconn, None, 0
        while True:
            while pgconn.is_busy():
                if (yield READ) == OVERDUE:
                    raise TimeOver
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


class Repetition(Request):
    """A request that is made once more, in a transaction that may only read and is left open."""

    def _run(self) -> Step:
        yield from self._ask(partial(self.pgconn.send_query, BEGIN_READ_ONLY.encode()))
        self._raise_error()
        yield from self._run_statement()


class TimeOver(Exception):
    """The driver said that the time is over."""


def ends_session(error: psycopg.Error) -> bool:
    """Whether it is the last word of a server, which then closes the connection: that may come a moment later."""
    return (error.sqlstate or "").startswith("57P")
