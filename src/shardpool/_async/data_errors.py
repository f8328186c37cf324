"""Errors of data that the shards raise over what one PostgreSQL may never look at: it is asked what it says.

Each shard makes rows that LIMIT cuts off over all of them, and looks at conditions that one server may know to be of no
account, such as `1 / x = 1` in `where false and 1 / x = 1`, or beside HAVING without an aggregate. So the rows are
brought together once more, as they are, and the statement is run over them: what it then says is right.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import psycopg

from ..errors import ShardError
from ..query.bound import Bound
from ..query.plan import Gathered, Scattered, Shipped
from ..query.pull import without_filters
from . import planning
from .lease import Params

if TYPE_CHECKING:
    from .planning import Planned
    from .router import AsyncRouter

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
    if not isinstance(plan, Gathered | Shipped) or not plan.goes_further:
        return False
    state = error.sqlstate or ""
    if not state.startswith(_OF_DATA) or state in _OF_LIMITS:
        return False
    return not (error.diag.statement_position or _OF_PARAMETERS.search(error.diag.context or ""))


async def as_one_server(
    router: AsyncRouter, query: Any, params: Params | None, deadline: float
) -> tuple[Planned, Bound]:
    """The plan in which nothing is evaluated but by the statement itself, over all rows of its tables."""
    found = await planning.planned(router, query, params, deadline, "pull")
    bound = await planning.bound(router, found, params, deadline, "pull")
    if isinstance(bound.scattered, Shipped):
        bound = replace(bound, plan=replace(bound.plan, scattered=without_filters(bound.scattered)))
    return found, bound
