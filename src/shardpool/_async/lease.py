"""One use of one connection: taken, begun, committed or rolled back, given back; and what its errors mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from .._session import SESSION, has_ended_transaction
from .._watchdog import Watch
from ..errors import Applied, CommitUnknown, DeadlineExceeded, first_line
from ..tokens import Token
from . import moving

if TYPE_CHECKING:
    from .handle import AsyncHandle
    from .pools import AsyncEndpointPool

Params = Sequence[Any] | Mapping[str, Any]

IDLE = TransactionStatus.IDLE
UNKNOWN = TransactionStatus.UNKNOWN
INERROR = TransactionStatus.INERROR

_FAILED = (
    "a statement of this transaction has failed, so that it was rolled back; let the error end the block, or use a "
    "nested transaction() for a statement that may fail"
)


class AsyncLease:
    """The context manager behind `connection()` and `transaction()`; `until` is the block's end, monotonic seconds."""

    __slots__ = (
        "_after",
        "_conn",
        "_explicit",
        "_handle",
        "_phase",
        "_pool",
        "_readonly",
        "_transaction",
        "_until",
        "_wait",
        "_watch",
    )

    def __init__(
        self,
        handle: AsyncHandle,
        *,
        readonly: bool,
        wait: float | None,
        until: float | None,
        explicit: bool,
        after: Token | None = None,
    ) -> None:
        self._handle = handle
        self._readonly = readonly
        self._wait = wait
        self._until = until
        self._explicit = explicit
        self._after = after
        self._watch: Watch | None = None
        self._phase = "query"

    async def __aenter__(self) -> AsyncConnection[Any]:
        deadline = self._handle._router._deadline(self._wait)
        if self._until is not None and self._until < deadline:
            deadline = self._until
        self._pool, self._conn = pool, conn = await self._handle._take(self._readonly, deadline, self._after)
        try:
            conn.__dict__[SESSION].lend(conn)
            wanted = self._explicit or pool.autocommit
            if conn.autocommit is not wanted:
                await conn.set_autocommit(wanted)
            if self._until is not None:
                self._watch = pool.watchdog.watch(conn, self._until, pool)
            if self._explicit:
                self._transaction = conn.transaction()
                await self._transaction.__aenter__()
        except BaseException as error:
            await self._end(error, is_lost(conn))
            raise
        return conn

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lost = is_lost(self._conn)
        try:
            if exc is not None:
                await self._roll_back(exc_type, exc, traceback)
            elif self._explicit and self._conn.pgconn.transaction_status == INERROR:
                # COMMIT would be answered by ROLLBACK, and by no error.
                failed = psycopg.errors.InFailedSqlTransaction(_FAILED)
                await self._roll_back(type(failed), failed, None)
                raise failed
            elif self._explicit:
                await self._commit_transaction(lost)
            elif self._conn.pgconn.transaction_status != IDLE:
                self._phase = "commit"
                await self._conn.commit()
        except BaseException as error:
            await self._end(error, is_lost(self._conn))
            raise
        # A connection that broke in the rollback says nothing of the error that ended the block.
        await self._end(exc, lost)

    async def _commit_transaction(self, lost: bool) -> None:
        if lost:
            # psycopg's transaction ends without a word when its connection is broken.
            raise psycopg.OperationalError("the connection was lost in the transaction, before its COMMIT")
        self._phase = "commit"
        await self._transaction.__aexit__(None, None, None)

    async def _roll_back(
        self, exc_type: type[BaseException] | None, exc: BaseException, traceback: TracebackType | None
    ) -> None:
        """Bounded, and silent where the server fails: the error that ended the block is the one to be seen."""
        if self._conn.pgconn.transaction_status == UNKNOWN:
            return
        watch = self._pool.watchdog.watch(self._conn, self._handle._router._deadline(None), self._pool)
        try:
            if self._explicit:
                await self._transaction.__aexit__(exc_type, exc, traceback)
            else:
                await self._roll_back_connection()
        finally:
            if not self._pool.watchdog.release(watch):
                await self._conn.close()

    async def _roll_back_connection(self) -> None:
        try:
            await self._conn.rollback()
        except psycopg.Error:
            await self._conn.close()

    async def _end(self, error: BaseException | None, lost: bool) -> None:
        """Give the connection back; raise what the error means when that is more than it says itself."""
        cut = self._watch is not None and not self._pool.watchdog.release(self._watch)
        if cut:
            await self._conn.close()
        moving.tell(self._handle._router, error)
        ended = has_ended_transaction(self._conn)
        try:
            if is_outdated(error):
                await self._pool.drain()
        finally:
            await self._pool.give(self._conn)
        if error is None and self._phase == "commit":
            # Confirmed: that the deadline came at the same time changes nothing.
            return
        if cut or isinstance(error, psycopg.Error):
            # A block that is not one transaction may have committed by itself before it was ended, or while.
            unknown = (cut or lost) and (self._phase == "commit" or not self._explicit or ended)
            explained = explain(error, self._pool, cut=cut, lost=lost, phase=self._phase, may_be_applied=unknown)
            if explained is not None and explained is not error:
                raise explained from error


