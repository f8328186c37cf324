# Generated from _async/gather.py by tools/unasync.py: edit that one, then run `make sync`.
"""Scatter: one statement or one function on many shards at once, and every shard's outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial as bind_arguments
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus
from psycopg.rows import RowFactory

from .. import settings
from .._concurrency import Step, drive, run_all, sleep
from .._intake import INTAKE, Intake, told_of
from .._leg import Leg, Repetition, Statement
from .._session import SESSION
from .._slots import Place
from ..errors import (
    DeadlineExceeded,
    OtherMap,
    ResultTooLarge,
    ScatterError,
    ShardError,
    ShardUnavailable,
    UnsupportedQuery,
    first_line,
)
from ..result import Result
from ..topology import Topology, placements_differ
from . import moving
from .lease import Params, explain, is_lost, unknown
from .planning import Knowledge, Unlike, forget_catalog, may_write
from .pools import EndpointPool, Retired, give_all
from .statements import Statements

if TYPE_CHECKING:
    from .router import Router
    from .state import State

_NOTHING = Statement(b"select", None)

Taken = dict[str, tuple[EndpointPool, Connection[Any]]]
# The shards that a partial answer is without, and why.
Missing = dict[str, BaseException]


def targets(
    router: Router,
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


def call(
    router: Router,
    names: Sequence[str],
    function: Callable[[Connection[Any]], Any],
    deadline: float,
    *,
    readonly: bool,
    missing: Missing | None = None,
) -> dict[str, Any]:
    """`function(conn)` in one transaction on each shard, side by side."""

    def one(name: str) -> Any:
        with router.shard(name)._lease_until(deadline, readonly=readonly) as conn:
            return function(conn)

    outcomes = run_all([bind_arguments(one, name) for name in names])
    results = {name: value for name, (value, error) in zip(names, outcomes, strict=True) if error is None}
    failures = {name: error for name, (_, error) in zip(names, outcomes, strict=True) if error is not None}
    return _all_or_raise(names, results, failures, missing)


def execute(
    router: Router,
    names: Sequence[str],
    query: Any,
    params: Params | None,
    deadline: float,
    *,
    readonly: bool,
    binary: bool,
    row_factory: RowFactory[Any] | None,
    topology: Topology | None = None,
    missing: Missing | None = None,
    again: bool = False,
) -> dict[str, Result]:
    """The same statement on each shard: sent to all before any is read; `again` in transactions that may only read."""
    taken = take_all(router, names, deadline, readonly, topology=topology, missing=missing)
    legs: list[Leg] = []
    results: dict[str, Result] = {}
    try:
        statements = Statements(query, params, binary)
        for name, (pool, conn) in taken.items():
            if not conn.autocommit:
                conn.set_autocommit(True)
            legs.append((Repetition if again else Leg)(name, conn, statements.on(conn), overdue(name, pool)))
        steps = ((leg.pgconn.socket, _answer(leg, results, row_factory)) for leg in legs)
        drive(steps, deadline)
    finally:
        # A connection in the middle of an answer is closed: its socket would give the rest to the next caller.
        reusable = {leg.shard for leg in legs if leg.reusable} if legs else set(taken)
        for name, (_, conn) in taken.items():
            if name not in reusable:
                conn.close()
        give_all(taken.values())
    # Only what has failed is worth reading the SQL for.
    failed = [leg for leg in legs if leg.error is not None]
    failures = failures_of(failed, taken, may_be_applied=bool(failed) and may_write(router, query))
    if missing is None and not again and is_repeated(router, query, failures, taken):
        options: dict[str, Any] = {"readonly": readonly, "binary": binary, "row_factory": row_factory}
        return execute(router, names, query, params, deadline, **options, topology=topology, again=True)
    found = {name: results[name] for name in names if name in results}
    return _all_or_raise(names, found, failures, missing)


def _answer(leg: Leg, results: dict[str, Result], row_factory: RowFactory[Any] | None) -> Step:
    """The leg's step, and its result made at its end: while the other servers still work, it costs no time."""
    yield from leg.step()
    if leg.error is None:
        results[leg.shard] = Result(leg.pgresult, leg.conn, (leg.shard,), row_factory)


class Moved(Exception):
    """Keys are elsewhere by now than where the call was routed: a reload came between. Nothing was sent; plan again."""


