"""The verbs of one shard, as a route and `router.shard(name)` have them: connection, transaction, execute, run."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg.rows import RowFactory, tuple_row

from .._concurrency import async_hedged, async_sleep
from .._intake import told_of
from .._leg import LEFT_OPEN
from .._session import SESSION, note, quiet
from .._watchdog import Watch
from ..errors import OtherMap, RouterMisuse, ShardUnavailable, StaleTopology, UnsupportedQuery, first_line
from ..own_sql import qualified
from ..result import Result
from ..settings import is_read_alike
from ..tokens import Token
from . import moving
from .lease import AsyncLease, Params, deadline_after, explain, is_lost, is_outdated, unknown
from .planning import forget_catalog, is_ddl, may_write
from .pools import AsyncEndpointPool, Retired
from .shards import AsyncShardPools

if TYPE_CHECKING:
    from .router import AsyncRouter

T = TypeVar("T")

_WRITTEN_QUERY = qualified("select pg_catalog.pg_current_wal_lsn() - '0/0'::pg_catalog.pg_lsn")
_REPLAYED_QUERY = qualified("""
    select pg_catalog.pg_is_in_recovery()
       and (pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn) >= %s::pg_catalog.numeric
""")
INTRANS = TransactionStatus.INTRANS
_RETRY_PAUSE = 0.005
_LENDER = "_shardpool_lender"


class AsyncHandle(ABC):
    """One shard of a router. Cheap to make and to keep: pools and topology are looked up when it is used."""

    __slots__ = ("_router",)

    _router: AsyncRouter
    # Whether the shard that is meant is the one that has some keys, whichever that is.
    _follows_keys = False

    @abstractmethod
    def _current_pools(self) -> AsyncShardPools:
        """The pools of the shard that is meant, in the topology of this moment."""

    async def _take(
        self, readonly: bool, deadline: float, after: Token | None = None, chosen: AsyncEndpointPool | None = None
    ) -> tuple[AsyncEndpointPool, AsyncConnection[Any]]:
        """A connection of the right endpoint, of the topology of this moment; of the one that was chosen already.

        Where nothing could be sent another endpoint is tried: another replica, and the primary, for what only reads;
        the new primary where it is found by asking.
        """
        lsn: int | None = None
        refused: tuple[AsyncEndpointPool, ...] = ()
        while True:
            self._router._check_usable()
            state = self._router._state
            try:
                pools = self._current_pools()
            except OtherMap as error:
                if not await moving.is_worth_again(self._router, state, error, deadline):
                    raise
                continue
            pool: AsyncEndpointPool | None = None
            try:
                if chosen is not None:
                    pool, chosen = chosen, None
                elif not readonly:
                    pool = await pools.writable(deadline) if pools.leaderless else pools.primary
                elif after is None:
                    pool = await pools.readonly(deadline, None, refused)
                else:
                    lsn = after.for_shard(pools.name)
                    pool = await pools.replica(deadline, lsn, refused)
                    if pool is None and (asked := await pools.replica(deadline, None, refused)) is not None:
                        # It may have got there since it was looked at.
                        refused = (*refused, asked)
                        conn = await self._replayed(asked, deadline, lsn)
                        if conn is not None:
                            return asked, conn
                    if pool is None:
                        pool = await pools.writable(deadline)
                return pool, await pool.take(deadline)
            except Retired:
                continue
            except ShardUnavailable:
                if pool is not None and readonly and pool is not pools.primary and pool not in refused:
                    refused = (*refused, pool)
                elif (pool is None or not pools.lost_primary(pool)) and not await moving.caught_up(
                    self._router, state, (pools.name,), deadline
                ):
                    raise

    async def _replayed(self, pool: AsyncEndpointPool, deadline: float, lsn: int) -> AsyncConnection[Any] | None:
        """A connection of a replica when it has replayed all up to there by now."""
        try:
            conn = await pool.take(deadline)
        except ShardUnavailable:
            return None
        try:
            has_replayed = await self._has_replayed(pool, conn, deadline, lsn)
        except BaseException:
            await pool.give(conn)
            raise
        if has_replayed:
            return conn
        await pool.give(conn)
        return None

    async def _has_replayed(
        self, pool: AsyncEndpointPool, conn: AsyncConnection[Any], deadline: float, lsn: int
    ) -> bool:
        watch = pool.watchdog.watch(conn, deadline, pool)
        try:
            if not conn.autocommit:
                await conn.set_autocommit(True)
            cursor = conn.cursor(row_factory=tuple_row)
            await cursor.execute(_REPLAYED_QUERY, (lsn,))
            row = await cursor.fetchone()
            return bool(row and row[0])
        except psycopg.Error:
            return False
        finally:
            if not pool.watchdog.release(watch):
                await conn.close()

    async def token(self, *, timeout: float | None = None) -> Token:
        """Where the shard's primary has got to by now: pass it as `after` to a read that is to see what was written.

        One round trip to the primary. Positions are of one shard; `str(token)` fits into a cookie.
        """
        result = await self.execute(_WRITTEN_QUERY, timeout=timeout, row_factory=tuple_row)
        return Token(result.shards[0], int(result.rows[0][0]))

    def connection(
        self,
        *,
        readonly: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
        after: Token | None = None,
    ) -> AsyncLease:
        """A context manager that gives a psycopg connection of the primary: commit on success, rollback on error.

        `timeout` seconds is the wait for a connection (default: the topology's); `deadline` seconds bounds the whole
        block, kept by shutting the socket (default: no bound). With `readonly` a replica within its lag limit is taken
        when there is one; nothing keeps you from writing on the primary when there is none. With `after`, a `token()`,
        it has everything that was written before that; only for `readonly`.
        Raises `ShardUnavailable`, `ShardBusy`, `DeadlineExceeded`, and `CommitUnknown` when the connection is lost
        while COMMIT is under way.
        """
        return AsyncLease(
            self, readonly=readonly, wait=timeout, until=deadline_after(deadline), explicit=False, after=after
        )

    def transaction(
        self,
        *,
        readonly: bool = False,
        timeout: float | None = None,
        deadline: float | None = None,
        after: Token | None = None,
    ) -> AsyncLease:
        """Like `connection`, with the block as one transaction: `commit()` and `rollback()` inside it are errors."""
        return AsyncLease(
            self, readonly=readonly, wait=timeout, until=deadline_after(deadline), explicit=True, after=after
        )

    async def getconn(self, timeout: float | None = None, *, readonly: bool = False) -> AsyncConnection[Any]:
        """A connection for as long as you like, which must be given back with `putconn`; prefer `connection()`.

        For libraries that bring their own life cycle, as an SQLAlchemy engine does. Errors are those of `connection`.
        """
        pool, conn = await self._take(readonly, self._router._deadline(timeout))
        try:
            if conn.autocommit is not pool.autocommit:
                await conn.set_autocommit(pool.autocommit)
            setattr(conn, _LENDER, pool)
            conn.__dict__[SESSION].lend(conn)
        except BaseException:
            await pool.give(conn)
            raise
        return conn

    async def putconn(self, conn: AsyncConnection[Any]) -> None:
        """Give back what `getconn` gave; what was not committed is rolled back."""
        pool: AsyncEndpointPool | None = conn.__dict__.pop(_LENDER, None)
        if pool is None:
            raise RouterMisuse("this connection is not lent: it came from elsewhere, or was given back before")
        await pool.give(conn)

    def _lease_until(self, until: float, *, readonly: bool) -> AsyncLease:
        """A transaction that has ended by `until` (monotonic seconds), the wait for its connection included."""
        return AsyncLease(self, readonly=readonly, wait=until - monotonic(), until=until, explicit=True)

    async def execute(
        self,
        query: Any,
        params: Params | None = None,
        *,
        timeout: float | None = None,
        readonly: bool = False,
        prepare: bool | None = None,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
        after: Token | None = None,
        hedge: bool = False,
    ) -> Result:
        """Run one statement in autocommit, in one round trip, and give its `Result`; of several, the last one's.

        `timeout` seconds (default: the topology's) covers everything. `RouterMisuse` is raised for a statement that
        leaves a transaction open, which is rolled back. psycopg's errors pass through with a note that
        names the shard; when the connection is lost under a statement that may write, `CommitUnknown`. A statement
        that only reads is then run once more, on another node when it is `readonly`. With `hedge` a `readonly`
        statement that takes longer than 19 of 20 do is asked of another node as well, at most one in twenty, and the
        first answer counts.
        """
        deadline = self._router._deadline(timeout)
        if hedge and readonly:
            return await self._hedged(query, params, deadline, prepare, binary, row_factory, after)
        try:
            return await self._execute_until(
                query,
                params,
                deadline,
                readonly=readonly,
                prepare=prepare,
                binary=binary,
                row_factory=row_factory,
                after=after,
            )
        except (StaleTopology, psycopg.DatabaseError) as error:
            options: dict[str, Any] = {"prepare": prepare, "binary": binary, "row_factory": row_factory, "after": after}
            return await self._execute_elsewhere(error, query, params, deadline, readonly=readonly, **options)

    async def _execute_elsewhere(
        self, error: Exception, query: Any, params: Params | None, deadline: float, **options: Any
    ) -> Result:
        """Where the keys are by now, after an error that says that they are there no more; any other is raised."""
        while True:
            handle: AsyncHandle = self
            if isinstance(error, OtherMap):
                raise error
            if isinstance(error, StaleTopology):
                found = await self._divided(query, params, deadline)
                if found is None:
                    raise error
                handle = found
            elif not (
                self._follows_keys and moving.is_given_away(error) and moving.is_repeatable(query)
            ) or not await moving.followed(self._router, error, deadline):
                raise error
            try:
                return await handle._execute_until(query, params, deadline, **options)
            except (StaleTopology, psycopg.DatabaseError) as again:
                error = again

    async def _divided(self, query: Any, params: Params | None, deadline: float) -> AsyncHandle | None:
        """The shard of the statement's own keys, when those of the handle were divided; None when it does not tell."""
        return None

    async def _hedged(
        self,
        query: Any,
        params: Params | None,
        deadline: float,
        prepare: bool | None,
        binary: bool,
        row_factory: RowFactory[Any] | None,
        after: Token | None,
    ) -> Result:
        self._router._check_usable()
        pools = self._current_pools()
        pools.hedges.earn()

        def on(chosen: AsyncEndpointPool | None) -> Awaitable[Result]:
            return self._execute_until(
                query,
                params,
                deadline,
                readonly=True,
                prepare=prepare,
                binary=binary,
                row_factory=row_factory,
                after=after,
                chosen=chosen,
            )

        begun = monotonic()
        first = await pools.readonly(deadline, None if after is None else after.for_shard(pools.name))
        other = pools.another(first) if after is None else None
        usual = pools.usual.value
        if other is None or usual is None:
            result = await on(None if after is not None else first)
        else:
            result = await async_hedged(partial(on, first), partial(on, other), usual, pools.hedges.spend)
        pools.usual.add(monotonic() - begun)
        return result

    async def _execute_until(
        self,
        query: Any,
        params: Params | None,
        deadline: float,
        *,
        readonly: bool,
        prepare: bool | None = None,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
        after: Token | None = None,
        chosen: AsyncEndpointPool | None = None,
        again: bool = False,
        reading: Mapping[str, str | None] | None = None,
    ) -> Result:
        """`again` runs it in a transaction that may only read: what writes is refused by the server then.

        `reading` are settings by which the statement was routed: a session must have those.
        """
        self._router._retries.earn()
        pool, conn = await self._take(readonly, deadline, after, chosen)
        watch: Watch | None = None
        try:
            watch = pool.watchdog.watch(conn, deadline, pool)
            watch.most = self._router.max_result_bytes
            if reading is not None and not is_read_alike(conn.__dict__[SESSION].settings, reading):
                forget_catalog(self._router)
                await pool.drain()
                raise _read_otherwise(pool.shard, reading)
            if not conn.autocommit:
                await conn.set_autocommit(True)
            if type(query) is not str or query not in quiet:
                note(conn, query)
            cursor = conn.cursor(binary=binary)
            if again:
                await conn.execute("begin read only", prepare=False)
            await cursor.execute(query, params, prepare=prepare)
            while cursor.nextset():
                pass
            if again:
                await conn.execute("commit", prepare=False)
            if conn.pgconn.transaction_status == INTRANS:
                await conn.rollback()
                raise RouterMisuse(LEFT_OPEN, hint="Use transaction() for what is to be one transaction.")
            pgresult = cursor.pgresult
            assert pgresult is not None
            if not pgresult.nfields and is_ddl(pgresult.command_status):
                forget_catalog(self._router)
                await pool.drain()
            return Result(pgresult, conn, (pool.shard,), row_factory, cursor._tx)
        except psycopg.Error as error:
            failure = error
            lost = is_lost(conn)
        finally:
            cut = watch is not None and not pool.watchdog.release(watch)
            if cut:
                await conn.close()
            await pool.give(conn)
        wrote = (cut or lost) and may_write(self._router, query)
        if cut and watch is not None and watch.error is not None:
            raise told_of(watch.error, wrote) from failure
        explained = explain(failure, pool, cut=cut, lost=lost, phase="query", may_be_applied=wrote)
        outdated = is_outdated(failure)
        if outdated:
            await pool.drain()
            # A procedure may have committed before a statement in it failed so.
            outdated = moving.is_repeatable(query)
        if (outdated or (lost and not cut and not wrote)) and self._router._retries.spend():
            pool.retried(failure)
            try:
                return await self._execute_until(
                    query,
                    params,
                    deadline,
                    readonly=readonly,
                    prepare=prepare,
                    binary=binary,
                    row_factory=row_factory,
                    after=after,
                    again=again or not outdated,
                    reading=reading,
                )
            except psycopg.errors.ReadOnlySqlTransaction:
                if outdated:
                    raise
                # It writes after all, in a view, an operator or a cast; and may have done so the first time.
                raise unknown(pool, "query", first_line(failure)) from failure
        if explained is not None and explained is not failure:
            raise explained from failure
        raise failure

    async def run(
        self,
        function: Callable[[AsyncConnection[Any]], Awaitable[T]],
        *,
        timeout: float | None = None,
        readonly: bool = False,
    ) -> T:
        """Call `function(conn)` in one transaction and give what it returns.

        On a serialization failure or a deadlock (40001, 40P01) the transaction is rolled back and the function called
        again, and so it is when the shard has just given the key away (RS001), until `timeout` seconds (default: the
        topology's) are over: it must have no effect but on the connection. `CommitUnknown` is raised, and nothing
        repeated, when the connection is lost under COMMIT.
        """
        return await self._run_until(function, self._router._deadline(timeout), readonly=readonly)

    async def _run_until(
        self, function: Callable[[AsyncConnection[Any]], Awaitable[T]], until: float, *, readonly: bool
    ) -> T:
        self._router._retries.earn()
        attempt = 0
        while True:
            try:
                async with self._lease_until(until, readonly=readonly) as conn:
                    return await function(conn)
            except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
                # Full jitter: two transactions that met once must not meet again.
                pause = random.uniform(0, min(1.0, _RETRY_PAUSE * 2**attempt))
                if monotonic() + pause >= until or not self._router._retries.spend():
                    raise
                await async_sleep(pause)
                attempt += 1
            except psycopg.DatabaseError as error:
                if not self._follows_keys or not await moving.followed(self._router, error, until):
                    raise


def _read_otherwise(shard: str, reading: Mapping[str, str | None]) -> UnsupportedQuery:
    return UnsupportedQuery(
        f"shard {shard} reads this statement otherwise than it was routed by: {', '.join(reading)} is another there",
        hint="Give all shards the same settings; or write E'…' for texts with a backslash, and IS NULL for = NULL.",
    )
