# Generated from _async/sql/dispatch.py by tools/unasync.py: edit that one, then run `make sync`.
"""`execute` without a key: plan, bind, and run the plan by its strategy."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg

from ..._call import Call, Params
from ..._runtime.deadlines import Deadline
from ...errors import (
    OtherMap,
    StaleTopology,
    UnknownShard,
    UnsupportedQuery,
)
from ...query.choices import Strategy
from ...query.plans.bound import Bound, check_fanout
from ...query.plans.plan import Made
from ...query.text.calls import is_repeatable
from ...result import Result
from ..fleet import redirects
from ..plans.planner import Planner
from ..work import two_phase
from ..work.handle import ShardHandle
from ..work.participants import Moved
from . import beforehand, kept, looked, made, numbered, several

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet
    from ..routes import Route, Routes


def execute(fleet: Fleet, routes: Routes, planner: Planner, call: Call) -> Result:
    """Run a statement wherever its rows are; where that is not known any more, as soon as it is."""
    while True:
        snapshot = fleet.snapshot
        try:
            return _executed(fleet, routes, planner, call)
        except OtherMap as error:
            if not redirects.is_worth_again(fleet, snapshot, error, call.deadline):
                raise
        except UnknownShard:
            # It was planned by the topology of before, whose shard has left, or is called otherwise.
            if fleet.snapshot is snapshot:
                raise


def explain(
    fleet: Fleet,
    planner: Planner,
    query: Any,
    params: Params | None,
    deadline: Deadline,
    strategy: Strategy | None,
) -> Bound:
    """How `execute` would run it; see `Router.explain`."""
    planned = planner.plan(query, params, deadline, strategy)
    if planned.plan.looked is not None and strategy is None:
        return looked.explained(planner, planned, params, deadline)
    if planned.plan.numbers is not None:
        bound = numbered.explained(planner, planned, params, deadline)
    else:
        bound = planner.bind(planned, params, deadline, strategy)
    if not bound.plan.writes or bound.strategy == "one":
        return bound
    return replace(bound, apart=two_phase.why_apart(fleet, bound.shards, deadline))


def _executed(fleet: Fleet, routes: Routes, planner: Planner, call: Call) -> Result:
    """Run it; again when a reload has placed its rows elsewhere before it was sent."""
    deadline, params = call.deadline, call.params
    if type(call.query) is not str:
        call = replace(call, query=planner.as_text(call.query, deadline))
    while True:
        planned = planner.plan(call.query, params, deadline, call.strategy, call.new)
        if planned.plan.is_preceded:
            done = beforehand.done(fleet, planner, call, planned, partial(execute, fleet, routes, planner))
            if isinstance(done, Result):
                return done
            if done is not None:
                call, params = done, done.params
                continue
        if planned.plan.keeps:
            if call.missing is not None:
                raise _partial_write(planned.plan.verb)
            return kept.execute(fleet, routes, planner, call)
        handle: Route | ShardHandle | None = None
        route = several.routed(planned, params, routes.table) if planned.keyspace is not None else None
        if route is not None:
            handle, shard = route, route._current_pools().name
            is_due = planner.schema.is_due(shard, call.readonly)
            if is_due and not planner.schema.is_fresh((shard,), deadline, readonly=call.readonly):
                continue
        else:
            bound = planner.bind(planned, params, deadline, call.strategy)
            if not planner.schema.is_fresh(bound.shards, deadline, readonly=call.readonly):
                continue
            if isinstance(bound.scattered, Made):
                if not planner.schema.are_alike(bound, deadline):
                    continue
                fleet.calls.took("make")
                with suppress(Moved):
                    again = partial(execute, fleet, routes, planner)
                    call = made.finished(fleet, planner.schema.numbers, call, planned, bound.scattered, again)
                    params = call.params
                continue
            if bound.strategy != "one":
                check_fanout(bound, call.fanout)
                if call.missing is not None and bound.plan.writes:
                    raise _partial_write(planned.plan.verb)
                try:
                    if not planner.schema.are_alike(bound, deadline, partial=call.missing is not None):
                        continue
                    fleet.calls.took(bound.strategy)
                    return several.scattered(fleet, planner, call, planned, bound)
                except Moved:
                    continue
                except psycopg.DatabaseError as error:
                    # Of a write: it was rolled back on every shard.
                    if not bound.plan.writes or not redirects.followed(fleet, error, deadline):
                        raise
                    continue
            name = bound.shards[0] if bound.shards else fleet.in_turn()[0]
            handle = ShardHandle(
                fleet, name, None if bound.buckets_by_shard is None else bound.buckets_by_shard.get(name)
            )
        fleet.calls.took("one")
        check, sent = planned.plan.check, call.query
        if check is not None:
            sent = check.added(call.query, planned.topology, handle.shard, has_params=params is not None)
        try:
            result = handle._run_statement(
                fleet,
                handle,
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
            if not redirects.followed(fleet, error, deadline):
                raise
            continue
        result._planned = planned.plan
        if check is not None:
            result.hide_check(check.returning)
        return result


def _partial_write(verb: str) -> UnsupportedQuery:
    return UnsupportedQuery(
        f"{verb} cannot be partial",
        hint="Leave out partial=True: a write is done on every shard that it concerns, or told by shard.",
    )
