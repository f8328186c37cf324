"""What has to be done before a statement is bound: it is another statement then, or it has been answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..._call import Call
from ...query.plans.planned import Planned
from ...result import Result
from ..plans.planner import AsyncPlanner
from . import looked, numbered, sequences
from .looked import Execute

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet


async def done(
    fleet: AsyncFleet, planner: AsyncPlanner, call: Call, planned: Planned, execute: Execute
) -> Call | Result | None:
    """The call to plan in its place, or its answer; None when there is nothing to be done.

    Numbers of sequences are filled in, values are looked up, a sequence is set. `execute` runs what that takes.
    """
    plan = planned.plan
    if plan.numbers is not None:
        return await numbered.filled(planner, call, planned)
    if plan.looked is not None and call.strategy is None:
        return await looked.execute(call, planned, execute)
    if plan.setting is not None:
        return await sequences.set_value(fleet, planner, call, planned, execute)
    return None
