"""`execute` without a key: plan, bind, and run the plan by its strategy."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg

from ..._call import Call, Params
from ..._runtime.deadlines import Deadline
from ..._wire.transfer import TypesDiffer
from ...errors import (
    InvalidKey,
    KeyNotCovered,
    OtherMap,
    ScatterError,
    ShardError,
    StaleTopology,
    UnknownShard,
    UnsupportedQuery,
)
from ...query.choices import Strategy
from ...query.merge.merging import NotHere
from ...query.plans.bound import Bound, check_fanout
from ...query.plans.plan import Made, Rekeyed, Transferred
from ...query.plans.planned import Planned
from ...query.text.calls import is_repeatable
from ...result import Result
from ..fleet import redirects
from ..plans.planner import AsyncPlanner
from ..work import two_phase
from ..work.handle import AsyncShardHandle
from ..work.participants import Moved
from . import data_errors, gathered, made, numbered, rekeyed, sequences, transferred, written

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet
    from ..routes import AsyncRoute, AsyncRoutes, AsyncRouteTable

_DDL_ERRORS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject,
)


async def execute(fleet: AsyncFleet, routes: AsyncRoutes, planner: AsyncPlanner, call: Call) -> Result:
    """Run a statement wherever its rows are; where that is not known any more, as soon as it is."""
    while True:
        snapshot = fleet.snapshot
        try:
            return await _executed(fleet, routes, planner, call)
        except OtherMap as error:
            if not await redirects.is_worth_again(fleet, snapshot, error, call.deadline):
                raise
        except UnknownShard:
            # It was planned by the topology of before, whose shard has left, or is called otherwise.
            if fleet.snapshot is snapshot:
                raise


async def explain(
    fleet: AsyncFleet,
    planner: AsyncPlanner,
    query: Any,
    params: Params | None,
    deadline: Deadline,
    strategy: Strategy | None,
) -> Bound:
    """How `execute` would run it; see `AsyncRouter.explain`."""
    planned = await planner.plan(query, params, deadline, strategy)
    if planned.plan.numbers is not None:
        bound = await numbered.explained(planner, planned, params, deadline)
    else:
        bound = await planner.bind(planned, params, deadline, strategy)
    if not bound.plan.writes or bound.strategy == "one":
        return bound
    return replace(bound, apart=await two_phase.why_apart(fleet, bound.shards, deadline))


async def _executed(fleet: AsyncFleet, routes: AsyncRoutes, planner: AsyncPlanner, call: Call) -> Result:
    """Run it; again when a reload has placed its rows elsewhere before it was sent."""
    deadline, params = call.deadline, call.params
    if type(call.query) is not str:
        call = replace(call, query=await planner.as_text(call.query, deadline))
    while True:
        planned = await planner.plan(call.query, params, deadline, call.strategy, call.new)
        if planned.plan.numbers is not None:
            call = await numbered.filled(planner, call, planned)
            params = call.params
            continue
        if planned.plan.setting is not None:
            again = partial(execute, fleet, routes, planner)
            call = await sequences.set_value(fleet, planner, call, planned, again)
            params = call.params
            continue
        handle: AsyncRoute | AsyncShardHandle | None = None
        route = routed(planned, params, routes.table) if planned.keyspace is not None else None
        if route is not None:
            handle = route
            is_due = planner.schema.is_due(route.shard, call.readonly)
            if is_due and not await planner.schema.is_fresh((route.shard,), deadline, readonly=call.readonly):
                continue
        else:
            bound = await planner.bind(planned, params, deadline, call.strategy)
            if not await planner.schema.is_fresh(bound.shards, deadline, readonly=call.readonly):
                continue
            if isinstance(bound.scattered, Made):
                if not await planner.schema.are_alike(bound, deadline):
                    continue
                fleet.calls.took("make")
                with suppress(Moved):
                    again = partial(execute, fleet, routes, planner)
                    call = await made.finished(fleet, planner.schema.numbers, call, planned, bound.scattered, again)
                    params = call.params
                continue
            if bound.strategy != "one":
                check_fanout(bound, call.fanout)
                if call.missing is not None and bound.plan.writes:
                    raise _partial_write(bound)
                try:
                    if not await planner.schema.are_alike(bound, deadline, partial=call.missing is not None):
                        continue
                    fleet.calls.took(bound.strategy)
                    return await scattered(fleet, planner, call, planned, bound)
                except Moved:
                    continue
                except psycopg.DatabaseError as error:
                    # Of a write: it was rolled back on every shard.
                    if not bound.plan.writes or not await redirects.followed(fleet, error, deadline):
                        raise
                    continue
            name = bound.shards[0] if bound.shards else fleet.in_turn()[0]
            handle = AsyncShardHandle(
                fleet, name, None if bound.buckets_by_shard is None else bound.buckets_by_shard.get(name)
            )
        fleet.calls.took("one")
        check, sent = planned.plan.check, call.query
        if check is not None:
            sent = check.added(call.query, planned.topology, handle.shard, has_params=params is not None)
        try:
            result = await handle._execute_until(
                sent,
                params,
                deadline,
                readonly=call.readonly,
                binary=call.binary,
                row_factory=call.row_factory,
                reading=planned.reading,
            )
        except StaleTopology:
            if planned.topology is fleet.topology:
                raise
            continue
        except psycopg.DatabaseError as error:
            refused = check.failure(error, planned.plan.verb) if check is not None else None
            if refused is not None and planned.topology is fleet.topology:
                raise refused from error
            if refused is not None:
                continue
            if not redirects.is_redirect(error) or not is_repeatable(call.query):
                raise
            if not await redirects.followed(fleet, error, deadline):
                raise
            continue
        result._planned = planned.plan
        if check is not None:
            result.hide_check(check.returning)
        return result


def _partial_write(bound: Bound) -> UnsupportedQuery:
    return UnsupportedQuery(
        f"{bound.plan.verb} on {len(bound.shards)} shards cannot be partial",
        hint="Leave out partial=True: a write is done on every shard that it concerns, or told by shard.",
    )


def routed(planned: Planned, params: Params | None, table: AsyncRouteTable) -> AsyncRoute | None:
    """The route of a statement whose tables are all pinned to one parameter; None when its value is no plain key."""
    if table.topology is not planned.topology:
        return None
    params = planned.values or params
    try:
        value = params[planned.place]  # type: ignore[index]
    except (LookupError, TypeError):
        return None
    if type(value) not in planned.exact or len(params) != planned.count:  # type: ignore[arg-type]
        return None
    assert planned.keyspace is not None
    try:
        return table.by_keyspace[planned.keyspace](value)
    except (InvalidKey, KeyNotCovered):
        return None


async def scattered(fleet: AsyncFleet, planner: AsyncPlanner, call: Call, planned: Planned, bound: Bound) -> Result:
    """Run a bound plan of several shards; by another plan when this one gives no right answer."""
    plan = bound.plan.scattered
    try:
        if isinstance(plan, Transferred):
            return await transferred.execute(fleet, call, planned, bound)
        if isinstance(plan, Rekeyed):
            return await _rekeyed(fleet, planner, call, planned, bound)
        if plan is not None and plan.name in ("write", "split"):
            return await written.execute(fleet, call, planned, bound)
        return await gathered.execute(fleet, call, planned, bound)
    except (NotHere, TypesDiffer) as reason:
        if plan is not None and plan.name == "pull":
            raise transferred.unlike(reason) from reason
        why: Exception = reason
    except transferred.UNFIT_FOR_A_TABLE as reason:
        if plan is None or plan.name != "combine":
            raise
        why = reason
    except _DDL_ERRORS:
        fleet.schema.changed()
        raise
    except psycopg.Error as error:
        if call.within is not None or not data_errors.is_doubtful(error, plan):
            raise
        return await _confirmed(error, fleet, planner, call)
    if call.missing is not None:
        call.missing.clear()
    planned, bound = await planner.instead(call.query, call.params, call.deadline, why)
    return await scattered(fleet, planner, call, planned, bound)


async def _rekeyed(fleet: AsyncFleet, planner: AsyncPlanner, call: Call, planned: Planned, bound: Bound) -> Result:
    if call.within is not None:
        return await rekeyed.within(call.within, fleet, planner, call, planned, bound)
    return await rekeyed.execute(fleet, planner, call, planned, bound)


async def _confirmed(error: psycopg.Error, fleet: AsyncFleet, planner: AsyncPlanner, call: Call) -> Result:
    """What one server says, the error or another one or none; the error when that cannot be told."""
    if call.missing is not None:
        call.missing.clear()
    try:
        planned, bound = await data_errors.as_one_server(planner, call, call.deadline)
        fleet.calls.took(bound.strategy)
        return await transferred.execute(fleet, call, planned, bound)
    except (UnsupportedQuery, TypesDiffer, ScatterError, ShardError):
        raise error from None
