"""The router: keys to routes, and every verb that touches more than one shard."""

from __future__ import annotations

import functools
import os
import threading
import weakref
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from importlib import import_module
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import RowFactory

from .. import config
from .._budget import Budget
from .._concurrency import AsyncHome, async_run_all
from .._meter import Meters, skew
from .._outdated import Outdated
from .._session import RAW, RAW_HINT, is_raw
from .._watchdog import AsyncWatchdog
from ..errors import RouterMisuse, RoutingError, ScatterError, StaleTopology, check_choice
from ..events import Log, Observer, Observers, Reloaded
from ..partitioning import Range
from ..query.bound import Bound, Fanout, Strategy, check_options
from ..query.counts import Counts
from ..report import Report
from ..result import ByShard, Result
from ..topology import Topology, placements_differ, succeed
from . import batch, check, confirming, copying, dispatch, gather, install, moving, planning, streaming, waiting
from .connector import AsyncConnectOptions
from .lease import Params
from .planning import Knowledge
from .reloading import AsyncReloader, look
from .route import AsyncRoute, AsyncShardHandle
from .state import AsyncState, open_pools, retired_pools

if TYPE_CHECKING:
    from ..schema import AsyncMigrations

# Pools of a parent process, kept in its forked children so that nobody closes the parent's connections.
_inherited: list[Any] = []
_routers: weakref.WeakSet[AsyncRouter] = weakref.WeakSet()


