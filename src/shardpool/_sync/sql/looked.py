# Generated from _async/sql/looked.py by tools/unasync.py: edit that one, then run `make sync`.
"""Statements of rows that a value leads to: the value is looked up, and the statement goes to the shard of its row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from psycopg.rows import tuple_row

from ..._call import Call, Params
from ..._runtime.deadlines import Deadline
from ...query.plans.bound import Bound
from ...query.plans.looked import Looked
from ...query.plans.planned import Planned
from ...result import Result
from ..plans.planner import Planner

Execute = Callable[[Call], Result]


def execute(call: Call, planned: Planned, run: Execute) -> Result:
    """Look the value up, and `run` the statement with the key of its row; again when a row has just taken its place.

    A value that nobody has leads to no row, on any one shard: so the answer has its shape.
    """
    plan = planned.plan.looked
    assert plan is not None
    values = planned.given(call.params)
    key = _key(call, plan, values, run)
    while True:
        result = run(replace(call, query=plan.text, params=plan.params(values, key)))
        if key is None or result.rowcount != 0:
            return result
        before, key = key, _key(call, plan, values, run)
        if key == before:
            return result


def _key(call: Call, plan: Looked, values: Sequence[Any], run: Execute) -> Sequence[Any] | None:
    asking = replace(
        call, query=plan.query, params=[plan.of(values)], binary=False, row_factory=tuple_row, missing=None
    )
    rows = (run(asking)).rows
    return rows[0] if rows else None


def explained(planner: Planner, planned: Planned, params: Params | None, deadline: Deadline) -> Bound:
    """Where the value is looked up; where its row is, that tells."""
    plan = planned.plan.looked
    assert plan is not None
    value = [plan.of(planned.given(params))]
    asked = planner.bind(planner.plan(plan.query, value, deadline), value, deadline)
    return Bound(planned.plan, "lookup", asked.shards)
