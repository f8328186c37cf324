"""Errors of data that the shards raise over what one PostgreSQL may never look at: it is asked what it says.

Each shard makes rows that LIMIT cuts off over all of them, and looks at conditions that one server may know to be of no
account, such as `1 / x = 1` in `where false and 1 / x = 1`, or beside HAVING without an aggregate. So the rows are
brought together once more, as they are, and the statement is run over them: what it then says is right.
"""

from __future__ import annotations

import re
from dataclasses import replace

import psycopg

from ..._call import Call
from ..._runtime.deadlines import Deadline
from ...errors import ShardError
from ...query.plans.bound import Bound
from ...query.plans.plan import Gathered, Scattered, Transferred
from ...query.plans.planned import Planned
from ...query.plans.pull import without_filters
from ..plans.planner import AsyncPlanner

# Cardinality, data, functions that were called, what they raise.
_OF_DATA = ("21", "22", "38", "39", "P0")
# LIMIT and OFFSET that are negative.
_OF_LIMITS = ("2201W", "2201X")
# The context of an error in the text of a parameter, which is read before anything is evaluated; where it has become a
# literal, the error has a position. It must not cost more than on one server: such texts come from anywhere.
_OF_PARAMETERS = re.compile(r"portal( \"[^\"]*\")? parameter \$\d")


def is_doubtful(error: BaseException, plan: Scattered | None) -> bool:
    """Whether an error may be one that only the division among shards has brought about."""
    if not isinstance(error, psycopg.Error) or isinstance(error, ShardError):
        return False
    if not isinstance(plan, Gathered | Transferred) or not plan.goes_further:
        return False
    state = error.sqlstate or ""
    if not state.startswith(_OF_DATA) or state in _OF_LIMITS:
        return False
    return not (error.diag.statement_position or _OF_PARAMETERS.search(error.diag.context or ""))


async def as_one_server(planner: AsyncPlanner, call: Call, deadline: Deadline) -> tuple[Planned, Bound]:
    """The plan in which nothing is evaluated but by the statement itself, over all rows of its tables."""
    planned = await planner.plan(call.query, call.params, deadline, "pull")
    bound = await planner.bind(planned, call.params, deadline, "pull")
    if isinstance(bound.scattered, Transferred):
        bound = replace(bound, plan=replace(bound.plan, scattered=without_filters(bound.scattered)))
    return planned, bound