def take_all(
    router: Router,
    names: Sequence[str],
    deadline: float,
    readonly: bool,
    *,
    topology: Topology | None = None,
    missing: Missing | None = None,
) -> Taken:
    """A connection of each shard, or none.

    The places in the pools are taken one after another in the order of the topology, so that two scatters never hold
    what the other waits for; connections that must be made first are then made side by side. With `missing`, shards
    that give none are written there instead, as long as one gives one.

    `topology` is what the call was routed by: raises `Moved` unless it still says where every key is, so that the
    shards that are asked own every bucket at one epoch.
    """
    refused: set[EndpointPool] = set()
    router._retries.earn()
    while True:
        router._check_usable()
        state = router._state
        if topology is not None and has_moved(state.topology, topology):
            raise Moved
        for name in names:
            state.topology.shard(name)
        pools: dict[str, EndpointPool] = {}
        absent: Missing = {}
        try:
            until = _patience(deadline, missing)
            for name in names:
                try:
                    pools[name] = _endpoint(state, name, until, readonly, refused)
                except ShardError as error:
                    if missing is None or not _is_absence(error):
                        raise
                    absent[name] = error
            taken = _take_each(pools, _patience(deadline, missing), absent, partial=missing is not None)
        except Retired:
            if monotonic() >= deadline:
                raise _nothing_begun(_retired(pools)) from None
            sleep(0)
        except ScatterError as error:
            # Nothing was sent: other replicas may do, and where primaries are found by asking, others may come.
            if not _may_change(state, pools, error.failures, refused) and not (
                all(isinstance(failure, ShardUnavailable) for failure in error.failures.values())
                and moving.caught_up(router, state, error.failures, deadline)
            ):
                raise
        else:
            if missing is not None and _has_others(state, pools, absent, refused):
                give_all(taken.values())
                continue
            if topology is not None:
                try:
                    _check_alike(router, topology, taken)
                except BaseException:
                    give_all(taken.values())
                    raise
            if missing is not None:
                missing.update(absent)
            _bound(taken, router.max_result_bytes)
            return taken


def _bound(taken: Taken, most: int | None) -> None:
    """Let what comes on the connections count together."""
    intake = None if most is None else Intake(most)
    for _, conn in taken.values():
        conn.__dict__[INTAKE] = intake


def _check_alike(router: Router, topology: Topology, taken: Taken) -> None:
    """Raise `Moved` when keys are elsewhere by now, and `UnsupportedQuery` unless all sessions read and write alike.

    Settings may have been changed since a connection was made: of those that differ new ones are made first.
    """
    if has_moved(router._state.topology, topology):
        raise Moved
    known = router._knowledge
    found = _unlike(known, taken)
    if found is None:
        known.unlike.clear()
        return
    if found in known.unlike:
        one, other, setting, here, there = found
        raise UnsupportedQuery(
            f"shards {one} and {other} are not alike: setting {setting} ({here} and {there})",
            hint="Make them alike by ALTER DATABASE or ALTER ROLE … SET, or by options in the topology; "
            "a statement for one shard is answered meanwhile.",
        )
    known.unlike.add(found)
    forget_catalog(router)
    for pool, _ in taken.values():
        pool.drain()
    raise Moved


def _unlike(known: Knowledge, taken: Taken) -> Unlike | None:
    """Two shards, and the first setting in which their sessions differ, or that the plan was made with otherwise."""
    told = {name: conn.__dict__[SESSION].settings for name, (_, conn) in taken.items()}
    first, ours = next(iter(told.items()))
    for name, theirs in told.items():
        if theirs is not ours and (found := settings.difference(ours, theirs)) is not None:
            return first, name, *found
    planned = settings.reading_difference(ours, known.settings) if known.settings else None
    return (first, known.by, *planned) if planned is not None else None


def _patience(deadline: float, missing: Missing | None) -> float:
    """Until when a shard is waited for: those that answer need time, too, when others may be missing."""
    return deadline if missing is None else (monotonic() + deadline) / 2


def has_moved(now: Topology, then: Topology) -> bool:
    """Whether what was routed by the one topology may be elsewhere by the other."""
    return now is not then and placements_differ(now, then)


def _may_change(
    state: State,
    pools: dict[str, EndpointPool],
    failures: Mapping[str, BaseException],
    refused: set[EndpointPool],
) -> bool:
    """Whether another endpoint may be found for each of the shards that gave no connection."""
    if not all(isinstance(error, ShardUnavailable) and name in pools for name, error in failures.items()):
        return False
    changed = _has_others(state, pools, failures, refused)
    for name in failures:
        shard = state.pools[name]
        if pools[name] is shard.primary:
            if not shard.lost_primary(pools[name]):
                return False
            changed = True
    return changed


