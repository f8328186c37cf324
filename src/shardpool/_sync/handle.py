# Generated from _async/handle.py by tools/unasync.py: edit that one, then run `make sync`.
"""The verbs of one shard, as a route and `router.shard(name)` have them: connection, transaction, execute, run."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import Connection, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import RowFactory

from .._concurrency import sleep
from .._leg import LEFT_OPEN
from .._session import SESSION, note, quiet
from ..errors import RouterMisuse
from ..result import Result
from .lease import Lease, Params, deadline_after, explain, is_lost
from .planning import forget_catalog, is_ddl
from .pools import EndpointPool, Retired
from .shards import ShardPools

if TYPE_CHECKING:
    from .router import Router

T = TypeVar("T")

# A statement that begins so, and is alone, cannot have written. SELECT can: by a function, or by one that follows it.
_READS = ("show",)
INTRANS = TransactionStatus.INTRANS
_RETRY_PAUSE = 0.005
_LENDER = "_shardpool_lender"


class Handle(ABC):
    """One shard of a router. Cheap to make and to keep: pools and topology are looked up when it is used."""

    __slots__ = ("_router",)

    _router: Router

    @abstractmethod
    def _current_pools(self) -> ShardPools:
        """The pools of the shard that is meant, in the topology of this moment."""

    def _take(self, readonly: bool, deadline: float) -> tuple[EndpointPool, Connection[Any]]:
        """A connection of the right endpoint, of the topology of this moment."""
        while True:
            self._router._check_usable()
            pools = self._current_pools()
            pool = pools.readonly(deadline) if readonly else pools.primary
            try:
                return pool, pool.take(deadline)
            except Retired:
                continue

    def connection(
        self, *, readonly: bool = False, timeout: float | None = None, deadline: float | None = None
    ) -> Lease:
        """A context manager that gives a psycopg connection of the primary: commit on success, rollback on error.

        `timeout` seconds is the wait for a connection (default: the topology's); `deadline` seconds bounds the whole
        block, kept by shutting the socket (default: no bound). With `readonly` a replica within its lag limit is taken
        when there is one; nothing keeps you from writing on the primary when there is none.
        Raises `ShardUnavailable`, `ShardBusy`, `DeadlineExceeded`, and `CommitUnknown` when the connection is lost
        while COMMIT is under way.
        """
        return Lease(self, readonly=readonly, wait=timeout, until=deadline_after(deadline), explicit=False)

    def transaction(
        self, *, readonly: bool = False, timeout: float | None = None, deadline: float | None = None
    ) -> Lease:
        """Like `connection`, with the block as one transaction: `commit()` and `rollback()` inside it are errors."""
        return Lease(self, readonly=readonly, wait=timeout, until=deadline_after(deadline), explicit=True)

    def getconn(self, timeout: float | None = None, *, readonly: bool = False) -> Connection[Any]:
        """A connection for as long as you like, which must be given back with `putconn`; prefer `connection()`.

        For libraries that bring their own life cycle, as an SQLAlchemy engine does. Errors are those of `connection`.
        """
        pool, conn = self._take(readonly, self._router._deadline(timeout))
        try:
            if conn.autocommit is not pool.autocommit:
                conn.set_autocommit(pool.autocommit)
            setattr(conn, _LENDER, pool)
            conn.__dict__[SESSION].lend(conn)
        except BaseException:
            pool.give(conn)
            raise
        return conn

    def putconn(self, conn: Connection[Any]) -> None:
        """Give back what `getconn` gave; what was not committed is rolled back."""
        pool: EndpointPool | None = conn.__dict__.pop(_LENDER, None)
        if pool is None:
            raise RouterMisuse("this connection is not lent: it came from elsewhere, or was given back before")
        pool.give(conn)

    def _lease_until(self, until: float, *, readonly: bool) -> Lease:
        """A transaction that has ended by `until` (monotonic seconds), the wait for its connection included."""
        return Lease(self, readonly=readonly, wait=until - monotonic(), until=until, explicit=True)

    def execute(
        self,
        query: Any,
        params: Params | None = None,
        *,
        timeout: float | None = None,
        readonly: bool = False,
        prepare: bool | None = None,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
    ) -> Result:
        """Run one statement in autocommit, in one round trip, and give its `Result`; of several, the last one's.

        `timeout` seconds (default: the topology's) covers everything. `RouterMisuse` is raised for a statement that
        leaves a transaction open, which is rolled back. psycopg's errors pass through with a note that
        names the shard; when the connection is lost under a statement that may write, `CommitUnknown`.
        """
        return self._execute_until(
            query,
            params,
            self._router._deadline(timeout),
            readonly=readonly,
            prepare=prepare,
            binary=binary,
            row_factory=row_factory,
        )

    def _execute_until(
        self,
        query: Any,
        params: Params | None,
        deadline: float,
        *,
        readonly: bool,
        prepare: bool | None = None,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
    ) -> Result:
        pool, conn = self._take(readonly, deadline)
        watch = pool.watchdog.watch(conn, deadline)
        failure: BaseException | None = None
        try:
            if not conn.autocommit:
                conn.set_autocommit(True)
            if type(query) is not str or query not in quiet:
                note(conn, query)
            cursor = conn.cursor(binary=binary)
            cursor.execute(query, params, prepare=prepare)
            while cursor.nextset():
                pass
            if conn.pgconn.transaction_status == INTRANS:
                conn.rollback()
                raise RouterMisuse(LEFT_OPEN, hint="Use transaction() for what is to be one transaction.")
            pgresult = cursor.pgresult
            assert pgresult is not None
            if not pgresult.nfields and is_ddl(pgresult.command_status):
                forget_catalog(self._router)
            return Result(pgresult, conn, (pool.shard,), row_factory, cursor._tx)
        except psycopg.Error as error:
            failure = error
            raise
        finally:
            cut = not pool.watchdog.release(watch)
            lost = failure is not None and is_lost(conn)
            if cut:
                conn.close()
            pool.give(conn)
            if failure is not None:
                wrote = _may_write(query)
                explained = explain(failure, pool, cut=cut, lost=lost, phase="query", may_be_applied=wrote)
                if explained is not None and explained is not failure:
                    raise explained from failure

    def run(
        self,
        function: Callable[[Connection[Any]], T],
        *,
        timeout: float | None = None,
        readonly: bool = False,
    ) -> T:
        """Call `function(conn)` in one transaction and give what it returns.

        On a serialization failure or a deadlock (40001, 40P01) the transaction is rolled back and the function called
        again, until `timeout` seconds (default: the topology's) are over: it must have no effect but on the
        connection. `CommitUnknown` is raised, and nothing repeated, when the connection is lost under COMMIT.
        """
        return self._run_until(function, self._router._deadline(timeout), readonly=readonly)

    def _run_until(self, function: Callable[[Connection[Any]], T], until: float, *, readonly: bool) -> T:
        attempt = 0
        while True:
            try:
                with self._lease_until(until, readonly=readonly) as conn:
                    return function(conn)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                # Full jitter: two transactions that met once must not meet again.
                pause = random.uniform(0, min(1.0, _RETRY_PAUSE * 2**attempt))
                if monotonic() + pause >= until:
                    raise
                sleep(pause)
                attempt += 1


def _may_write(query: Any) -> bool:
    if isinstance(query, sql.Composable):
        query = query.as_bytes(None)
    if isinstance(query, bytes):
        query = query.decode(errors="replace")
    return not (isinstance(query, str) and query.lstrip("( \t\r\n").lower().startswith(_READS) and ";" not in query)
