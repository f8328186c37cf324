"""The verbs of one shard, as a route and `router.shard(name)` have them: connection, transaction, execute, run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import RowFactory, tuple_row

from ..._call import Params
from ..._endpoint.session import SESSION
from ..._runtime.deadlines import Deadline, block_deadline
from ..._runtime.tasks import async_hedged
from ...control.own_sql import qualified
from ...errors import OtherMap, RouterMisuse, StaleTopology
from ...query.text.calls import is_repeatable
from ...result import Result
from ...tokens import Token
from ..fleet import redirects
from ..fleet.pools import AsyncEndpointPool
from ..fleet.shards import AsyncShardPools
from . import autocommit
from .block import AsyncBlock
from .checkout import AsyncCheckout
from .guarding import Buckets
from .repetition import repeated

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

T = TypeVar("T")

_WRITTEN_QUERY = qualified("select pg_catalog.pg_current_wal_lsn() - '0/0'::pg_catalog.pg_lsn")
_LENDER = "_shardpool_lender"


class AsyncHandle(ABC):
    """One shard of a router. Cheap to make and to keep: pools and topology are looked up when it is used."""

    __slots__ = ("_fleet",)

    _fleet: AsyncFleet
    # Whether the shard that is meant is the one that has some keys, whichever that is.
    _follows_keys = False
    # How one statement is run on it until a deadline; given the fleet and the handle.
    _run_statement: Callable[..., Awaitable[Result]] = staticmethod(autocommit.run)

    @abstractmethod
    def _current_pools(self) -> AsyncShardPools:
        """The pools of the shard that is meant, in the topology of this moment."""

    def _buckets(self) -> Buckets | None:
        """The buckets whose rows its calls may touch; None where that is not known: all that the shard owns."""
        return None

    async def token(self, *, timeout: float | None = None) -> Token:
        """Where the shard's primary has got to by now: pass it as `after` to a read that is to see what was written.

        One round trip to the primary. Positions are of one shard; `str(token)` fits into a cookie.
        """
        result = await self._execute(_WRITTEN_QUERY, None, self._fleet.deadline(timeout), row_factory=tuple_row)
        return Token(result.shards[0], int(result.rows[0][0]))

    def connection(
        self,
        *,
        readonly: bool = False,
        timeout: float | None = None,
        block_timeout: float | None = None,
        after: Token | None = None,
        deadline: float | None = None,
    ) -> AsyncBlock:
        """A context manager that gives a psycopg connection of the primary: commit on success, rollback on error.

        `timeout` seconds is the wait for a connection (default: the topology's); `block_timeout` seconds bounds the
        whole block, kept by shutting the socket (default: no bound; `deadline` is its older name). With `readonly` a
        replica within its lag limit is taken when there is one; nothing keeps you from writing on the primary when
        there is none. With `after`, a `token()`, it has everything that was written before that; only for `readonly`.
        Raises `ShardUnavailable`, `ShardBusy`, `DeadlineExceeded`, and `CommitUnknown` when the connection is lost
        while COMMIT is under way.
        """
        return AsyncBlock(
            self._fleet,
            self,
            readonly=readonly,
            wait=timeout,
            until=block_deadline(block_timeout, deadline),
            explicit=False,
            after=after,
            verb="shard.connection",
        )

    def transaction(
        self,
        *,
        readonly: bool = False,
        timeout: float | None = None,
        block_timeout: float | None = None,
        after: Token | None = None,
        deadline: float | None = None,
    ) -> AsyncBlock:
        """Like `connection`, with the block as one transaction: `commit()` and `rollback()` inside it are errors."""
        return AsyncBlock(
            self._fleet,
            self,
            readonly=readonly,
            wait=timeout,
            until=block_deadline(block_timeout, deadline),
            explicit=True,
            after=after,
            verb="shard.transaction",
        )

    async def getconn(self, timeout: float | None = None, *, readonly: bool = False) -> AsyncConnection[Any]:
        """A connection for as long as you like, which must be given back with `putconn`; prefer `connection()`.

        For libraries that bring their own life cycle, as an SQLAlchemy engine does. Errors are those of `connection`.
        """
        checkout = await AsyncCheckout.take(self._fleet, self, self._fleet.deadline(timeout), readonly=readonly)
        conn = checkout.conn
        try:
            await checkout.begin(autocommit=checkout.pool.autocommit)
            setattr(conn, _LENDER, checkout.pool)
            conn.__dict__[SESSION].lend(conn)
        except BaseException:
            await checkout.give()
            raise
        return conn

    async def putconn(self, conn: AsyncConnection[Any]) -> None:
        """Give back what `getconn` gave; what was not committed is rolled back."""
        pool: AsyncEndpointPool | None = conn.__dict__.pop(_LENDER, None)
        if pool is None:
            raise RouterMisuse("this connection is not lent: it came from elsewhere, or was given back before")
        await pool.give(conn)

    def _block_until(self, until: Deadline, *, readonly: bool) -> AsyncBlock:
        """A transaction that has ended by `until` (monotonic seconds), the wait for its connection included."""
        return AsyncBlock(self._fleet, self, readonly=readonly, wait=until - monotonic(), until=until, explicit=True)

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
        fleet = self._fleet
        deadline = fleet.deadline(timeout)
        if fleet.calls.listener is None and not hedge:
            return await self._execute(query, params, deadline, readonly, prepare, binary, row_factory, after)
        with fleet.calls.begin("shard.execute", query):
            if hedge and readonly:
                return await self._hedged(query, params, deadline, prepare, binary, row_factory, after)
            return await self._execute(query, params, deadline, readonly, prepare, binary, row_factory, after)

    async def _execute(
        self,
        query: Any,
        params: Params | None,
        deadline: Deadline,
        readonly: bool = False,
        prepare: bool | None = None,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
        after: Token | None = None,
    ) -> Result:
        """As `execute`, of which nobody is told, until a deadline in monotonic seconds."""
        # Written out, as in `execute`: `**options` is a dictionary made and read again, for every call.
        try:
            return await self._run_statement(
                self._fleet,
                self,
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
        self, error: Exception, query: Any, params: Params | None, deadline: Deadline, **options: Any
    ) -> Result:
        """Where the keys are by now, after an error that says that they are there no more; any other is raised."""
        while True:
            handle: AsyncHandle = self
            if isinstance(error, OtherMap):
                raise error
            if isinstance(error, StaleTopology):
                owner = await self._divided(query, params, deadline)
                if owner is None:
                    raise error
                handle = owner
            elif not (
                self._follows_keys and redirects.is_redirect(error) and is_repeatable(query)
            ) or not await redirects.followed(self._fleet, error, deadline):
                raise error
            try:
                return await handle._run_statement(self._fleet, handle, query, params, deadline, **options)
            except (StaleTopology, psycopg.DatabaseError) as again:
                error = again

    async def _divided(self, query: Any, params: Params | None, deadline: Deadline) -> AsyncHandle | None:
        """The shard of the statement's own keys, when those of the handle were divided; None when it does not tell."""
        return None

    async def _hedged(
        self,
        query: Any,
        params: Params | None,
        deadline: Deadline,
        prepare: bool | None,
        binary: bool,
        row_factory: RowFactory[Any] | None,
        after: Token | None,
    ) -> Result:
        self._fleet.check_usable()
        pools = self._current_pools()
        pools.hedges.earn()

        def on(chosen: AsyncEndpointPool | None) -> Awaitable[Result]:
            return self._run_statement(
                self._fleet,
                self,
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
        with self._fleet.calls.begin("shard.run"):
            return await self._run_until(function, self._fleet.deadline(timeout), readonly=readonly)

    async def _run_until(
        self, function: Callable[[AsyncConnection[Any]], Awaitable[T]], until: Deadline, *, readonly: bool
    ) -> T:
        async def once() -> T:
            async with self._block_until(until, readonly=readonly) as conn:
                return await function(conn)

        return await repeated(self._fleet, once, until, follows_keys=self._follows_keys)


class AsyncShardHandle(AsyncHandle):
    """A shard by name, with the verbs of a route."""

    __slots__ = ("_name", "_touched")

    def __init__(self, fleet: AsyncFleet, name: str, touched: Buckets | None = None) -> None:
        self._fleet = fleet
        self._name = name
        # The buckets that are meant, where they are known.
        self._touched = touched

    def _buckets(self) -> Buckets | None:
        return self._touched

    def _current_pools(self) -> AsyncShardPools:
        snapshot = self._fleet.snapshot
        snapshot.topology.shard(self._name)
        for name, buckets in (self._touched or {}).items():
            owners = snapshot.topology.keyspaces[name].shard_by_bucket
            if any(bucket >= len(owners) or owners[bucket] != self._name for bucket in buckets):
                raise StaleTopology(f"keys of keyspace {name} are elsewhere than on shard {self._name} by now")
        return snapshot.shards[self._name]

    @property
    def name(self) -> str:
        return self._name

    shard = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"
