# Generated from _async/sql/several.py by tools/unasync.py: edit that one, then run `make sync`.
"""One bound plan of several shards, answered as its strategy says; and the route of a statement that has one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg

from ..._call import Call, Params
from ..._wire.transfer import TypesDiffer
from ...errors import InvalidKey, KeyNotCovered, ScatterError, ShardError, UnsupportedQuery
from ...query.merge.merging import NotHere
from ...query.plans.bound import Bound
from ...query.plans.plan import Rekeyed, Transferred
from ...query.plans.planned import Planned
from ...result import Result
from ..plans.planner import Planner
from . import data_errors, gathered, rekeyed, transferred, written

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet
    from ..routes import Route, RouteTable

_DDL_ERRORS = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.UndefinedFunction,
    psycopg.errors.UndefinedObject,
)


def routed(planned: Planned, params: Params | None, table: RouteTable) -> Route | None:
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


def scattered(fleet: Fleet, planner: Planner, call: Call, planned: Planned, bound: Bound) -> Result:
    """Run a bound plan of several shards; by another plan when this one gives no right answer."""
    plan = bound.plan.scattered
    try:
        if isinstance(plan, Transferred):
            return transferred.execute(fleet, call, planned, bound)
        if isinstance(plan, Rekeyed):
            return _rekeyed(fleet, planner, call, planned, bound)
        if plan is not None and plan.name in ("write", "split"):
            return written.execute(fleet, call, planned, bound)
        return gathered.execute(fleet, call, planned, bound)
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
        return _confirmed(error, fleet, planner, call)
    if call.missing is not None:
        call.missing.clear()
    planned, bound = planner.instead(call.query, call.params, call.deadline, why)
    return scattered(fleet, planner, call, planned, bound)


def _rekeyed(fleet: Fleet, planner: Planner, call: Call, planned: Planned, bound: Bound) -> Result:
    if call.within is not None:
        return rekeyed.within(call.within, fleet, planner, call, planned, bound)
    return rekeyed.execute(fleet, planner, call, planned, bound)


def _confirmed(error: psycopg.Error, fleet: Fleet, planner: Planner, call: Call) -> Result:
    """What one server says, the error or another one or none; the error when that cannot be told."""
    if call.missing is not None:
        call.missing.clear()
    try:
        planned, bound = data_errors.as_one_server(planner, call, call.deadline)
        fleet.calls.took(bound.strategy)
        return transferred.execute(fleet, call, planned, bound)
    except (UnsupportedQuery, TypesDiffer, ScatterError, ShardError):
        raise error from None
