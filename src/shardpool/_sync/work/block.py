# Generated from _async/work/block.py by tools/unasync.py: edit that one, then run `make sync`.
"""A block on one connection of a shard: committed when it ends well, rolled back when it does not."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from ..._endpoint.session import SESSION, has_ended_transaction
from ..._runtime.deadlines import Deadline
from ...tokens import Token
from ..fleet import redirects
from .checkout import Checkout, UnitTarget, is_lost
from .outcomes import explain, is_outdated

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

_FAILED = (
    "a statement of this transaction has failed, so that it was rolled back; let the error end the block, or use a "
    "nested transaction() for a statement that may fail"
)


class Block:
    """The context manager behind `connection()` and `transaction()`; `until` is the block's end, monotonic seconds."""

    __slots__ = (
        "_after",
        "_call",
        "_checkout",
        "_explicit",
        "_fleet",
        "_phase",
        "_readonly",
        "_target",
        "_transaction",
        "_until",
        "_verb",
        "_wait",
    )

    def __init__(
        self,
        fleet: Fleet,
        target: UnitTarget,
        *,
        readonly: bool,
        wait: float | None,
        until: Deadline | None,
        explicit: bool,
        after: Token | None = None,
        verb: str | None = None,
    ) -> None:
        self._fleet = fleet
        self._target = target
        self._readonly = readonly
        self._wait = wait
        self._until = until
        self._explicit = explicit
        self._after = after
        self._phase = "query"
        # Of a block that is itself a call; others are part of one.
        self._verb = verb
        self._call: AbstractContextManager[Any] | None = None

    def __enter__(self) -> Connection[Any]:
        if self._verb is None or self._fleet.calls.listener is None:
            return self._enter()
        self._call = call = self._fleet.calls.begin(self._verb)
        call.__enter__()
        try:
            return self._enter()
        except BaseException:
            call.__exit__(*sys.exc_info())
            raise

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._call is None:
            self._exit(exc_type, exc, traceback)
            return
        try:
            self._exit(exc_type, exc, traceback)
        except BaseException:
            self._call.__exit__(*sys.exc_info())
            raise
        self._call.__exit__(exc_type, exc, traceback)

    def _enter(self) -> Connection[Any]:
        deadline = self._fleet.deadline(self._wait)
        if self._until is not None and self._until < deadline:
            deadline = self._until
        self._checkout = checkout = Checkout.take(
            self._fleet, self._target, deadline, readonly=self._readonly, after=self._after
        )
        conn = checkout.conn
        try:
            conn.__dict__[SESSION].lend(conn)
            checkout.begin(autocommit=self._explicit or checkout.pool.autocommit)
            if self._until is not None:
                checkout.watch(self._until)
            if self._explicit:
                self._transaction = conn.transaction()
                self._transaction.__enter__()
        except BaseException as error:
            self._end(error, is_lost(conn))
            raise
        return conn

    def _exit(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        conn = self._checkout.conn
        lost = is_lost(conn)
        try:
            if exc is not None:
                self._roll_back(exc_type, exc, traceback)
            elif self._explicit and conn.pgconn.transaction_status == TransactionStatus.INERROR:
                # COMMIT would be answered by ROLLBACK, and by no error.
                failed = psycopg.errors.InFailedSqlTransaction(_FAILED)
                self._roll_back(type(failed), failed, None)
                raise failed
            elif self._explicit:
                self._commit_transaction(lost)
            elif conn.pgconn.transaction_status != TransactionStatus.IDLE:
                self._phase = "commit"
                conn.commit()
        except BaseException as error:
            self._end(error, is_lost(conn))
            raise
        # A connection that broke in the rollback says nothing of the error that ended the block.
        self._end(exc, lost)

    def _commit_transaction(self, lost: bool) -> None:
        if lost:
            # psycopg's transaction ends without a word when its connection is broken.
            raise psycopg.OperationalError("the connection was lost in the transaction, before its COMMIT")
        self._phase = "commit"
        self._transaction.__exit__(None, None, None)

    def _roll_back(
        self, exc_type: type[BaseException] | None, exc: BaseException, traceback: TracebackType | None
    ) -> None:
        """Bounded, and silent where the server fails: the error that ended the block is the one to be seen."""
        pool, conn = self._checkout.pool, self._checkout.conn
        if conn.pgconn.transaction_status == TransactionStatus.UNKNOWN:
            return
        watch = pool.health.watchdog.watch(conn, self._fleet.deadline(None), pool.health)
        try:
            if self._explicit:
                self._transaction.__exit__(exc_type, exc, traceback)
            else:
                self._roll_back_connection()
        finally:
            if not pool.health.watchdog.release(watch):
                conn.close()

    def _roll_back_connection(self) -> None:
        try:
            self._checkout.conn.rollback()
        except psycopg.Error:
            self._checkout.conn.close()

    def _end(self, error: BaseException | None, lost: bool) -> None:
        """Give the connection back; raise what the error means when that is more than it says itself."""
        checkout = self._checkout
        cut = checkout.unwatch()
        redirects.tell(self._fleet, error)
        ended = has_ended_transaction(checkout.conn)
        try:
            if is_outdated(error):
                checkout.pool.drain()
        finally:
            checkout.give()
        if error is None and self._phase == "commit":
            # Confirmed: that the deadline came at the same time changes nothing.
            return
        if cut or isinstance(error, psycopg.Error):
            # A block that is not one transaction may have committed by itself before it was ended, or while.
            unknown = (cut or lost) and (self._phase == "commit" or not self._explicit or ended)
            explained = explain(error, checkout.pool, cut=cut, lost=lost, phase=self._phase, may_be_applied=unknown)
            if explained is not None and explained is not error:
                raise explained from error
