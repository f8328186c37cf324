# Generated from _async/sql/transaction.py by tools/unasync.py: edit that one, then run `make sync`.
"""`router.transaction()`: SQL and connections within one transaction over the shards that it comes to."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from math import inf
from types import TracebackType
from typing import TYPE_CHECKING, Any, get_args

import psycopg
from psycopg import Connection
from psycopg.rows import RowFactory

from ..._call import Call, Params
from ..._runtime.deadlines import NEVER, Deadline
from ..._runtime.drivers import drive
from ..._runtime.tasks import run_all
from ..._wire.request import Request
from ...errors import MissingKey, RouterMisuse, UnsupportedQuery, check_choice
from ...query.choices import Fanout, SnapshotCut, Strategy, check_options
from ...query.text.calls import is_ddl
from ...result import ByShard, Result
from ...topology import Reference
from ..fleet import redirects
from ..work.commit import FAILED
from ..work.cut import Cut
from ..work.instant import Instant
from ..work.outcomes import all_or_raise
from ..work.session import Isolation, Session
from ..work.statements import Statements
from . import alone, entries, streamed
from .within import Within

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet
    from ..plans.planner import Planner
    from ..routes import Routes


_CUTS: dict[SnapshotCut, type[Cut]] = {"atomic": Cut, "strict": Instant}


class FleetTransaction:
    """A transaction over the shards that its statements come to: see `Router.transaction`.

    It is for one caller: its statements come one after another. A statement that a server refuses leaves it failed, as
    in PostgreSQL: all that can be done then is to end it, or to go back to a savepoint.
    """

    def __init__(
        self,
        fleet: Fleet,
        routes: Routes,
        planner: Planner,
        *,
        timeout: float | None,
        until: Deadline | None,
        isolation: Isolation | None,
        readonly: bool,
        fanout: Fanout,
        load: Callable[..., dict[str, int]],
        cut: SnapshotCut | None = None,
    ) -> None:
        if cut is not None:
            check_choice("cut", cut, get_args(SnapshotCut))
        if isolation is not None:
            check_choice("isolation", isolation, (None, *get_args(Isolation)))
        self._fleet = fleet
        self._routes = routes
        self._planner = planner
        self._timeout = timeout
        self._readonly = readonly
        self._fanout: Fanout = fanout
        self._load = load
        # A snapshot: on all shards from the beginning, where rows may be brought together, and rolled back in the end.
        self._cut = None if cut is None else _CUTS[cut](fleet, until=until, isolation=isolation, readonly=False)
        self._session = self._cut or Session(fleet, until=until, isolation=isolation, readonly=readonly)
        self._within = Within(fleet, routes, planner, self._session, readonly=readonly)

    # -- statements ----------------------------------------------------------------------------------------------

    def execute(
        self,
        query: Any,
        params: Params | None = None,
        *,
        key: Any = None,
        keyspace: str | None = None,
        table: str | None = None,
        timeout: float | None = None,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
        fanout: Fanout | None = None,
        strategy: Strategy | None = None,
    ) -> Result:
        """Run one statement as `router.execute` does, as part of the transaction, whose own writes it sees.

        Raises `UnsupportedQuery` for a write on a second shard where the shards cannot commit as one, and
        `psycopg.errors.InFailedSqlTransaction` after a statement that has failed. The rest is as `Router.execute`
        has it.
        """
        if fanout is not None or strategy is not None:
            check_options(fanout, strategy)
        self._session.check_usable()
        deadline = self._session.deadline(self._timeout if timeout is None else timeout)
        call = Call(
            query,
            params,
            deadline,
            binary=binary,
            row_factory=row_factory,
            fanout=fanout or self._fanout,
            strategy=strategy,
            within=self._session,
        )
        self._catch_up(deadline)
        if key is not None:
            name = self._routes.of_key(key, keyspace, table).shard
            writes = self._fleet.schema.may_write(query)
            with entries.kept(self._fleet, self._session, deadline, writes=writes):
                return alone.execute(self._session, call, name, query, writes=writes)
        return self._within.executed(call)

    def _catch_up(self, deadline: Deadline) -> None:
        """Hold the first statement of a router that knows itself behind; of a later one its own locks may be why."""
        if self._fleet.newer_maps.told and not self._session.names:
            redirects.until_caught_up(self._fleet, deadline)

    def stream(
        self,
        query: Any,
        params: Params | None = None,
        *,
        size: int = 1000,
        timeout: float | None = None,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
        fanout: Fanout | None = None,
        strategy: Strategy | None = None,
    ) -> Generator[Any, None]:
        """The rows of a SELECT as they come, as `Router.stream` gives them, with what the transaction has written.

        Until its end nothing else can be done in the transaction (`RouterMisuse`). When it is closed before, what it
        has locked is let go.
        """
        check_options(fanout, strategy)
        call = Call(
            query,
            params,
            NEVER,
            binary=binary,
            row_factory=row_factory,
            fanout=fanout or self._fanout,
            strategy=strategy,
            within=self._session,
        )
        return streamed.stream(self._fleet, self._planner, call, size=size, timeout=timeout)

    def copy_into(
        self,
        table: str,
        rows: Iterable[Sequence[Any]],
        *,
        columns: Sequence[str],
        binary: bool | None = None,
        timeout: float | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> dict[str, int]:
        """COPY rows into a table as `Router.copy_into` does, as part of the transaction: {shard: rows copied}.

        Deferred constraints wait for the end of the transaction. While `rows` are read nothing else can be done in it
        (`RouterMisuse`). After a `LoadError` it has failed, as after a statement that a server has refused.
        """
        self._session.check_usable()
        if self._readonly:
            raise UnsupportedQuery("COPY in a transaction that only reads", hint="Begin it without readonly=True.")
        if isinstance(self._fleet.topology.placement(table), Reference):
            self._within.check_fresh("COPY")
        until = self._session.deadline(timeout) if timeout is not None else self._session.until
        return self._load(
            self._fleet,
            self._planner,
            table,
            rows,
            columns=columns,
            binary=binary,
            until=None if until == inf else until,
            progress=progress,
            atomic=True,
            within=self._session,
        )

    def scatter(
        self,
        query: Any,
        params: Params | None = None,
        *,
        shards: Iterable[str] | None = None,
        keys: Iterable[Any] | None = None,
        keyspace: str | None = None,
        table: str | None = None,
        timeout: float | None = None,
        binary: bool = False,
        row_factory: RowFactory[Any] | None = None,
    ) -> ByShard:
        """Run the same statement, or `query(conn)` when it is a function, on many shards at once: {shard: result}.

        The shards are all, those named, or those that own one of the `keys`. Raises `ScatterError` with every shard's
        failure, upon which the transaction has failed.
        """
        deadline = self._session.deadline(self._timeout if timeout is None else timeout)
        self._catch_up(deadline)
        names = self._routes.shards(shards, keys, keyspace, table)
        if callable(query):
            return ByShard(self._called(names, query, deadline), None)
        writes = self._fleet.schema.may_write(query)
        with entries.kept(self._fleet, self._session, deadline, writes=writes):
            return self._scattered(names, query, params, deadline, binary, row_factory, writes=writes)

    def _scattered(
        self,
        names: Sequence[str],
        query: Any,
        params: Params | None,
        deadline: Deadline,
        binary: bool,
        row_factory: RowFactory[Any] | None,
        *,
        writes: bool,
    ) -> ByShard:
        joined = self._session.join(names, deadline)
        if writes:
            self._session.will_write(names)
        statements = Statements(query, params, binary)
        requests: list[Request] = [joined.request(name, statements.on(conn)) for name, conn in joined.conns.items()]
        drive(((request.pgconn.socket, request.step()) for request in requests), deadline)
        joined.close_busy()
        failures = joined.failures(requests, may_be_applied=False)
        results = {
            request.shard: Result(request.pgresult, request.conn, (request.shard,), row_factory)
            for request in requests
            if request.error is None
        }
        if failures:
            self._session.fail()
        if any(is_ddl(request.pgresult.command_status) for request in requests if request.error is None):
            self._session.changes_schema = True
        return ByShard(all_or_raise(names, results, failures, None), None)

    def _called(
        self, names: list[str], function: Callable[[Connection[Any]], Any], deadline: Deadline
    ) -> dict[str, Any]:
        self._session.join(names, deadline)
        conns = {name: self._session.lend(name, deadline) for name in names}
        outcomes = run_all([partial(function, conns[name]) for name in names])
        results = {name: value for name, (value, error) in zip(names, outcomes, strict=True) if error is None}
        failures = {name: error for name, (_, error) in zip(names, outcomes, strict=True) if error is not None}
        if failures:
            self._session.fail()
        return all_or_raise(names, results, failures, None)

    def connection(
        self,
        key: Any = None,
        *,
        keyspace: str | None = None,
        table: str | None = None,
        shard: str | None = None,
        timeout: float | None = None,
    ) -> Connection[Any]:
        """The psycopg connection of the shard of `key`, or of the one named, for statements of your own within it.

        It is lent for the time of the transaction: `commit()` and `rollback()` on it are errors.
        """
        if (key is None) == (shard is None):
            raise MissingKey("a connection of a transaction needs either a key or a shard", hint="Give key or shard=….")
        deadline = self._session.deadline(self._timeout if timeout is None else timeout)
        if shard is None:
            self._catch_up(deadline)
            shard = self._routes.of_key(key, keyspace, table).shard
        self._fleet.topology.shard(shard)
        return self._session.lend(shard, deadline)

    def connections(self, names: Sequence[str]) -> dict[str, Connection[Any]]:
        """The psycopg connections of these shards, which have to be able to commit as one (`UnsupportedQuery`)."""
        deadline = self._session.deadline(self._timeout)
        self._session.join(names, deadline)
        self._session.check_atomic(names)
        return {name: self._session.lend(name, deadline) for name in names}

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """A block that is undone by itself when it ends with an error, on all shards; the transaction goes on then."""
        name = self._session.savepoint()
        try:
            yield
            if self._session.is_failed:
                raise psycopg.errors.InFailedSqlTransaction(FAILED)
        except BaseException:
            self._session.roll_back_to(name)
            raise
        self._session.release(name)

    @property
    def id(self) -> str | None:
        """The id under which it commits over several shards; None until then, and when one shard has all its writes."""
        return None if self._session.id is None else str(self._session.id)

    @property
    def shards(self) -> tuple[str, ...]:
        """The names of the shards that it has come to, in that order."""
        return tuple(self._session.names)

    # -- the block -----------------------------------------------------------------------------------------------

    def __enter__(self) -> FleetTransaction:
        self._fleet.check_usable()
        if self._session.is_over or self._session.names:
            raise RouterMisuse("a transaction is begun once", hint="Begin another one: router.transaction().")
        if self._cut is not None:
            try:
                self._cut.open_together(self._session.deadline(self._timeout))
            except BaseException:
                self._session.end()
                raise
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if exc is None and self._cut is None:
                entries.settle_lent(self._fleet, self._session)
                self._session.commit()
        finally:
            self._session.end()
            if self._session.changes_schema:
                self._fleet.schema.changed()
        if exc is not None and (meant := self._session.waiting.meant(exc)) is not exc:
            # On a connection that was lent.
            raise meant from exc
