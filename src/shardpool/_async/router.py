"""The router: keys to routes, and every verb that touches more than one shard."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args

from psycopg import AsyncConnection
from psycopg.rows import RowFactory

from .. import config
from .._call import Call, Params
from .._endpoint.session import RAW, RAW_HINT, is_raw
from .._exports import later
from .._runtime.calls import CallRecord
from .._runtime.deadlines import NEVER, Deadline, block_deadline
from .._runtime.intake import AnswerLimits
from ..control.transactions import Transactions, TransactionState
from ..errors import RouterMisuse, UnsupportedQuery, check_choice
from ..events import Observer
from ..query.choices import Fanout, SnapshotCut, Strategy, check_options
from ..result import ByShard, Result
from ..topology import Topology
from .fleet import redirects
from .fleet.follower import state_of
from .parts import assembled
from .routes import AsyncRoute
from .work import two_phase
from .work.handle import AsyncShardHandle
from .work.repetition import repeated
from .work.session import Isolation

if TYPE_CHECKING:
    from ..query.plans.bound import Bound
    from ..report import Report
    from ..reshard import AsyncMoves
    from ..schema import AsyncMigrations
    from .admin import check, install, readiness
    from .bulk import batch, copy
    from .plans.planner import AsyncPlanner
    from .sql import dispatch, scattered, streamed, transaction
    from .sql.transaction import AsyncFleetTransaction
else:
    check, install, readiness = later(__package__, "admin.check", "admin.install", "admin.readiness")
    batch, copy = later(__package__, "bulk.batch", "bulk.copy")
    dispatch, scattered = later(__package__, "sql.dispatch", "sql.scattered")
    streamed, transaction = later(__package__, "sql.streamed", "sql.transaction")

T = TypeVar("T")


class _Limit(Generic[T]):
    """A limit that the router's fleet holds; it may be set at any time."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, router: AsyncRouter, owner: type) -> T:
        limit: T = getattr(router._fleet.limits, self._name)
        return limit

    def __set__(self, router: AsyncRouter, value: T) -> None:
        setattr(router._fleet.limits, self._name, value)