class AsyncRouter:
    """A fleet of PostgreSQL servers as one sharded database.

    `topology` is the path of a topology file or a `Topology`. Making a router does no I/O but reading the file; pools
    are opened when a shard is first used, between `open()` and `close()`, or in a `with` block.

    `kwargs` go to every `psycopg` connection (`row_factory`, `autocommit`, `prepare_threshold`, …), `configure` is
    called with each new one, `connection_class` makes them.

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
        self._path = None if isinstance(topology, Topology) else os.fspath(topology)
        seen = look(self._path) if self._path is not None else ()
        loaded = topology if isinstance(topology, Topology) else config.load_topology(topology)
        self._loaded = loaded
        self._meters = Meters()
        self._outdated = Outdated()
        self._observers = Observers([self._meters, self._outdated, Log(), *observers])
        self._options = AsyncConnectOptions(
            connection_class, configure, dict(kwargs or {}), self._observers, max_held, self._meters, passwords
        )
        self._watchdog = AsyncWatchdog()
        self._home: AsyncHome | None = None
        self._closed = False
        self._state = AsyncState(self, loaded, open_pools(loaded, self._options, self._watchdog))
        self._swapping = threading.Lock()
        self._turn = 0
        self._knowledge = Knowledge()
        self._retries = Budget(0.1)
        self._counts = Counts()
        self._fanout: Fanout = fanout
        self.max_pull_rows = max_pull_rows
        self.max_pull_bytes = max_pull_bytes
        self.max_result_bytes = max_result_bytes
        self._reloader: AsyncReloader | None = None
        if self._path is not None and reload_interval is not None:
            self._reloader = AsyncReloader(self, self._path, reload_interval, seen)
            self._observers.add(self._reloader)
        _routers.add(self)

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the router usable, here; no connection is made yet. Opening an open router does nothing."""
        if self._closed:
            raise RouterMisuse("this router is closed", hint="Make a new one: a closed router is not opened again.")
        if self._home is None:
            self._home = AsyncHome()
            if self._reloader is not None:
                self._reloader.start()

    async def close(self, timeout: float = 5.0) -> None:
        """Close every pool, all at once, waiting at most `timeout` seconds for work in the background to end.

        Connections that are in use are closed when they are given back.
        """
        self._closed = True
        for shard in self._state.pools.values():
            shard.replaced = True
        if self._reloader is not None:
            await self._reloader.stop(timeout)
        pools = [pool for shard in self._state.pools.values() for pool in shard.endpoints]
        await async_run_all([functools.partial(pool.close, timeout) for pool in pools])
        self._knowledge.joint.stop()
        self._watchdog.close()

    async def __aenter__(self) -> AsyncRouter:
        await self.open()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def wait(self, timeout: float = 30.0) -> None:
        """Return when every endpoint has given a checked connection; else a `ScatterError` that names the missing."""
        await waiting.wait(self, timeout)

    def _check_usable(self) -> None:
        home = self._home
        if home is None or self._closed or not home.is_here():
            raise self._misuse()

    def _misuse(self) -> RouterMisuse:
        if self._closed:
            return RouterMisuse("this router is closed", hint="Make a new one: a closed router is not opened again.")
        if self._home is None:
            return RouterMisuse(
                "this router is not open", hint="Use it in a `with` block, or call open() first and close() at the end."
            )
        return RouterMisuse(
            "this router was opened on another event loop",
            detail="Its connections wait for their answers there.",
            hint="Open one router per event loop.",
        )

    def _deadline(self, timeout: float | None) -> float:
        """When a call that begins now must have ended, in monotonic seconds."""
        return monotonic() + (self._state.topology.timeout if timeout is None else timeout)

    # -- topology ------------------------------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        """The topology of this moment."""
        return self._state.topology

    @property
    def shards(self) -> tuple[str, ...]:
        """The names of all shards, in the order of the topology."""
        return tuple(self._state.topology.shards)

    async def reload(self, topology: Topology | None = None) -> Topology:
        """Swap in a new topology, given or read again from the file, between two calls; gives what now holds.

        Calls that run are not touched: they end on the pools that they began on. A bad file (`ConfigError`), another
        fleet, an older epoch or the same epoch with other contents (`StaleTopology`) changes nothing.

        Where keys change their shard, one shard is asked first, for a second at most, then others, for three: one that
        has other owners refuses the topology (`OtherMap`). When none answers it is put in force, and every connection
        is made anew, so that no shard is used that has not confirmed it.
        """
        if topology is None and self._path is not None:
            topology = config.load_topology(self._path)
        elif topology is None:
            raise RouterMisuse("this router was made from a Topology, not from a file", hint="Pass the new topology.")
        check_successor(topology, self._state.topology)
        unconfirmed = confirming.is_new(topology, self._state.topology) and not await confirming.is_confirmed(
            self, topology
        )
        # Of two reloads at the same time the later one sees what the earlier one has set.
        with self._swapping:
            old = self._state
            check_successor(topology, old.topology)
            self._loaded = topology
            topology = succeed(topology, old.topology)
            pools = open_pools(topology, self._options, self._watchdog, old.pools)
            self._state = AsyncState(self, topology, pools)
            for shard in old.pools.values():
                shard.replaced = True
        kept = [pool for shard in pools.values() for pool in shard.endpoints]
        if unconfirmed:
            for pool in kept:
                pool.discard()
        await async_run_all([pool.resize for pool in kept])
        await async_run_all([pool.close for pool in retired_pools(old.pools, pools)])
        self._observers.observe(Reloaded(before=old.topology.epoch, epoch=topology.epoch))
        return topology

    # -- keys ----------------------------------------------------------------------------------------------------

    def for_key(self, key: Any, *, keyspace: str | None = None, table: str | None = None) -> AsyncRoute:
        """The route of a partition key; no I/O. A composite key is a tuple.

        With several keyspaces one of them, or one of their tables, has to be named (`MissingKey`). Raises `InvalidKey`
        for NULL or a value that is not of the key's type, `KeyNotCovered` for one that no range or list entry owns.
        """
        if keyspace is None and table is None:
            return self._state.lookup(key)
        return self._state.lookup_named(keyspace, table)(key)

    def for_keys(
        self, keys: Iterable[Any], *, keyspace: str | None = None, table: str | None = None
    ) -> dict[str, list[Any]]:
        """The keys by the name of the shard that owns them, shards and keys in the order in which they come."""
        lookup = self._state.lookup_named(keyspace, table)
        keys_by_shard: dict[str, list[Any]] = {}
        for key in keys:
            keys_by_shard.setdefault(lookup(key).shard, []).append(key)
        return keys_by_shard

    def for_range(
        self, low: Any = None, high: Any = None, *, keyspace: str | None = None, table: str | None = None
    ) -> list[AsyncRoute]:
        """The routes that hold the keys from `low` (included) to `high` (not included), in the order of the keys.

        None is no bound. Only for range keyspaces (`RoutingError`).
        """
        state = self._state
        found = state.topology.keyspace(keyspace, table=table)
        if not isinstance(found.partitioning, Range):
            raise RoutingError(
                f"keyspace {found.name} is not divided by range",
                hint="Use for_keys() for single keys, or scatter() to ask every shard.",
            )
        routes = state.routes[found.name]
        return [routes[bucket] for bucket in found.partitioning.buckets_between(low, high)]

    def shard(self, name: str) -> AsyncShardHandle:
        """A shard by name, with the verbs of a route; raises `UnknownShard` with the nearest names."""
        self._state.topology.shard(name)
        return AsyncShardHandle(self, name)

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
        A write on several shards is one transaction on each, begun on all and committed when all have done their part;
        with `atomic` it is refused. `strategy="pull"` answers a SELECT the slow way that everything else is tested by.
        With `partial` shards that cannot be reached, are busy or do not answer in time are left out of a SELECT on
        several: the result's `missing` says which, and why.

        psycopg's errors pass through; when shards fail, `ScatterError`. See `AsyncHandle.execute` for the rest.
        """
        if fanout is not None or strategy is not None:
            check_options(fanout, strategy)
        if key is not None:
            deadline = self._deadline(timeout)
            options: dict[str, Any] = {"readonly": readonly, "binary": binary, "row_factory": row_factory}
            while True:
                state = self._state
                route = self.for_key(key, keyspace=keyspace, table=table)
                try:
                    try:
                        return await route._execute_until(query, params, deadline, **options)
                    except psycopg.DatabaseError as error:
                        return await route._execute_elsewhere(error, query, params, deadline, **options)
                except StaleTopology as error:
                    # Its bucket was divided since the look-up.
                    if not await moving.is_worth_again(self, state, error, deadline):
                        raise
        self._check_usable()
        missing: dict[str, BaseException] | None = {} if partial else None
        result = await dispatch.execute(
            self,
            query,
            params,
            self._deadline(timeout),
            readonly=readonly,
            binary=binary,
            row_factory=row_factory,
            fanout=fanout or self._fanout,
            strategy=strategy,
            atomic=atomic,
            missing=missing,
        )
        if missing:
            result.missing = missing
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
        self._check_usable()
        check_options(fanout, strategy)
        return streaming.stream(
            self,
            query,
            params,
            size=size,
            timeout=timeout,
            readonly=readonly,
            binary=binary,
            row_factory=row_factory,
            fanout=fanout or self._fanout,
            strategy=strategy,
        )

    async def explain(
        self,
        query: Any,
        params: Params | None = None,
        *,
        timeout: float | None = None,
        strategy: Strategy | None = None,
    ) -> Bound:
        """How `execute` would run a statement, without running it: print it, or see `describe()` and `as_dict()`.

        Asks a shard for its catalog when that is not known yet. Raises what `execute` would refuse.
        """
        self._check_usable()
        check_options(None, strategy)
        deadline = self._deadline(timeout)
        found = await planning.planned(self, query, params, deadline, strategy)
        return await planning.bound(self, found, params, deadline, strategy)

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
        partial: bool = False,
    ) -> ByShard:
        """Run the same statement, or `query(conn)` when it is a function, on many shards at once: {shard: result}.

        The shards are all, those named, or those that own one of the `keys`. A statement runs in autocommit on each,
        with no transaction over them: what one shard has done is not undone when another fails. A function runs in one
        transaction on each. A statement is sent to none unless every shard has given a connection.

        Waits for all; raises `ScatterError` with every shard's failure, and the results of the others, when any failed.
        With `partial`, shards that cannot be reached, are busy or do not answer in time are in the result's `missing`
        instead, with their errors, as long as one has answered. `timeout` seconds (default: the topology's) covers
        everything.
        """
        deadline = self._deadline(timeout)
        shards, keys = None if shards is None else [*shards], None if keys is None else [*keys]
        missing: dict[str, BaseException] | None = {} if partial else None
        while True:
            topology = self._state.topology
            names = gather.targets(self, shards, keys, keyspace, table)
            if callable(query):
                called = await gather.call(self, names, query, deadline, readonly=readonly, missing=missing)
                return ByShard(called, missing)
            try:
                results = await gather.execute(
                    self,
                    names,
                    query,
                    params,
                    deadline,
                    readonly=readonly,
                    binary=binary,
                    row_factory=row_factory,
                    topology=topology,
                    missing=missing,
                )
            except gather.Moved:
                continue
            except ScatterError:
                planning.forget_catalog(self)  # some shards may have done what others have not
                raise
            if any(planning.is_ddl(result._pgresult.command_status) for result in results.values()):
                planning.forget_catalog(self)
            return ByShard(results, missing)

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
        another: when one fails, all of that shard are rolled back and count as failed.

        All items are tried. Raises `BatchError` with every failed item, its error and its shard, and the results of
        the others. Each item is bounded by the topology's timeout; `timeout` seconds (default: none) bounds them all.
        `progress` is called with the number of items that a step has finished.
        """
        return await batch.run(
            self,
            operation,
            list(items),
            key=key,
            keyspace=keyspace,
            table=table,
            per=per,
            concurrency=concurrency,
            until=None if timeout is None else self._deadline(timeout),
            readonly=readonly,
            progress=progress,
        )

    async def copy_into(
        self,
        table: str,
        rows: Iterable[Sequence[Any]] | AsyncIterable[Sequence[Any]],
        *,
        columns: Sequence[str],
        binary: bool | None = None,
        timeout: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, int]:
        """COPY rows into a table, each to the shard of its key, all shards at once: {shard: rows copied}.

        A row is a sequence as long as `columns`, which must hold the key columns. Rows of a reference table go to
        every shard. `rows` is read as fast as the slowest shard takes its share, and never held. Binary COPY is used
        when every column's type has one and the Python types of the first 128 rows fit them exactly, unless `binary`
        says. A table where a trigger may change the key of a row is refused (`UnsupportedQuery`).

        One transaction per shard, committed when all rows are on all shards. When anything fails before that, nothing
        is loaded anywhere; when a COMMIT fails, `LoadError` says which shards hold their rows, which do not, and which
        did not answer. It also tells the record (1-based) whose key or value was bad. `timeout` seconds (default:
        none) bounds the whole; no shard may stall longer than 60 s. `progress` is called with numbers of rows.
        """
        return await copying.copy_into(
            self,
            table,
            rows,
            columns=columns,
            binary=binary,
            until=None if timeout is None else self._deadline(timeout),
            progress=progress,
        )

    # -- the fleet -----------------------------------------------------------------------------------------------

    async def init(self, *, timeout: float = 30.0) -> dict[str, str]:
        """Install or update the `shardpool` schema on every shard: {shard: what was done}. Idempotent.

        Refuses (`ScatterError`) a server that carries the identity of another shard or fleet, another hash contract,
        a newer epoch, or rows of buckets that the topology gives to another shard.
        """
        return await install.init(self, timeout)

    async def check(self, *, rows: bool = True, timeout: float = 30.0, processes: int = 1) -> Report:
        """Compare the fleet with the topology: endpoints, identity, tables, keys and, with `rows`, every row's place.

        `processes` is the number of processes, over all machines, that use this topology at the same time: their pools
        together have to fit into what each server gives, which `report.servers` tells.

        Reads only. Never raises for what it finds: see the report's findings.
        """
        return await check.check(self, rows, timeout, processes)

    @property
    def migrations(self) -> AsyncMigrations:
        """The schema of the whole fleet: its migrations, what is applied where, and where the shards differ."""
        made: AsyncMigrations = import_module("shardpool.schema").AsyncMigrations(self)
        return made

    def stats(self) -> dict[str, Any]:
        """Counters of every pool by shard and endpoint, with the fleet and its epoch. JSON-ready, without secrets.

        Each field is described in docs/reference/stats.md.
        """
        state = self._state
        shards = {name: pools.stats() for name, pools in state.pools.items()}
        return {
            "fleet": state.topology.fleet,
            "epoch": state.topology.epoch,
            "newest_epoch_seen": max(
                (pool.seen_epoch for shard in state.pools.values() for pool in shard.endpoints), default=0
            ),
            "reload": self._reloader.stats() if self._reloader is not None else None,
            "statements": self._counts.as_dict(),
            **self._meters.stats(state.pools),
            "skew": skew(sum(endpoint["calls"] for endpoint in shard.values()) for shard in shards.values()),
            "shards": shards,
        }

    def __repr__(self) -> str:
        topology = self._state.topology
        return f"<{type(self).__name__} {topology.fleet} epoch {topology.epoch}, {len(topology.shards)} shards>"


def check_successor(new: Topology, old: Topology) -> None:
    """Raise `StaleTopology` unless `new` may follow `old` in a running router."""
    if new.fleet != old.fleet:
        raise StaleTopology(
            f"the new topology is of fleet {new.fleet}, this router serves {old.fleet}",
            hint="Make another router for another fleet.",
        )
    if new.epoch < old.epoch:
        raise StaleTopology(
            f"the new topology has epoch {new.epoch}, this router is at {old.epoch}",
            hint="A router never goes back: give the change an epoch above the current one.",
        )
    if new.epoch == old.epoch and placements_differ(new, old):
        raise StaleTopology(
            f"the new topology places keys or tables otherwise, but has the same epoch {new.epoch}",
            hint="Raise the epoch with every change.",
        )


def _start_afresh() -> None:
    """In a forked child: routers of threads begin anew with no connections; those of an event loop stay behind.

    The parent's sockets are shared with the child: using one would mix the two processes' messages, and closing one
    politely would end the parent's session. So they are neither used nor closed here.
    """
    for router in list(_routers):
        _inherited.append((router._state, router._watchdog))
        router._watchdog = AsyncWatchdog()
        router._swapping = threading.Lock()
        router._meters.reset()
        router._knowledge.start_afresh()
        for shard in router._state.pools.values():
            _inherited.extend(pool.start_afresh(router._watchdog) for pool in shard.endpoints)
            shard.start_afresh()
        if router._reloader is not None:
            router._reloader.start_afresh()


os.register_at_fork(after_in_child=_start_afresh)
