# Generated from _async/sql/numbered.py by tools/unasync.py: edit that one, then run `make sync`.
"""A statement with the numbers that sequences give it: from the blocks at hand, or from a new one."""

from __future__ import annotations

from ..._call import Call, Params
from ..._runtime.deadlines import Deadline
from ...errors import InvalidKey
from ...query.analysis.pins import UNREAD
from ...query.plans.bound import Bound
from ...query.plans.planned import Planned
from ..plans.planner import Planner


def filled(planner: Planner, call: Call, planned: Planned) -> Call:
    """The call with a parameter for each number, all of them drawn for it alone."""
    plan = planned.plan.numbers
    assert plan is not None
    values, numbers = planned.given(call.params), planner.schema.numbers
    if plan.behind and len(plan.places) == len(values) + plan.counts[plan.behind]:
        values += numbers.take(plan.behind, plan.counts[plan.behind], call.deadline)
        return call.numbered(plan.text, values, plan.columns)
    taken = {name: numbers.take(name, count, call.deadline) for name, count in plan.counts.items()}
    params = plan.params(values, taken)
    return call.numbered(plan.text, params, plan.columns)


def explained(planner: Planner, planned: Planned, params: Params | None, deadline: Deadline) -> Bound:
    """Where the statement goes with its numbers, of which none is drawn; where they are keys, that is not known."""
    plan = planned.plan.numbers
    assert plan is not None
    values = plan.params(planned.given(params), {name: [UNREAD] * count for name, count in plan.counts.items()})
    found = planner.plan(plan.text, values, deadline, None, plan.columns)
    try:
        return planner.bind(found, values, deadline)
    except InvalidKey:
        return planner.bind(planned, params, deadline)
