"""Flows of rows between servers: libpq on several sockets at a time, in one thread or one task.

See https://www.postgresql.org/docs/current/libpq-async.html and …/libpq-copy.html. A flow is a generator for
`_runtime.drivers.drive_flow`; it leaves no connection in the middle of an answer unless it raises.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.pq import ExecStatus, PollingStatus

from .._endpoint.session import note
from .._runtime.drivers import READ, WRITE
from .._runtime.intake import look
from .request import ends_session
from .statement import Statement

T = TypeVar("T")
Flow = Generator[dict[int, int], dict[int, int], T]

# libpq since version 17 gives rows in chunks; before, one by one.
_CHUNKS_SINCE = 170000
# Eight cost a tenth more to decode than a thousand do, and of rows of 10 MB no more than fit into memory.
_CHUNK_ROWS = 8


def ask(conn: Any, send: Callable[[], None]) -> Flow[Any]:
    """Send one request and give the last result of its answer; raises what the server says is wrong."""
    pgconn = conn.pgconn
    send()
    while pgconn.flush():
        ready = yield {pgconn.socket: READ | WRITE}
        if ready.get(pgconn.socket, 0) & READ:
            pgconn.consume_input()
    last: Any = None
    reads = 0
    while True:
        while pgconn.is_busy():
            yield {pgconn.socket: READ}
            pgconn.consume_input()
            reads += 1
            look(conn, reads)
        pgresult = pgconn.get_result()
        if pgresult is None:
            break
        if last is None or last.status != ExecStatus.FATAL_ERROR:
            last = pgresult
        if pgresult.status in (ExecStatus.COPY_IN, ExecStatus.COPY_OUT):
            break
    return checked(conn, last)


def checked(conn: Any, pgresult: Any) -> Any:
    """The result, unless it is an error, which is raised."""
    if pgresult is None:
        raise psycopg.OperationalError("the server closed the connection before it answered")
    if pgresult.status == ExecStatus.FATAL_ERROR:
        error = errors.error_from_result(pgresult, encoding=conn.info.encoding)
        if ends_session(error):
            conn.pgconn.finish()
        raise error
    return pgresult


def run(conn: Any, sql: str) -> Flow[Any]:
    """Run SQL without parameters."""
    return ask(conn, partial(conn.pgconn.send_query, sql.encode(conn.info.encoding)))


def query(conn: Any, statement: Statement) -> Flow[Any]:
    """Run a statement with its parameters."""
    send = partial(
        conn.pgconn.send_query_params,
        statement.text,
        statement.values,
        param_types=statement.types,
        param_formats=statement.formats,
        result_format=statement.result_format,
    )
    return ask(conn, send)


def describe(conn: Any, statement: Statement) -> Flow[Any]:
    """The columns that a statement would give, by the server's own word; raises what is wrong with it."""
    yield from ask(conn, partial(conn.pgconn.send_prepare, b"", statement.text, statement.types))
    return (yield from ask(conn, partial(conn.pgconn.send_describe_prepared, b"")))


class Copied:
    """What has been copied so far, with bounds; `over` makes the error when one is passed."""

    def __init__(self, max_rows: int, max_bytes: int, over: Callable[[str], Exception]) -> None:
        self.rows = 0
        self.bytes = 0
        self._max_rows = max_rows
        self._max_bytes = max_bytes
        self._over = over

    def count(self, rows: int, size: int) -> None:
        self.rows += rows
        self.bytes += size
        if self.rows > self._max_rows:
            raise self._over(f"{self._max_rows:,} rows")
        if self.bytes > self._max_bytes:
            raise self._over(f"{self._max_bytes / 2**20:,.0f} MiB")


def sent(sources: Sequence[tuple[Any, str]]) -> Flow[None]:
    """Ask each source for its rows by a COPY, before any of them is read: see `copy_rows`."""
    for conn, sql in sources:
        conn.pgconn.send_query(sql.encode(conn.info.encoding))
        yield from _flushed(conn.pgconn)


def copy_rows(sources: Sequence[Any], target: Any, into_table: str, copied: Copied) -> Flow[None]:
    """The rows of the sources that have been asked for them into a table of the target, by a COPY in text format.

    A source is read only while the target takes what was sent before: a slow target holds the sources back.
    """
    for conn in sources:
        yield from _begun(conn)
    into = target.pgconn
    yield from run(target, into_table)
    left = {conn.pgconn.socket: conn for conn in sources}
    # The first rows may have been read already, together with the start of the answer: no socket would tell.
    ready = dict.fromkeys(left, 0)
    while left:
        for descriptor, event in ready.items():
            conn = left.get(descriptor)
            if conn is None:
                continue
            if event:
                conn.pgconn.consume_input()
            pieces, ended = _rows(conn.pgconn)
            if pieces:
                data = b"".join(pieces)
                copied.count(len(pieces), len(data))
                into.put_copy_data(data)
                yield from _flushed(into)
            if ended:
                del left[descriptor]
                yield from _ended(conn)
        if left:
            ready = yield dict.fromkeys(left, READ)
    into.put_copy_end()
    yield from _flushed(into)
    yield from _ended(target)


def _flushed(pgconn: Any) -> Flow[None]:
    while pgconn.flush():
        ready = yield {pgconn.socket: READ | WRITE}
        if ready.get(pgconn.socket, 0) & READ:
            pgconn.consume_input()


def _begun(conn: Any) -> Flow[None]:
    pgconn = conn.pgconn
    while pgconn.is_busy():
        yield {pgconn.socket: READ}
        pgconn.consume_input()
    checked(conn, pgconn.get_result())


