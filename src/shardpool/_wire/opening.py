"""BEGIN together with the first statement of a transaction, in one round trip; and the commands that end one.

For psycopg's own `conn.wait`. BEGIN and the statement go out in libpq's pipeline mode
(https://www.postgresql.org/docs/current/libpq-pipeline-mode.html), the statement as psycopg's cursor makes it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import Any

import psycopg
from psycopg import capabilities, errors
from psycopg.generators import execute, fetch_many, send
from psycopg.pq import ConnStatus, ExecStatus

_FAILED = ExecStatus.FATAL_ERROR

Waits = Generator[Any, Any, Any]


class Opening:
    """Stands where psycopg has a connection's pipeline while a cursor executes one statement, which `texts` precede.

    `on_sent` is called when it goes out: what psycopg refuses before that leaves no transaction.
    """

    __slots__ = ("_conn", "_on_sent", "_texts", "command_queue", "result_queue")

    def __init__(self, conn: Any, texts: Sequence[bytes], on_sent: Callable[[], None]) -> None:
        self._conn = conn
        self._texts = texts
        self._on_sent = on_sent
        # psycopg's names: what its cursor puts there is sent, and whose results come in which order.
        self.command_queue: list[Callable[[], None]] = []
        self.result_queue: list[Any] = []

    @staticmethod
    def is_possible() -> bool:
        """Whether libpq has a pipeline mode."""
        return capabilities.has_pipeline()

    def __enter__(self) -> None:
        self._conn._pipeline = self

    def __exit__(self, *error: object) -> None:
        self._conn._pipeline = None

    def _communicate_gen(self) -> Waits:
        """Called by psycopg's cursor when it has queued its statement."""
        pgconn = self._conn.pgconn
        pgconn.enter_pipeline_mode()
        self._on_sent()
        for text in self._texts:
            pgconn.send_query_params(text, None)
        for command in self.command_queue:
            command()
        pgconn.pipeline_sync()
        yield from send(pgconn)
        answers = []
        for _ in range(len(self._texts) + len(self.result_queue)):
            answers.append((yield from fetch_many(pgconn)))
        if pgconn.status == ConnStatus.OK:
            yield from fetch_many(pgconn)
            pgconn.exit_pipeline_mode()
        self._conn._pipeline = None
        self._take(answers)

    def _take(self, answers: Sequence[Sequence[Any]]) -> None:
        """Give the cursor its results; raises the first error, after which the server has left out the rest."""
        begun = len(self._texts)
        for results in answers[:begun]:
            self._check(results)
        for owner, results in zip(self.result_queue, answers[begun:], strict=True):
            if owner is None:
                self._check_prepared(results)
                continue
            cursor, prepared = owner
            if prepared is not None:
                self._conn._prepared.validate(*prepared, results)
            cursor._check_results(results)
            cursor._set_results(results)

    def _check_prepared(self, results: Sequence[Any]) -> None:
        try:
            self._check(results)
        except psycopg.Error:
            # psycopg has noted it as prepared when it was queued.
            cursor, prepared = self.result_queue[-1][0], self._conn._prepared
            prepared._names.pop(prepared.key(cursor._query), None)
            raise

    def _check(self, results: Sequence[Any]) -> None:
        if not results:
            raise psycopg.OperationalError("the server closed the connection before it answered")
        if results[0].status == _FAILED:
            raise errors.error_from_result(results[0], encoding=self._conn.info.encoding)


def command(conn: Any, text: bytes) -> Waits:
    """A statement of shardpool's own; gives its command tag, raises what the server says is wrong."""
    conn.pgconn.send_query(text)
    results = yield from execute(conn.pgconn)
    for pgresult in results:
        if pgresult.status == _FAILED:
            raise errors.error_from_result(pgresult, encoding=conn.info.encoding)
    return results[-1].command_status