def _has_others(
    state: State,
    pools: dict[str, EndpointPool],
    failures: Mapping[str, BaseException],
    refused: set[EndpointPool],
) -> bool:
    """Whether a replica has refused for the first time: it is left out from now on, and there are others."""
    new = {
        pools[name]
        for name, error in failures.items()
        if isinstance(error, ShardUnavailable) and name in pools and pools[name] is not state.pools[name].primary
    } - refused
    refused |= new
    return bool(new)


def _retired(pools: dict[str, EndpointPool]) -> dict[str, BaseException]:
    return {name: pool.overdue("its pool is closed") for name, pool in pools.items() if pool.retired}


def _endpoint(state: State, name: str, deadline: float, readonly: bool, refused: set[EndpointPool]) -> EndpointPool:
    shard = state.pools[name]
    return shard.readonly(deadline, None, refused) if readonly else shard.writable(deadline)


def _take_each(pools: dict[str, EndpointPool], until: float, absent: Missing, *, partial: bool) -> Taken:
    """A connection of each pool; with `partial`, of those that give one, and `absent` has the others' errors."""
    places: dict[str, Place] = {}
    failures = absent
    conns: dict[str, Connection[Any]] = {}
    begun = monotonic()
    is_over = False

    def connect(name: str) -> None:
        # Written down at once: when the caller is interrupted, what the others have got has to be given back.
        try:
            conns[name] = pools[name].connect(places[name], begun, until)
        except Exception as error:
            failures[name] = error
        if is_over and (conn := conns.pop(name, None)) is not None:
            # It was interrupted twice, and has not waited for this one.
            pools[name].give(conn)

    try:
        for name, pool in pools.items():
            try:
                places[name] = pool.reserve_for_scatter(until)
            except Retired:
                raise
            except Exception as error:
                failures[name] = error
                if not partial:
                    raise _nothing_begun({name: error}) from error
        if all(pools[name].is_warm for name in places):
            for name in places:
                connect(name)
        else:
            run_all([bind_arguments(connect, name) for name in places])
        _judge(failures, partial, bool(conns))
    except BaseException:
        is_over = True
        for name, place in places.items():
            if name not in conns:
                place.free()
        give_all([(pools[name], conn) for name in pools if (conn := conns.pop(name, None)) is not None])
        raise
    return {name: (pools[name], conns[name]) for name in pools if name in conns}


def _judge(failures: dict[str, BaseException], partial: bool, any_taken: bool) -> None:
    """Raise what the failures mean, unless they may be missing."""
    if not failures:
        return
    for error in failures.values():
        if isinstance(error, Retired):
            raise error
    if not partial or not any_taken or not all(map(_is_absence, failures.values())):
        raise _nothing_begun(failures)


def _is_absence(error: BaseException) -> bool:
    """Whether a shard that failed so may be left out of a partial answer.

    One that sends keys to other shards shows that the others' rows are not what is asked for.
    """
    return isinstance(error, ShardError) and not isinstance(error, OtherMap)


def overdue(name: str, pool: EndpointPool, *, reads: bool = False) -> Callable[[], DeadlineExceeded]:
    """Makes the error of a leg whose time is over; what only `reads` has not been applied."""

    def error() -> DeadlineExceeded:
        pool.meter.failed("DeadlineExceeded")
        return DeadlineExceeded(
            f"the deadline passed on shard {name}",
            shard=name,
            endpoint=pool.endpoint.name,
            applied="no" if reads else "unknown",
            hint=None if reads else "Look whether it was applied before you write it again.",
        )

    return error


def is_busy(conn: Connection[Any]) -> bool:
    """Whether a connection is in the middle of an answer."""
    return conn.pgconn.transaction_status == TransactionStatus.ACTIVE


def silent(taken: Taken, until: float) -> Missing:
    """The shards that do not answer at all by then, and what that means; raised when it is every one of them.

    Rows that are brought together are of all shards or of none: it has to be known before who can give theirs.
    """
    legs = [Leg(name, conn, _NOTHING, overdue(name, pool, reads=True)) for name, (pool, conn) in taken.items()]
    drive(((leg.pgconn.socket, leg.step()) for leg in legs), until)
    failures = failures_of(legs, taken, may_be_applied=False)
    for leg in legs:
        if not leg.reusable:
            leg.conn.close()
    if len(failures) == len(taken):
        raise several(failures, len(taken))
    return failures