def is_idle(conn: AsyncConnection[Any]) -> bool:
    """Whether the connection waits for a statement, outside a transaction."""
    return conn.pgconn.transaction_status == IDLE


def is_lost(conn: AsyncConnection[Any]) -> bool:
    return conn.pgconn.transaction_status == UNKNOWN


def is_outdated(error: BaseException | None) -> bool:
    """Whether what was prepared on the connection is gone, or gives other columns by now; nothing was done then."""
    if isinstance(error, psycopg.errors.InvalidSqlStatementName):
        # One that psycopg has prepared, and that a function of the user's has thrown away.
        return '"_pg3_' in (error.diag.message_primary or "")
    return (
        isinstance(error, psycopg.errors.FeatureNotSupported) and error.diag.source_function == "RevalidateCachedQuery"
    )


def explain(
    error: BaseException | None, pool: AsyncEndpointPool, *, cut: bool, lost: bool, phase: str, may_be_applied: bool
) -> BaseException | None:
    """What an error on a connection of the pool means: `DeadlineExceeded`, `CommitUnknown`, or itself with a note."""
    pool.meter.failed(
        "DeadlineExceeded" if cut else "CommitUnknown" if lost and may_be_applied else type(error).__name__
    )
    where: dict[str, Any] = {"shard": pool.shard, "endpoint": pool.endpoint.name, "phase": phase}
    applied: Applied = "unknown" if may_be_applied else "no"
    cause = first_line(error) if error is not None else None
    if cut:
        pool.was_cut()
    elif lost:
        pool.was_lost(error)
    elif isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        pool.lookout.look_now()
    if cut:
        hint = "Look whether it was applied before you write it again." if may_be_applied else None
        return DeadlineExceeded(
            f"the deadline passed on shard {pool.shard}", detail=cause, hint=hint, applied=applied, **where
        )
    if lost and may_be_applied:
        return unknown(pool, phase, cause)
    if isinstance(error, psycopg.Error):
        error.add_note(f"on shard {pool.shard}, {pool.endpoint.name} at {pool.endpoint.address}")
    return error


def unknown(pool: AsyncEndpointPool, phase: str, cause: str | None) -> CommitUnknown:
    """The error of a write whose connection was lost."""
    return CommitUnknown(
        f"the connection to shard {pool.shard} was lost; whether the write was applied is not known",
        shard=pool.shard,
        endpoint=pool.endpoint.name,
        phase=phase,
        detail=cause,
        hint="Look before you write it again: it was neither confirmed nor refused.",
    )


def deadline_after(seconds: float | None) -> float | None:
    return None if seconds is None else monotonic() + seconds
