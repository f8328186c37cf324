# Generated from _async/dispatch.py by tools/unasync.py: edit that one, then run `make sync`.
"""`execute` without a key: plan, bind, and run the plan by its strategy."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import RowFactory

from .._ship import TypesDiffer
from ..errors import InvalidKey, KeyNotCovered, OtherMap, ScatterError, ShardError, StaleTopology, UnsupportedQuery
from ..query.bound import Bound, Fanout, check_atomic, check_fanout
from ..query.merging import NotHere
from ..query.plan import Shipped
from ..result import Result
from . import data_errors, freshness, gather, gathering, moving, planning, shipping, writing
from .gather import Missing
from .lease import Params
from .planning import Planned

if TYPE_CHECKING:
    from .route import Route, ShardHandle
    from .router import Router


def execute(router: Router, query: Any, params: Params | None, deadline: float, **options: Any) -> Result:
    """Run a statement wherever its rows are; where that is not known any more, as soon as it is."""
    while True:
        state = router._state
        try:
            return _executed(router, query, params, deadline, **options)
        except OtherMap as error:
            if not moving.is_worth_again(router, state, error, deadline):
                raise


def _executed(
    router: Router,
    query: Any,
    params: Params | None,
    deadline: float,
    *,
    readonly: bool,
    binary: bool,
    row_factory: RowFactory[Any] | None,
    fanout: Fanout,
    strategy: str | None,
    atomic: bool,
    missing: Missing | None,
) -> Result:
    """Run it; again when a reload has placed its rows elsewhere before it was sent."""
    query = query if type(query) is str else planning.as_text(router, query, deadline)
    while True:
        found = planning.planned(router, query, params, deadline, strategy)
        handle: Route | ShardHandle | None = None
        route = _routed(found, params) if found.lookup is not None else None
        if route is not None:
            handle = route
            seen = router._knowledge.seen.get((route.shard, readonly))
            is_due = seen is None or monotonic() >= seen.until
            if is_due and not freshness.is_fresh(router, (route.shard,), deadline, readonly=readonly):
                continue
        else:
            bound = planning.bound(router, found, params, deadline, strategy)
            if not freshness.is_fresh(router, bound.shards, deadline, readonly=readonly):
                continue
            if bound.strategy != "one":
                check_fanout(bound, fanout)
                if atomic:
                    check_atomic(bound)
                if missing is not None and bound.plan.writes:
                    raise _partial_write(bound)
                try:
                    if not planning.are_alike(router, bound, deadline, partial=missing is not None):
                        continue
                    router._counts.add(bound.strategy)
                    options: dict[str, Any] = {"binary": binary, "row_factory": row_factory}
                    return _scattered(router, found, bound, query, params, deadline, readonly, missing, options)
                except gather.Moved:
                    continue
                except psycopg.DatabaseError as error:
                    # Of a write: it was rolled back on every shard.
                    if not bound.plan.writes or not moving.followed(router, error, deadline):
                        raise
                    continue
            handle = router.shard(bound.shards[0] if bound.shards else planning.any_shard(router))
        router._counts.add("one")
        check, sent = found.plan.check, query
        if check is not None:
            sent = check.added(query, found.topology, handle.shard, has_params=params is not None)
        try:
            result = handle._execute_until(
                sent,
                params,
                deadline,
                readonly=readonly,
                binary=binary,
                row_factory=row_factory,
                reading=found.reading,
            )
        except StaleTopology:
            if found.topology is router.topology:
                raise
            continue
        except psycopg.DatabaseError as error:
            refused = check.failure(error, found.plan.verb) if check is not None else None
            if refused is not None and found.topology is router.topology:
                raise refused from error
            if refused is not None:
                continue
            if not moving.is_given_away(error) or not moving.is_repeatable(query):
                raise
            if not moving.followed(router, error, deadline):
                raise
            continue
        result._planned = found.plan
        if check is not None:
            result.hide_check(check.returning)
        return result


def _partial_write(bound: Bound) -> UnsupportedQuery:
    return UnsupportedQuery(
        f"{bound.plan.verb} on {len(bound.shards)} shards cannot be partial",
        hint="Leave out partial=True: a write is done on every shard that it concerns, or told by shard.",
    )


def _routed(found: Planned, params: Params | None) -> Route | None:
    """The route of a statement whose tables are all pinned to one parameter; None when its value is no plain key."""
    try:
        value = params[found.place]  # type: ignore[index]
    except (LookupError, TypeError):
        return None
    if type(value) not in found.exact or len(params) != found.count:  # type: ignore[arg-type]
        return None
    assert found.lookup is not None
    try:
        return found.lookup(value)
    except (InvalidKey, KeyNotCovered):
        return None


def _scattered(
    router: Router,
    found: Planned,
    bound: Bound,
    query: Any,
    params: Params | None,
    deadline: float,
    readonly: bool,
    missing: Missing | None,
    options: dict[str, Any],
) -> Result:
    plan = bound.plan.scattered
    try:
        if isinstance(plan, Shipped):
            return shipping.execute(router, found, bound, query, params, deadline, missing=missing, **options)
        if plan is not None and plan.name in ("write", "split"):
            return writing.execute(router, found, bound, query, params, deadline, **options)
        return gathering.execute(
            router, found, bound, query, params, deadline, readonly=readonly, missing=missing, **options
        )
    except (NotHere, TypesDiffer) as reason:
        if plan is not None and plan.name == "pull":
            raise shipping.unlike(reason) from reason
        why: Exception = reason
    except shipping.UNFIT_FOR_A_TABLE as reason:
        if plan is None or plan.name != "combine":
            raise
        why = reason
    except planning.DDL_ERRORS:
        planning.forget_catalog(router)
        raise
    except psycopg.Error as error:
        if not data_errors.is_doubtful(error, plan):
            raise
        return _confirmed(error, router, query, params, deadline, missing, options)
    if missing is not None:
        missing.clear()
    found, bound = planning.otherwise(router, query, params, deadline, why)
    return _scattered(router, found, bound, query, params, deadline, readonly, missing, options)


def _confirmed(
    error: psycopg.Error,
    router: Router,
    query: Any,
    params: Params | None,
    deadline: float,
    missing: Missing | None,
    options: dict[str, Any],
) -> Result:
    """What one server says, the error or another one or none; the error when that cannot be told."""
    if missing is not None:
        missing.clear()
    try:
        found, bound = data_errors.as_one_server(router, query, params, deadline)
        router._counts.add(bound.strategy)
        return shipping.execute(router, found, bound, query, params, deadline, missing=missing, **options)
    except (UnsupportedQuery, TypesDiffer, ScatterError, ShardError):
        raise error from None
