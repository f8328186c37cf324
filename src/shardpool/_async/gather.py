"""Scatter: one statement or one function on many shards at once, and every shard's outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection, sql
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Format, TransactionStatus
from psycopg.rows import RowFactory

from .._concurrency import Step, async_drive, async_run_all, async_sleep
from .._leg import Leg, Statement
from ..errors import DeadlineExceeded, ScatterError, ShardError, StaleTopology, UnsupportedQuery
from ..query.placeholders import Converted, convert
from ..result import Result
from .lease import Params, explain, is_lost
from .pools import AsyncEndpointPool, Retired, give_all

if TYPE_CHECKING:
    from .router import AsyncRouter

# Types below have the same oid on every server; those of enums, composites and extensions differ.
_FIRST_NORMAL_OID = 16384

Taken = dict[str, tuple[AsyncEndpointPool, AsyncConnection[Any]]]


def targets(
    router: AsyncRouter,
    shards: Iterable[str] | None,
    keys: Iterable[Any] | None,
    keyspace: str | None,
    table: str | None,
) -> list[str]:
    """The names of the shards to ask, in the order of the topology: two scatters always take them in the same order."""
    topology = router.topology
    if shards is not None:
        wanted = set(shards)
        for name in wanted:
            topology.shard(name)
    elif keys is not None:
        wanted = set(router.for_keys(keys, keyspace=keyspace, table=table))
    else:
        wanted = set(topology.shards)
    return [name for name in topology.shards if name in wanted]


async def call(
    router: AsyncRouter,
    names: Sequence[str],
    function: Callable[[AsyncConnection[Any]], Awaitable[Any]],
    deadline: float,
    *,
    readonly: bool,
) -> dict[str, Any]:
    """`function(conn)` in one transaction on each shard, side by side."""

    async def one(name: str) -> Any:
        async with router.shard(name)._lease_until(deadline, readonly=readonly) as conn:
            return await function(conn)

    outcomes = await async_run_all([partial(one, name) for name in names])
    results = {name: value for name, (value, error) in zip(names, outcomes, strict=True) if error is None}
    failures = {name: error for name, (_, error) in zip(names, outcomes, strict=True) if error is not None}
    return _all_or_raise(names, results, failures)


async def execute(
    router: AsyncRouter,
    targets: Callable[[], list[str]],
    query: Any,
    params: Params | None,
    deadline: float,
    *,
    readonly: bool,
    binary: bool,
    row_factory: RowFactory[Any] | None,
) -> dict[str, Result]:
    """The same statement on each of the shards that `targets()` names: sent to all before any is read."""
    names, taken = await _take_targets(router, targets, deadline, readonly)
    legs: list[Leg] = []
    results: dict[str, Result] = {}
    try:
        statements = Statements(query, params, binary)
        for name, (pool, conn) in taken.items():
            if not conn.autocommit:
                await conn.set_autocommit(True)
            legs.append(Leg(name, conn, statements.on(conn), overdue(name, pool)))
        steps = ((leg.pgconn.socket, _answer(leg, results, row_factory)) for leg in legs)
        await async_drive(steps, deadline)
    finally:
        # A connection in the middle of an answer is closed: its socket would give the rest to the next caller.
        reusable = {leg.shard for leg in legs if leg.reusable} if legs else set(taken)
        for name, (_, conn) in taken.items():
            if name not in reusable:
                await conn.close()
        await give_all(taken.values())
    failures = failures_of(legs, taken, may_be_applied=True)
    return _all_or_raise(names, {name: results[name] for name in names if name in results}, failures)


async def _take_targets(
    router: AsyncRouter, targets: Callable[[], list[str]], deadline: float, readonly: bool
) -> tuple[list[str], Taken]:
    """`take_all` of the shards that there are, asked anew when a reload has taken one away before all were taken."""
    while True:
        state = router._state
        names = targets()
        try:
            return names, await take_all(router, names, deadline, readonly)
        except StaleTopology:
            if router._state is state:
                raise


def _answer(leg: Leg, results: dict[str, Result], row_factory: RowFactory[Any] | None) -> Step:
    """The leg's step, and its result made at its end: while the other servers still work, it costs no time."""
    yield from leg.step()
    if leg.error is None:
        results[leg.shard] = Result(leg.pgresult, leg.conn, (leg.shard,), row_factory)


