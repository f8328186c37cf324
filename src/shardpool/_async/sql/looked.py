"""Statements of rows that a value leads to: the value is looked up, and the statement goes to the shard of its row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from psycopg.rows import tuple_row

from ..._call import Call, Params
from ..._runtime.deadlines import Deadline
from ...query.plans.bound import Bound
from ...query.plans.looked import Looked
from ...query.plans.planned import Planned
from ...result import Result
from ..plans.planner import AsyncPlanner

Execute = Callable[[Call], Awaitable[Result]]


async def execute(call: Call, planned: Planned, run: Execute) -> Result:
    """Look the value up, and `run` the statement with the key of its row; again when a row has just taken its place.

    A value that nobody has leads to no row, on any one shard: so the answer has its shape.
    """
    plan = planned.plan.looked
    assert plan is not None
    values = planned.given(call.params)
    key = await _key(call, plan, values, run)
    while True:
        result = await run(replace(call, query=plan.text, params=plan.params(values, key)))
        if key is None or result.rowcount != 0:
            return result
        before, key = key, await _key(call, plan, values, run)
        if key == before:
            return result


async def _key(call: Call, plan: Looked, values: Sequence[Any], run: Execute) -> Sequence[Any] | None:
    asking = replace(
        call, query=plan.query, params=[plan.of(values)], binary=False, row_factory=tuple_row, missing=None
    )
    rows = (await run(asking)).rows
    return rows[0] if rows else None


async def explained(planner: AsyncPlanner, planned: Planned, params: Params | None, deadline: Deadline) -> Bound:
    """Where the value is looked up; where its row is, that tells."""
    plan = planned.plan.looked
    assert plan is not None
    value = [plan.of(planned.given(params))]
    asked = await planner.bind(await planner.plan(plan.query, value, deadline), value, deadline)
    return Bound(planned.plan, "lookup", asked.shards)