def _rows(pgconn: Any) -> tuple[list[bytes], bool]:
    """What has arrived of a COPY: its rows, and whether that was all."""
    pieces: list[bytes] = []
    while True:
        size, data = pgconn.get_copy_data(1)
        if size > 0:
            pieces.append(bytes(data))
        else:
            return pieces, size < 0


def _ended(conn: Any) -> Flow[None]:
    """Read to the end of an answer whose data has been read."""
    pgconn = conn.pgconn
    last: Any = None
    while True:
        while pgconn.is_busy():
            yield {pgconn.socket: READ}
            pgconn.consume_input()
        pgresult = pgconn.get_result()
        if pgresult is None:
            break
        if last is None or last.status != ExecStatus.FATAL_ERROR:
            last = pgresult
    checked(conn, last)


def cancelled(conns: Sequence[Any], asked: dict[Any, CancelRequest]) -> Flow[None]:
    """Ask the servers to give up what they run on these connections, and read to the end of what they answer.

    A request that comes before its server has begun is lost: whoever drives this tries again. The servers have not
    taken up yet what is left in `asked`, by connection: it may end whatever runs there next.
    """
    # What has been read already is thrown away first: no socket would tell of it.
    left = {conn.pgconn.socket: conn for conn in conns if not _is_drained(conn.pgconn)}
    for conn in left.values():
        if conn not in asked:
            asked[conn] = CancelRequest(conn)
            asked[conn].start()
    while left or asked:
        wanted = dict.fromkeys(left, READ)
        wanted.update((request.socket, request.wanted) for request in asked.values())
        ready = yield wanted
        for conn in [conn for conn, request in asked.items() if request.socket in ready]:
            try:
                if asked[conn].is_over():
                    del asked[conn]
            except psycopg.OperationalError:
                # Whether it was heard will never be known.
                left.pop(conn.pgconn.socket, None)
                del asked[conn]
                conn.pgconn.finish()
        for descriptor in [each for each in left if each in ready]:
            left[descriptor].pgconn.consume_input()
            if _is_drained(left[descriptor].pgconn):
                del left[descriptor]


class CancelRequest:
    """A request to cancel, on a connection of its own, which the server closes when it has signalled its process.

    What the process begins later is not touched by it: a signal that finds it idle has no effect.
    """

    def __init__(self, conn: Any) -> None:
        self.wanted = WRITE
        self._request = conn.pgconn.cancel_conn()

    def start(self) -> None:
        """Raises `psycopg.OperationalError` when it cannot be made."""
        self._request.start()

    @property
    def socket(self) -> int:
        return int(self._request.socket)

    def is_over(self) -> bool:
        """Go on; whether the server has taken it up. Raises `psycopg.OperationalError` when it fails."""
        status = self._request.poll()
        if status == PollingStatus.FAILED:
            raise psycopg.OperationalError("a request to cancel has failed")
        self.wanted = READ if status == PollingStatus.READING else WRITE
        return bool(status == PollingStatus.OK)


def _is_drained(pgconn: Any) -> bool:
    """Throw away what has come; whether that was all."""
    while not pgconn.is_busy():
        pgresult = pgconn.get_result()
        if pgresult is None:
            return True
        if pgresult.status == ExecStatus.COPY_IN:
            # A server that waits for rows hears no request to cancel: it is told that none will come.
            pgconn.put_copy_end(b"given up")
            pgconn.flush()
            return False
        if pgresult.status == ExecStatus.COPY_OUT and not _is_read_away(pgconn):
            return False
        if pgresult.status == ExecStatus.COPY_BOTH:
            return False
    return False


def _is_read_away(pgconn: Any) -> bool:
    """Throw away the rows of a COPY that have come; whether those were all. Until then there is no other result."""
    while True:
        try:
            size, _ = pgconn.get_copy_data(1)
        except psycopg.Error:
            # The result that follows tells why.
            return True
        if size <= 0:
            return bool(size < 0)


def begun(conns: Sequence[Any], statements: Sequence[Statement], rows: int) -> Flow[None]:
    """Send each connection its statement; its rows will come in chunks of at most so many, and of few in any case.

    libpq holds a chunk whole, however wide its rows are.
    """
    for conn, statement in zip(conns, statements, strict=True):
        pgconn = conn.pgconn
        note(conn, statement.text)
        pgconn.send_query_params(
            statement.text,
            statement.values or [],
            param_types=statement.types,
            param_formats=statement.formats,
            result_format=statement.result_format,
        )
        if hasattr(pgconn, "set_chunked_rows_mode") and psycopg.pq.version() >= _CHUNKS_SINCE:
            pgconn.set_chunked_rows_mode(min(rows, _CHUNK_ROWS))
        else:
            pgconn.set_single_row_mode()
        yield from _flushed(pgconn)


def chunks(conns: Sequence[Any], rows: int) -> Flow[list[list[Any]]]:
    """The next results of each of the connections, of about so many rows at most; none at the end of its answer."""
    pgresults: list[list[Any]] = [[] for _ in conns]
    left = {conn.pgconn.socket: number for number, conn in enumerate(conns)}
    ready = dict.fromkeys(left, 0)
    while True:
        for descriptor, event in ready.items():
            if descriptor not in left:
                continue
            conn = conns[left[descriptor]]
            if event:
                conn.pgconn.consume_input()
            if not conn.pgconn.is_busy():
                pgresults[left.pop(descriptor)] = _come(conn, rows)
        if not left:
            return pgresults
        ready = yield dict.fromkeys(left, READ)


def _come(conn: Any, rows: int) -> list[Any]:
    """The results that have come whole: with rows, or without (the last one, which tells the columns)."""
    arrived: list[Any] = []
    count = 0
    while count < rows and not conn.pgconn.is_busy():
        result = conn.pgconn.get_result()
        if result is None:
            break
        arrived.append(checked(conn, result))
        count += result.ntuples
    return arrived