async def take_all(router: AsyncRouter, names: Sequence[str], deadline: float, readonly: bool) -> Taken:
    """A connection of each shard, or none.

    The places in the pools are taken one after another in the order of the topology, so that two scatters never hold
    what the other waits for; connections that must be made first are then made side by side.
    """
    while True:
        router._check_usable()
        pools = [await _endpoint(router, name, deadline, readonly) for name in names]
        try:
            return await _take_each(names, pools, deadline)
        except Retired:
            if monotonic() >= deadline:
                raise _nothing_begun(_retired(names, pools)) from None
            await async_sleep(0)


def _retired(names: Sequence[str], pools: Sequence[AsyncEndpointPool]) -> dict[str, BaseException]:
    return {name: pool.overdue("its pool is closed") for name, pool in zip(names, pools, strict=True) if pool.retired}


async def _endpoint(router: AsyncRouter, name: str, deadline: float, readonly: bool) -> AsyncEndpointPool:
    shard = router._state.pools.get(name)
    if shard is None:
        raise StaleTopology(
            f"shard {name} was taken away by a reload",
            detail="The call was made under the topology before it; nothing has been sent.",
            hint="Make the call again.",
        )
    return await shard.readonly(deadline) if readonly else shard.primary


async def _take_each(names: Sequence[str], pools: Sequence[AsyncEndpointPool], deadline: float) -> Taken:
    reserved: list[AsyncEndpointPool] = []
    outcomes: list[tuple[Any, BaseException | None]] = [(None, None)] * len(pools)

    async def connect(number: int) -> None:
        # Written down at once: when the caller is interrupted, what the others have got has to be given back.
        try:
            outcomes[number] = await pools[number].connect(deadline), None
        except Exception as error:
            outcomes[number] = None, error

    try:
        for name, pool in zip(names, pools, strict=True):
            try:
                await pool.reserve(deadline)
            except Exception as error:
                raise _nothing_begun({name: error}) from error
            reserved.append(pool)
        if all(pool.is_warm for pool in pools):
            for number in range(len(pools)):
                await connect(number)
        else:
            await async_run_all([partial(connect, number) for number in range(len(pools))])
        failures = {name: error for name, (_, error) in zip(names, outcomes, strict=True) if error is not None}
        retired = [error for error in failures.values() if isinstance(error, Retired)]
        if retired:
            raise retired[0]
        if failures:
            raise _nothing_begun(failures)
    except BaseException:
        for pool, (conn, _) in zip(reserved, outcomes, strict=False):
            if conn is None:
                pool.release()
        await give_all([(pool, conn) for pool, (conn, _) in zip(reserved, outcomes, strict=False) if conn is not None])
        raise
    return {name: (pool, outcome[0]) for name, pool, outcome in zip(names, pools, outcomes, strict=True)}


def statement_on(conn: AsyncConnection[Any], query: Any, params: Params | None, binary: bool) -> Statement:
    """A statement with its parameters as the connection wants it."""
    return Statements(query, params, binary).on(conn)


