"""One shard's part of a write on several: a transaction that does its work and is left open for the COMMIT of all.

BEGIN, the statement and what has to hold at its end go out together (pipeline mode), so that they take one round trip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from psycopg import capabilities
from psycopg.generators import execute
from psycopg.pq import ConnStatus, ExecStatus

from .._endpoint.session import note
from .._runtime.drivers import OVERDUE, Step
from .request import Request, TimeOver
from .statement import Statement, prepared_of

# A transaction waits for those on the other shards: that is no idleness of the caller.
PATIENT = b"set local idle_in_transaction_session_timeout = 0"
BEGIN = (b"begin", PATIENT)
# What is checked at COMMIT would be found when others have committed: it is checked while all can still be undone.
CHECK = b"set constraints all immediate"
_ROLLBACK = b"rollback"


class Participant(Request):
    """A request whose statement runs in a transaction, which is left open.

    `before` begins the transaction. `pgresult` is that of the statement.
    """

    def __init__(
        self,
        shard: str,
        conn: Any,
        statement: Statement,
        overdue: Callable[[], BaseException],
        before: Sequence[bytes] = BEGIN,
    ) -> None:
        super().__init__(shard, conn, statement, overdue)
        self._before = before

    def _run(self) -> Step:
        statement, prepared = self.statement, prepared_of(self.conn)
        note(self.conn, statement.text)
        known = prepared.name(statement) if statement.values is not None else None
        if known is not None:
            yield from self._transact([partial(self._send_prepared, known)])
            if not self._is_stale():
                return self._raise_error()
            # Nothing was done, but the transaction is void.
            prepared.forget(statement)
            yield from self._ask(partial(self.pgconn.send_query, _ROLLBACK))
        elif statement.values is not None and prepared.is_due(statement, self.conn.prepare_threshold):
            name = prepared.new_name()
            prepare = partial(self.pgconn.send_prepare, name, statement.text, statement.types)
            yield from self._transact([prepare, partial(self._send_prepared, name)])
            self._raise_error()
            return prepared.add(statement, name)
        yield from self._transact([self._send_unprepared])
        self._raise_error()

    def _transact(self, work: Sequence[Callable[[], None]]) -> Step:
        """Send all from BEGIN to the check; `pgresult` is then the first error, or that of the last of `work`."""
        before = [partial(self.pgconn.send_query_params, sql, None) for sql in self._before]
        check = partial(self.pgconn.send_query_params, CHECK, None)
        results: list[Any] = []
        run = self._at_once if capabilities.has_pipeline() else self._one_by_one
        yield from run([*before, *work, check], results)
        failed = [pgresult for pgresult in results if pgresult is None or pgresult.status == ExecStatus.FATAL_ERROR]
        self.pgresult = failed[0] if failed else results[-2]

    def _at_once(self, sends: Sequence[Callable[[], None]], results: list[Any]) -> Step:
        pgconn = self.pgconn
        pgconn.enter_pipeline_mode()
        for send in sends:
            send()
        pgconn.pipeline_sync()
        yield from self._flushed()
        for _ in sends:
            results.append((yield from self._answer()))
        if pgconn.status == ConnStatus.OK:
            yield from self._answer()
            pgconn.exit_pipeline_mode()

    def _one_by_one(self, sends: Sequence[Callable[[], None]], results: list[Any]) -> Step:
        for send in sends:
            yield from self._ask(send)
            results.append(self.pgresult)
            if self.pgresult is None or self.pgresult.status == ExecStatus.FATAL_ERROR:
                return


class Interruptible:
    """A step that may stop in the middle, and go on after it has been seen what it waits for."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self._wanted: int | None = None
        self.has_ended = False

    def until_overdue(self) -> Step:
        """The step, up to its end or the deadline of the driver."""
        yield from self._go(last=False)

    def to_the_end(self) -> Step:
        """What is left of the step, which ends at the deadline of this driver."""
        yield from self._go(last=True)

    def _go(self, *, last: bool) -> Step:
        try:
            wanted = next(self._step) if self._wanted is None else self._wanted
            while True:
                self._wanted = wanted
                ready = yield wanted
                if ready == OVERDUE and not last:
                    return
                wanted = self._step.send(ready)
        except StopIteration:
            self.has_ended = True


class Command(Request):
    """A statement of shardpool's own in a transaction of the caller's, or at its end; it may leave that open."""

    def _run(self) -> Step:
        self.pgconn.send_query(self.statement.text)
        # psycopg's own, of C where it has it: there is little to read, and nothing to count.
        answer = execute(self.pgconn)
        try:
            wanted = next(answer)
            while True:
                ready = yield wanted
                if ready == OVERDUE:
                    raise TimeOver
                wanted = answer.send(ready)
        except StopIteration as end:
            results = end.value
        failed = [pgresult for pgresult in results if pgresult.status == ExecStatus.FATAL_ERROR]
        self.pgresult = failed[0] if failed else results[-1] if results else None
        self._raise_error()


class Kept(Request):
    """A request whose statement runs in a transaction of the caller's, which is left open."""

    def _run(self) -> Step:
        yield from self._run_statement()
