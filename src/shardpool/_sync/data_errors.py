# Generated from _async/data_errors.py by tools/unasync.py: edit that one, then run `make sync`.
"""Errors of data that the shards raise over what one PostgreSQL may never look at: it is asked what it says.

Each shard makes rows that LIMIT cuts off over all of them, and looks at conditions that one server may know to be of no
account, such as `1 / x = 1` in `where false and 1 / x = 1`, or beside HAVING without an aggregate. So the rows are
brought together once more, as they are, and the statement is run over them: what it then says is right.
"""

from __future__ import annotations

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
    from .router import Router

# Cardinality, data, functions that were called, what they raise.
_OF_DATA = ("21", "22", "38", "39", "P0")


def is_doubtful(error: BaseException, plan: Scattered | None) -> bool:
    """Whether an error may be one that only the division among shards has brought about."""
    if not isinstance(error, psycopg.Error) or isinstance(error, ShardError):
        return False
    goes_further = isinstance(plan, Gathered | Shipped) and plan.goes_further
    return goes_further and (error.sqlstate or "").startswith(_OF_DATA)


def as_one_server(router: Router, query: Any, params: Params | None, deadline: float) -> tuple[Planned, Bound]:
    """The plan in which nothing is evaluated but by the statement itself, over all rows of its tables."""
    found = planning.planned(router, query, params, deadline, "pull")
    bound = planning.bound(router, found, params, deadline, "pull")
    if isinstance(bound.scattered, Shipped):
        bound = replace(bound, plan=replace(bound.plan, scattered=without_filters(bound.scattered)))
    return found, bound