class Statements:
    """One statement with its parameters, as each connection wants it."""

    def __init__(self, query: Any, params: Params | None, binary: bool) -> None:
        self._query = query
        self._params = params
        self._result_format = int(Format.BINARY if binary else Format.TEXT)
        self._binary = binary
        self._shared: Statement | None = None

    def on(self, conn: AsyncConnection[Any]) -> Statement:
        """The statement for this connection; dumped once when no parameter's type differs from server to server."""
        if self._shared is not None:
            return self._shared
        text = _text(self._query, conn)
        if self._params is None:
            # Without parameters the simple protocol is used, as psycopg does, unless binary rows are asked for.
            values: list[Any] | None = [] if self._binary else None
            statement = Statement(text, values, result_format=self._result_format)
        else:
            statement = self._dumped(convert(text), conn)
        if not isinstance(self._query, sql.Composable) and all(oid < _FIRST_NORMAL_OID for oid in statement.types):
            self._shared = statement
        return statement

    def _dumped(self, converted: Converted, conn: AsyncConnection[Any]) -> Statement:
        transformer = Transformer(conn)
        assert self._params is not None
        values = transformer.dump_sequence(
            converted.arrange(self._params), [PyFormat(letter) for letter in converted.formats]
        )
        types, formats = transformer.types or (), transformer.formats or ()
        return Statement(converted.text, values, types, formats, self._result_format)


def _text(query: Any, conn: AsyncConnection[Any]) -> bytes:
    match query:
        case bytes():
            return query
        case str():
            return query.encode(conn.info.encoding)
        case sql.Composable():
            return query.as_bytes(conn)
    raise UnsupportedQuery(
        f"a query of type {type(query).__name__} cannot be scattered",
        hint="Pass str, bytes or a psycopg.sql object, with the parameters beside it.",
    )


def overdue(name: str, pool: AsyncEndpointPool, *, reads: bool = False) -> Callable[[], DeadlineExceeded]:
    """Makes the error of a leg whose time is over; what only `reads` has not been applied."""

    def error() -> DeadlineExceeded:
        return DeadlineExceeded(
            f"the deadline passed on shard {name}",
            shard=name,
            endpoint=pool.endpoint.name,
            applied="no" if reads else "unknown",
            hint=None if reads else "Look whether it was applied before you write it again.",
        )

    return error


def is_busy(conn: AsyncConnection[Any]) -> bool:
    """Whether a connection is in the middle of an answer."""
    return conn.pgconn.transaction_status == TransactionStatus.ACTIVE


def failures_of(legs: Sequence[Leg], taken: Taken, *, may_be_applied: bool) -> dict[str, BaseException]:
    """The errors of the legs that failed, by shard, as what they mean."""
    return {leg.shard: _explained(leg, *taken[leg.shard], may_be_applied) for leg in legs if leg.error is not None}


def several(failures: dict[str, BaseException], asked: int) -> BaseException:
    """One error for those of several shards.

    What is wrong with the statement or its data is told as one server would tell it: by psycopg's own error.
    """
    wrong = [error for error in failures.values() if isinstance(error, psycopg.Error) and error.sqlstate]
    if len(wrong) == len(failures) and not any(isinstance(error, ShardError) for error in wrong):
        return wrong[0]
    error = ScatterError(f"{len(failures)} of {asked} shards failed", failures=failures)
    error.__cause__ = next(iter(failures.values()))
    return error


def _explained(leg: Leg, pool: AsyncEndpointPool, conn: AsyncConnection[Any], may_be_applied: bool) -> BaseException:
    if isinstance(leg.error, DeadlineExceeded):
        return leg.error
    lost = is_lost(conn) or not leg.reusable
    error = explain(leg.error, pool, cut=False, lost=lost, phase="query", may_be_applied=may_be_applied)
    assert error is not None
    if error is not leg.error:
        error.__cause__ = leg.error
    return error


def _nothing_begun(failures: dict[str, BaseException]) -> ScatterError:
    return ScatterError(
        f"nothing was begun: {len(failures)} of the shards gave no connection",
        failures=failures,
        hint="Name the shards that are well with shards=[…] to leave the others out.",
    )


def _all_or_raise(names: Sequence[str], results: dict[str, Any], failures: dict[str, BaseException]) -> dict[str, Any]:
    for error in failures.values():
        if not isinstance(error, Exception):
            raise error
    if failures:
        raise ScatterError(
            f"{len(failures)} of {len(names)} shards failed", failures=failures, results=results
        ) from next(iter(failures.values()))
    return results