def failures_of(legs: Sequence[Leg], taken: Taken, *, may_be_applied: bool) -> dict[str, BaseException]:
    """The errors of the legs that failed, by shard, as what they mean."""
    return {leg.shard: _explained(leg, *taken[leg.shard], may_be_applied) for leg in legs if leg.error is not None}


def is_repeated(router: Router, query: Any, failures: Mapping[str, BaseException], taken: Taken) -> bool:
    """Whether a statement is run once more on all its shards, as one on one shard is; if so that is counted.

    Connections were lost, and that is all that went wrong; it only reads; and not too many calls are repeated.
    """
    if not failures or not all(map(_is_lost, failures.values())) or may_write(router, query):
        return False
    if not router._retries.spend():
        return False
    for name, error in failures.items():
        taken[name][0].retried(error)
    return True


def several(failures: dict[str, BaseException], asked: int) -> BaseException:
    """One error for those of several shards.

    What is wrong with the statement or its data is told as one server would tell it: by psycopg's own error.
    """
    errors = list(failures.values())
    if all(isinstance(error, psycopg.Error) and error.sqlstate and not _is_lost(error) for error in errors):
        return errors[0]
    too_large = next((error for error in failures.values() if isinstance(error, ResultTooLarge)), None)
    if too_large is not None:
        return too_large
    error = ScatterError(f"{len(failures)} of {asked} shards failed", failures=failures)
    error.__cause__ = next(iter(failures.values()))
    return error


def _explained(leg: Leg, pool: EndpointPool, conn: Connection[Any], may_be_applied: bool) -> BaseException:
    if isinstance(leg.error, ResultTooLarge):
        return told_of(leg.error, may_be_applied)
    if isinstance(leg.error, DeadlineExceeded):
        pool.was_cut()
        return leg.error
    lost = is_lost(conn) or not leg.reusable
    if isinstance(leg, Repetition) and isinstance(leg.error, psycopg.errors.ReadOnlySqlTransaction):
        # It writes after all, in a view, an operator or a cast; and may have done so the first time.
        return unknown(pool, "query", first_line(leg.error))
    error = explain(leg.error, pool, cut=False, lost=lost, phase="query", may_be_applied=may_be_applied)
    assert error is not None
    if error is not leg.error:
        error.__cause__ = leg.error
    return error


def _nothing_begun(failures: dict[str, BaseException]) -> ScatterError:
    # What mends a shard is told first: the others can only be left out.
    mended = next((hint for error in failures.values() if (hint := getattr(error, "hint", None))), None)
    return ScatterError(
        f"nothing was begun: {len(failures)} of the shards gave no connection",
        failures=failures,
        hint=mended or "Name the shards that are well with shards=[…] to leave the others out.",
    )


def may_be_missing(failures: dict[str, BaseException], asked: int) -> bool:
    """Whether the answer of the others is a partial one: some did answer, and none has found fault with the call."""
    return len(failures) < asked and all(_is_absence(error) or _is_lost(error) for error in failures.values())


def as_missing(failures: dict[str, BaseException]) -> dict[str, BaseException]:
    """Why shards are missing, each as a `ShardError`."""
    return {name: error if isinstance(error, ShardError) else _gone(name, error) for name, error in failures.items()}


def _gone(name: str, error: BaseException) -> ShardUnavailable:
    found = ShardUnavailable(
        f"the connection to shard {name} was lost", shard=name, phase="query", detail=first_line(error)
    )
    found.__cause__ = error
    return found


def _is_lost(error: BaseException) -> bool:
    """psycopg's error of a connection that broke: of class 08 or 57P, or of none."""
    if isinstance(error, ShardError):
        return False
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(("08", "57P"))


def _all_or_raise(
    names: Sequence[str], results: dict[str, Any], failures: dict[str, BaseException], missing: Missing | None
) -> dict[str, Any]:
    for error in failures.values():
        if not isinstance(error, Exception):
            raise error
    if missing is not None and may_be_missing(failures, len(names)):
        missing.update(as_missing(failures))
        return results
    if failures:
        raise ScatterError(
            f"{len(failures)} of {len(names)} shards failed", failures=failures, results=results
        ) from next(iter(failures.values()))
    return results
