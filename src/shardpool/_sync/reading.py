# Generated from _async/reading.py by tools/unasync.py: edit that one, then run `make sync`.
"""`execute` without a key: from the SQL to the name of a shard."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql
from psycopg.rows import tuple_row

from ..errors import ShardError, UnsupportedQuery
from ..query.placeholders import convert
from ..query.planner import Plan, refuse_unknown_functions
from ..query.planner import plan as make_plan
from .lease import Params

if TYPE_CHECKING:
    from .router import Router

_PLANS_MAX = 2048
_BUILT_IN = """
    select distinct proname::text from pg_catalog.pg_proc
    where pronamespace = 'pg_catalog'::pg_catalog.regnamespace
"""


def plan(router: Router, query: Any, params: Params | None) -> str:
    """The name of the shard that answers the statement; cached by its text for as long as the topology holds."""
    state = router._state
    text = _text(query, params is not None)
    found = state.plans.get(text)
    if found is None:
        found = make_plan(text, state.topology)
        if found.functions:
            refuse_unknown_functions(found.functions, _built_in(router))
        if len(state.plans) >= _PLANS_MAX:
            state.plans.pop(next(iter(state.plans)), None)
        state.plans[text] = found
    return _shard_for(router, found)


def _text(query: Any, has_params: bool) -> str:
    if isinstance(query, sql.Composable):
        query = query.as_bytes(None)
    if isinstance(query, str):
        query = query.encode()
    if not isinstance(query, bytes):
        raise UnsupportedQuery(
            f"a query of type {type(query).__name__} cannot be routed by its tables",
            hint="Pass str, bytes or a psycopg.sql object, or give key=….",
        )
    if b"\0" in query:
        raise UnsupportedQuery("the statement holds a NUL character")
    return (convert(query).text if has_params else query).decode()


def _shard_for(router: Router, found: Plan) -> str:
    """The plan's shard, or each in turn where any will do, passing over those that could not be reached last."""
    if found.shard is not None:
        return found.shard
    names = router.shards
    router._turn += 1
    order = [names[(router._turn + number) % len(names)] for number in range(len(names))]
    well = [name for name in order if not router._state.pools[name].primary.is_failing]
    return (well or order)[0]


def _built_in(router: Router) -> frozenset[str]:
    """The names of PostgreSQL's own functions, asked for once, of the first shard that answers."""
    if router._built_in is None:
        for name in router.shards:
            try:
                result = router.shard(name).execute(_BUILT_IN, row_factory=tuple_row)
            except ShardError:
                if name == router.shards[-1]:
                    raise
            else:
                router._built_in = frozenset(row[0] for row in result.rows)
                break
    assert router._built_in is not None
    return router._built_in