class AsyncRouter:
    """A fleet of PostgreSQL servers as one sharded database.

    `topology` is the path of a topology file or a `Topology`. Making a router does no I/O but reading the file; pools
    are opened when a shard is first used, between `open()` and `close()`, or in a `with` block.

    `kwargs` go to every `psycopg` connection (`row_factory`, `autocommit`, `prepare_threshold`, …), `configure` is
    called with each new one, `connection_class` makes them. On those of no pool, that `init` and `check` make, the
    role that `configure` sets is kept, and its settings are not.

    `passwords(shard, endpoint)` is asked for the password of each new connection, as for tokens that expire; where it
    gives None, the topology's is used. It has to be quick: connections of that endpoint wait for it.

    `fanout` is the default of `execute`. `max_pull_rows` and `max_pull_bytes` bound what one statement may bring from
    the shards to one of them when it cannot be answered otherwise; above them it is refused. `max_result_bytes` bounds
    the answer of one `execute` or `scatter`, over all shards, as it comes (None: not at all; on other systems than
    Linux, and on Unix sockets, it is not known what has come): above it, `ResultTooLarge` is raised.

    `observers` are told what happens: see `shardpool.events`. `max_held` calls at most, on each shard whose primary is
    found by asking (`hosts:`), wait within their deadlines while it has none; with 0 they are refused at once.

    A topology file is looked at every `reload_interval` seconds, and reloaded when it has changed; None leaves that to
    `reload()`. A file that cannot be taken over changes nothing: see `stats()["reload"]` and `ReloadFailed`.
    """

    def __init__(
        self,
        topology: str | os.PathLike[str] | Topology,
        *,
        connection_class: type[AsyncConnection[Any]] = AsyncConnection,
        configure: Callable[[AsyncConnection[Any]], Awaitable[None]] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        fanout: Fanout = "all",
        max_pull_rows: int = 1_000_000,
        max_pull_bytes: int = 256 * 2**20,
        max_result_bytes: int | None = 512 * 2**20,
        observers: Iterable[Observer] = (),
        max_held: int = 1000,
        reload_interval: float | None = 5.0,
        passwords: Callable[[str, str], Awaitable[str | None]] | None = None,
    ) -> None:
        check_choice("fanout", fanout, get_args(Fanout))
        if is_raw((kwargs or {}).get("cursor_factory")):
            raise RouterMisuse(RAW, hint=RAW_HINT)
        path = None if isinstance(topology, Topology) else os.fspath(topology)
        # Looked at before it is read: what is written in between is noticed.
        file_state = state_of(path) if path is not None else ()
        loaded = topology if isinstance(topology, Topology) else config.load_topology(topology)
        self._fleet, self._routes, self._plans = assembled(
            loaded,
            AnswerLimits(max_pull_rows, max_pull_bytes, max_result_bytes),
            connection_class=connection_class,
            configure=configure,
            kwargs=kwargs,
            observers=observers,
            max_held=max_held,
            passwords=passwords,
            path=path,
            file_state=file_state,
            reload_interval=reload_interval,
        )
        self._fanout: Fanout = fanout

    @property
    def _planner(self) -> AsyncPlanner:
        return self._plans.planner

    max_pull_rows = _Limit[int]()
    max_pull_bytes = _Limit[int]()
    max_result_bytes = _Limit["int | None"]()

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the router usable, here; no connection is made yet. Opening an open router does nothing."""
        await self._fleet.open()

    async def close(self, timeout: float = 5.0) -> None:
        """Close every pool, all at once, waiting at most `timeout` seconds for work in the background to end.

        Connections that are in use are closed when they are given back. When it is cancelled it goes on to its end, and
        raises that then.
        """
        await self._fleet.close(timeout)

    async def __aenter__(self) -> AsyncRouter:
        await self.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def wait(self, timeout: float = 30.0) -> None:
        """Return when every endpoint has given a checked connection; else a `ScatterError` that names the missing."""
        await readiness.wait(self._fleet, timeout)

    # -- topology ------------------------------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        """The topology of this moment."""
        return self._fleet.topology

    @property
    def shards(self) -> tuple[str, ...]:
        """The names of all shards, in the order of the topology."""
        return tuple(self._fleet.topology.shards)

    async def reload(self, topology: Topology | None = None) -> Topology:
        """Swap in a new topology, given or read again from the file, between two calls; gives what now holds.

        Calls that run are not touched: they end on the pools that they began on. A bad file (`ConfigError`), another
        fleet, an older epoch or the same epoch with other contents (`StaleTopology`) changes nothing. When it is
        cancelled, either the old topology holds or the new one, whole.

        Where keys change their shard, one shard is asked first, for a second at most, then others, for three: one that
        has other owners refuses the topology (`OtherMap`). When none answers it is put in force, and every connection
        is made anew, so that no shard is used that has not confirmed it.
        """
        if topology is None and self._fleet.path is not None:
            topology = config.load_topology(self._fleet.path)
        elif topology is None:
            raise RouterMisuse("this router was made from a Topology, not from a file", hint="Pass the new topology.")
        return await self._fleet.take_over(topology)

    # -- keys ----------------------------------------------------------------------------------------------------

    def for_key(self, key: Any, *, keyspace: str | None = None, table: str | None = None) -> AsyncRoute:
        """The route of a partition key; no I/O. A composite key is a tuple.

        With several keyspaces one of them, or one of their tables, has to be named (`MissingKey`). Raises `InvalidKey`
        for NULL or a value that is not of the key's type, `KeyNotCovered` for one that no range or list entry owns.
        """
        if keyspace is None and table is None:
            return self._routes.lookup(key)
        return self._routes.of_key(key, keyspace, table)

    def for_keys(
        self, keys: Iterable[Any], *, keyspace: str | None = None, table: str | None = None
    ) -> dict[str, list[Any]]:
        """The keys by the name of the shard that owns them, shards and keys in the order in which they come."""
        return self._routes.of_keys(keys, keyspace, table)

    def for_range(
        self, low: Any = None, high: Any = None, *, keyspace: str | None = None, table: str | None = None
    ) -> list[AsyncRoute]:
        """The routes that hold the keys from `low` (included) to `high` (not included), in the order of the keys.

        None is no bound. Only for range keyspaces (`RoutingError`).
        """
        return self._routes.of_range(low, high, keyspace, table)

    def shard(self, name: str) -> AsyncShardHandle:
        """A shard by name, with the verbs of a route: its server as it is, whatever it owns.

        Rows that it still has of a move, or has already, are seen there, and counted: `execute` leaves them out. Raises
        `UnknownShard` with the nearest names.
        """
        self._fleet.topology.shard(name)
        return AsyncShardHandle(self._fleet, name)

    # -- statements ----------------------------------------------------------------------------------------------

    async def execute(
        self,
        query: Any,
        params: Params | None = None,
        *,
        key: Any = None,
        keyspace: str | None = None,
        table: str | None = None,
        timeout: float | None = None,
        readonly: bool = False,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
        fanout: Fanout | None = None,
        strategy: Strategy | None = None,
        atomic: bool = False,
        partial: bool = False,
    ) -> Result:
        """Run one statement: on the shard of `key`; without one, wherever the rows are that it reads or writes.

        Without a key the statement is answered as one PostgreSQL with all the rows would answer it, or refused with
        `UnsupportedQuery`: on one shard when it pins the partition key, else on all that matter. See `explain`.

        `fanout` bounds that: `"one"` allows one shard only, `"some"` the shards of the keys that the statement names,
        `"all"` everything (default: the router's). `timeout` seconds (default: the topology's) covers everything.
        A write on several shards is one transaction over all of them, where they allow prepared transactions; else one
        on each, begun on all and committed when all have done their part, which `atomic` refuses. `strategy="pull"`
        answers a SELECT the slow way that everything else is tested by. With `partial` shards that cannot be reached,
        are busy or do not answer in time are left out of a SELECT on several: the result's `missing` says which, and
        why.

        psycopg's errors pass through; when shards fail, `ScatterError`. See `AsyncHandle.execute` for the rest.
        """
        if fanout is not None or strategy is not None:
            check_options(fanout, strategy)
        fleet = self._fleet
        call = Call(
            query,
            params,
            fleet.deadline(timeout),
            readonly,
            binary,
            row_factory,
            fanout or self._fanout,
            strategy,
            atomic,
            {} if partial else None,
        )
        if fleet.calls.listener is None:
            return await self._execute(call, key, keyspace, table)
        with fleet.calls.begin("execute", query) as record:
            return _answered(record, await self._execute(call, key, keyspace, table))

    async def _execute(self, call: Call, key: Any, keyspace: str | None, table: str | None) -> Result:
        if key is not None:
            return await self._routes.execute(call, key, keyspace, table)
        self._fleet.check_usable()
        result = await dispatch.execute(self._fleet, self._routes, self._plans.planner, call)
        if call.missing:
            result.missing = call.missing
        return result

    def stream(
        self,
        query: Any,
        params: Params | None = None,
        *,
        size: int = 1000,
        timeout: float | None = None,
        readonly: bool = False,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
        fanout: Fanout | None = None,
        strategy: Strategy | None = None,
    ) -> AsyncGenerator[Any, None]:
        """The rows of a SELECT as they come, in its order: the answer of `execute` with bounded memory.

        Of each shard at most about `size` rows are held; shards wait while you do. `timeout` seconds bounds the whole
        (default: none, but no wait for a shard longer than the topology's timeout). Errors are those of `execute`, and
        come where the iteration has got to.

        When you leave the loop early, close the iterator (`contextlib.closing`): what still runs is cancelled then.
        """
        self._fleet.check_usable()
        check_options(fanout, strategy)
        call = Call(
            query,
            params,
            NEVER,
            readonly=readonly,
            binary=binary,
            row_factory=row_factory,
            fanout=fanout or self._fanout,
            strategy=strategy,
        )
        rows = streamed.stream(self._fleet, self._planner, call, size=size, timeout=timeout)
        observed: AsyncGenerator[Any, None] = self._fleet.calls.async_stream(rows, query)
        return observed

    async def explain(
        self,
        query: Any,
        params: Params | None = None,
        *,
        timeout: float | None = None,
        strategy: Strategy | None = None,
    ) -> Bound:
        """How `execute` would run a statement, without running it: print it, or see `describe()` and `as_dict()`.

        Asks a shard for its catalog when that is not known yet, and for a write on several shards each of them whether
        it can take part in a transaction over all. Raises what `execute` would refuse.
        """
        self._fleet.check_usable()
        check_options(None, strategy)
        return await dispatch.explain(
            self._fleet, self._planner, query, params, self._fleet.deadline(timeout), strategy
        )

    async def scatter(
        self,
        query: Any,
        params: Params | None = None,
        *,
        shards: Iterable[str] | None = None,
        keys: Iterable[Any] | None = None,
        keyspace: str | None = None,
        table: str | None = None,
        timeout: float | None = None,
        readonly: bool = False,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
        atomic: bool = False,
        partial: bool = False,
    ) -> ByShard:
        """Run the same statement, or `query(conn)` when it is a function, on many shards at once: {shard: result}.

        The shards are all, those named, or those that own one of the `keys`. A statement runs in autocommit on each,
        with no transaction over them: what one shard has done is not undone when another fails. A function runs in one
        transaction on each. A statement is sent to none unless every shard has given a connection. With `atomic` it is
        one transaction over all of them, on all or on none (`UnsupportedQuery` where they cannot commit as one).

        Waits for all; raises `ScatterError` with every shard's failure, and the results of the others, when any failed.
        With `partial`, shards that cannot be reached, are busy or do not answer in time are in the result's `missing`
        instead, with their errors, as long as one has answered. `timeout` seconds (default: the topology's) covers
        everything.
        """
        with self._fleet.calls.begin("scatter", query) as record:
            deadline = self._fleet.deadline(timeout)
            shards, keys = None if shards is None else [*shards], None if keys is None else [*keys]
            if keys is not None:
                await redirects.until_caught_up(self._fleet, deadline)
            if atomic:
                names = self._routes.shards(shards, keys, keyspace, table)
                if partial:
                    raise UnsupportedQuery("a call that is atomic cannot be partial", hint="Leave out one of the two.")
                async with self._transaction(None, deadline, None, readonly) as tx:
                    await tx.connections(names)
                    return _answered(
                        record,
                        await tx.scatter(query, params, shards=names, binary=binary, row_factory=row_factory),
                    )
            missing: dict[str, BaseException] | None = {} if partial else None
            call = Call(
                query, params, deadline, readonly=readonly, binary=binary, row_factory=row_factory, missing=missing
            )
            routes = self._routes
            by_shard = await scattered.execute(
                self._fleet, self._plans, call, lambda: routes.shards(shards, keys, keyspace, table)
            )
            return _answered(record, by_shard)

    async def map(
        self,
        operation: Callable[[AsyncConnection[Any], Any], Awaitable[Any]],
        items: Iterable[Any],
        *,
        key: Callable[[Any], Any],
        keyspace: str | None = None,
        table: str | None = None,
        per: batch.Per = "item",
        concurrency: int = 4,
        timeout: float | None = None,
        readonly: bool = False,
        progress: Callable[[int], None] | None = None,
    ) -> list[Any]:
        """Call `operation(conn, item)` for each item on the shard of `key(item)`; results in the order of the items.

        With `per="item"` each item is a transaction of its own, at most `concurrency` at once on each shard, repeated
        on a serialization failure or a deadlock. With `per="shard"` all items of a shard are one transaction, one after
        another: when one fails, all of that shard are rolled back and count as failed. With `per="all"` all items are
        one transaction over all their shards, side by side on the shards: when one fails, all are rolled back.

        All items are tried. Raises `BatchError` with every failed item, its error and its shard, and the results of
        the others. Each item is bounded by the topology's timeout; `timeout` seconds (default: none) bounds them all.
        `progress` is called with the number of items that a step has finished.
        """
        with self._fleet.calls.begin("map"):
            return await batch.run(
                self._fleet,
                self._routes,
                operation,
                list(items),
                key=key,
                keyspace=keyspace,
                table=table,
                per=per,
                concurrency=concurrency,
                until=None if timeout is None else self._fleet.deadline(timeout),
                readonly=readonly,
                progress=progress,
                together=partial(self._run_until, readonly=readonly),
            )

    async def executemany(
        self,
        query: Any,
        params_seq: Iterable[Params],
        *,
        key: Callable[[Any], Any],
        keyspace: str | None = None,
        table: str | None = None,
        atomic: bool = False,
        timeout: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> int:
        """Run one statement with each of the parameters, on the shard of `key(params)`: how many rows it affected.

        As psycopg's `executemany`, by pipeline: those of a shard are sent in their order before an answer is waited
        for, as one transaction, all shards at once. `keyspace` or `table` says which key it is. What a statement
        returns is not kept.

        When one fails, all of its shard are rolled back and count as failed; with `atomic` it is one transaction over
        all shards, and all are rolled back. Raises `BatchError` with each that failed, its error and its shard; its
        `results` are the numbers of rows that the others affected. Each is given the topology's timeout; `timeout`
        seconds (default: none) bounds them all. `progress` is called with numbers of parameters whose shard is done.
        """
        with self._fleet.calls.begin("executemany", query):
            counts = await batch.run(
                self._fleet,
                self._routes,
                None,
                list(params_seq),
                query=query,
                key=key,
                keyspace=keyspace,
                table=table,
                per="all" if atomic else "shard",
                until=None if timeout is None else self._fleet.deadline(timeout),
                progress=progress,
                together=partial(self._run_until, readonly=False),
            )
        return sum(counts)

    async def copy_into(
        self,
        table: str,
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        *,
        columns: Sequence[str],
        binary: bool | None = None,
        timeout: float | None = None,
        progress: Callable[[int], None] | None = None,
        atomic: bool = False,
    ) -> dict[str, int]:
        """COPY rows into a table, each to the shard of its key, all shards at once: {shard: rows copied}.

        A row is a sequence as long as `columns`, which must hold the key columns. Rows of a reference table go to
        every shard. `rows` is read as fast as the slowest shard takes its share, and never held. Binary COPY is used
        when every column's type has one and the Python types of the first 128 rows fit them exactly, unless `binary`
        says. A table where a trigger may change the key of a row is refused (`UnsupportedQuery`).

        One transaction per shard, committed when all rows are on all shards. When anything fails before that, nothing
        is loaded anywhere; when a COMMIT fails, `LoadError` says which shards hold their rows, which do not, and which
        did not answer. With `atomic` it is one transaction over all shards, on all or on none (`UnsupportedQuery` where
        they cannot commit as one, and `CommitUnknown` when the decision is not known). It also tells the record
        (1-based) whose key or value was bad. `timeout` seconds (default: none) bounds the whole; no shard may stall
        longer than 60 s. `progress` is called with numbers of rows.
        """
        with self._fleet.calls.begin("copy_into", table) as record:
            counts = await copy.copy_into(
                self._fleet,
                self._planner,
                table,
                rows,
                columns=columns,
                binary=binary,
                until=None if timeout is None else self._fleet.deadline(timeout),
                progress=progress,
                atomic=atomic,
            )
            return _answered(record, counts)

    # -- transactions --------------------------------------------------------------------------------------------

    def transaction(
        self,
        *,
        timeout: float | None = None,
        block_timeout: float | None = None,
        isolation: Isolation | None = None,
        readonly: bool = False,
        deadline: float | None = None,
    ) -> AsyncFleetTransaction:
        """A block that is one transaction over all the shards that its statements come to: all of it or nothing.

        `with router.transaction() as tx: tx.execute(…)`. A shard joins with its first statement; no connection is taken
        before. While one shard has all that is written it costs what a transaction of that shard does; when several
        have, they commit in two phases, which takes prepared transactions on each (`UnsupportedQuery` where one has
        none, at the first statement that would need them). It ends with COMMIT, or with an error by ROLLBACK.

        `timeout` seconds bound each statement, with the wait for its connections (default: the topology's),
        `block_timeout` seconds the whole block (default: none; `deadline` is its older name). `isolation` is
        `"read committed"`, `"repeatable read"` (one snapshot on each shard) or `"serializable"` (one shard only);
        default: the servers'. With `readonly` statements that write are refused.

        Raises psycopg's errors as one shard gives them; `CommitUnknown`, with `transaction_id` where several shards had
        written, when the answer to the COMMIT was lost: see `transaction_state`.
        """
        return self._transaction(timeout, block_deadline(block_timeout, deadline), isolation, readonly)

    def snapshot(
        self,
        *,
        cut: SnapshotCut = "atomic",
        timeout: float | None = None,
        block_timeout: float | None = None,
        deadline: float | None = None,
    ) -> AsyncFleetTransaction:
        """A block that only reads, by one cut over all shards: no transaction over several of them is half seen.

        `with router.snapshot() as snap: snap.execute(…)`. While it opens, transactions over several shards wait with
        their COMMIT, two seconds at most; those of one shard do not. Of two that are of one shard each it may see the
        later one without the earlier one. With `cut="strict"` it sees all shards as they were at one instant, so that
        it sees whatever was acknowledged before something that it sees: it opens another connection to each for that,
        and where much is written all writers of the fleet's tables wait for some 50 ms each time that it tries.
        It holds a connection of each primary, and keeps vacuum from what it sees: `block_timeout` seconds bound it,
        `timeout` seconds its opening and each statement, as for `transaction`. Raises `DeadlineExceeded` when it could
        not be opened in that time.
        """
        until = block_deadline(block_timeout, deadline)
        return self._transaction(timeout, until, "repeatable read", readonly=True, cut=cut)

    def _transaction(
        self,
        timeout: float | None,
        until: Deadline | None,
        isolation: Isolation | None,
        readonly: bool,
        *,
        cut: SnapshotCut | None = None,
    ) -> AsyncFleetTransaction:
        return transaction.AsyncFleetTransaction(
            self._fleet,
            self._routes,
            self._planner,
            timeout=timeout,
            until=until,
            isolation=isolation,
            readonly=readonly,
            fanout=self._fanout,
            load=copy.copy_into,
            cut=cut,
        )

    async def run(
        self,
        function: Callable[[AsyncFleetTransaction], Awaitable[T]],
        *,
        timeout: float | None = None,
        isolation: Isolation | None = None,
        readonly: bool = False,
    ) -> T:
        """Call `function(tx)` in one `transaction()` and give what it returns.

        On a serialization failure or a deadlock (40001, 40P01), and when keys have just gone to another shard (RS001,
        `OtherMap`), it is rolled back and the function called again, until `timeout` seconds (default: the topology's)
        are over: it must have no effect but by the transaction. After `CommitUnknown` nothing is repeated.
        """
        until = self._fleet.deadline(timeout)
        return await self._run_until(function, until, timeout=timeout, isolation=isolation, readonly=readonly)

    async def _run_until(
        self,
        function: Callable[[AsyncFleetTransaction], Awaitable[T]],
        until: Deadline,
        *,
        readonly: bool,
        timeout: float | None = None,
        isolation: Isolation | None = None,
    ) -> T:
        async def once() -> T:
            async with self._transaction(timeout, until, isolation, readonly) as tx:
                return await function(tx)

        return await repeated(self._fleet, once, until)

    async def transaction_state(self, transaction_id: str, *, timeout: float | None = None) -> TransactionState:
        """What has become of a transaction over several shards: `"committed"`, `"aborted"` or `"running"`.

        `transaction_id` is that of a `CommitUnknown`, or a transaction's own. Asks its home shard, within `timeout`
        seconds (default: the topology's); an answer of `"aborted"` is final. Raises `RoutingError` for what is no such
        id of this fleet, and `TransactionForgotten` when it is so old that its record may have been dropped.
        """
        return await two_phase.state(self._fleet, transaction_id, timeout)

    async def in_doubt(self, *, timeout: float = 30.0) -> Transactions:
        """The transactions over several shards of which a part is still prepared, the oldest first.

        Those that are just being committed are among them. Shards that cannot be asked are in the list's `missing`.
        """
        self._fleet.check_usable()
        return await self._fleet.recovery.listed(self._fleet.deadline(timeout))

    async def recover(self, transaction_id: str | None = None, *, timeout: float = 30.0) -> Transactions:
        """End what was left prepared by routers that are gone: commit what is decided, roll back what never will be.

        Every router does so by itself, in the background. Gives what `in_doubt` does, with `ended` where something
        was done; with `transaction_id` only that one is ended. What still goes on is left alone.
        """
        self._fleet.check_usable()
        return await self._fleet.recovery.recover(self._fleet.deadline(timeout), transaction_id)

    # -- the fleet -----------------------------------------------------------------------------------------------

    async def init(self, *, timeout: float = 30.0) -> dict[str, str]:
        """Install or update the `shardpool` schema on every shard: {shard: what was done}. Idempotent.

        Refuses (`ScatterError`) a server that carries the identity of another shard or fleet, another hash contract,
        a newer epoch, or rows of buckets that the topology gives to another shard.
        """
        return await install.init(self._fleet, timeout)

    async def check(self, *, rows: bool = True, timeout: float = 30.0, processes: int = 1) -> Report:
        """Compare the fleet with the topology: endpoints, identity, tables, keys and, with `rows`, every row's place.

        `processes` is the number of processes, over all machines, that use this topology at the same time: their pools
        together have to fit into what each server gives, which `report.servers` tells.

        Reads only. Never raises for what it finds: see the report's findings.
        """
        return await check.check(self._fleet, rows, timeout, processes)

    @property
    def migrations(self) -> AsyncMigrations:
        """The schema of the whole fleet: its migrations, what is applied where, and where the shards differ."""
        made: AsyncMigrations = import_module("shardpool.schema").AsyncMigrations(self._fleet, self.execute)
        return made

    @property
    def moves(self) -> AsyncMoves:
        """Rows on their way to other shards: begun, watched, taken back. Needs the topology file: `RouterMisuse`."""
        made: AsyncMoves = import_module("shardpool.reshard").AsyncMoves(self._fleet.path)
        return made

    def stats(self) -> dict[str, Any]:
        """Counters of every pool by shard and endpoint, with the fleet and its epoch. JSON-ready, without secrets.

        Each field is described in docs/reference/stats.md.
        """
        return self._fleet.stats()

    def __repr__(self) -> str:
        topology = self._fleet.topology
        return f"<{type(self).__name__} {topology.fleet} epoch {topology.epoch}, {len(topology.shards)} shards>"


def _answered(record: CallRecord | None, answer: T) -> T:
    """The answer, which says exactly which shards were asked for it."""
    if record is not None and isinstance(answer, Result):
        record.shards = set(answer.shards)
        record.strategy = answer.plan.strategy if answer.plan is not None else "one"
    elif record is not None and isinstance(answer, Mapping):
        record.shards = set(answer)
    return answer
