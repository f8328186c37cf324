"""The table of aggregates: what each shard computes of one, and how these partial results become its value.

Measured against one server on random subsets, all are equal to the last digit, but for sums and averages of floats,
whose last digits depend on the order of addition, on one server too. What is not here is not taken apart.
"""

from __future__ import annotations

from typing import Any

from ..own_sql import qualified
from .scopes import Scope
from .statement import copy, expression, strings
from .types import plain, type_of

_SAME = frozenset("min max bool_and bool_or every bit_and bit_or bit_xor any_value".split())
_INTEGERS = ("smallint", "integer", "bigint")
_EXACT = (*_INTEGERS, "numeric")
_FLOATS = ("real", "double precision")
_SPREADS = frozenset("variance var_samp var_pop stddev stddev_samp stddev_pop".split())


def partials(call: Any, scope: Scope) -> list[Any] | None:
    """The aggregates (FuncCalls) that each shard computes; None when the call cannot be taken apart."""
    name = strings(call.funcname)[-1]
    if call.agg_order or call.agg_within_group or call.func_variadic:
        return None
    if name == "count" and not call.agg_distinct and (call.agg_star or len(call.args) == 1):
        return [copy(call)]
    if len(call.args) != 1 or (call.agg_distinct and name not in ("min", "max")):
        return None
    if name in _SAME:
        return [copy(call)]
    type_ = type_of(call.args[0], scope)
    type_ = plain(type_) if type_ is not None else None
    if name == "sum" and type_ in (*_EXACT, *_FLOATS, "interval", "money"):
        return [copy(call)]
    if name == "avg" and type_ in (*_EXACT, *_FLOATS, "interval"):
        argument = "double precision" if type_ == "real" else None
        return [_renamed(call, "sum", argument), _renamed(call, "count", None)]
    if name in _SPREADS and type_ in _EXACT:
        return [_renamed(call, "count", None), _renamed(call, "sum", "numeric"), _squares(call)]
    return None


def is_over_distinct(call: Any) -> bool:
    """Whether it is an aggregate over the distinct values of one expression, such as count(DISTINCT x)."""
    others = call.agg_order or call.agg_within_group or call.func_variadic or call.HasField("agg_filter")
    if not call.agg_distinct or len(call.args) != 1 or others:
        return False
    # `t.*` is one value here, and many columns where it is selected.
    fields = call.args[0].column_ref.fields if call.args[0].WhichOneof("node") == "column_ref" else []
    return not any(field.WhichOneof("node") == "a_star" for field in fields)


def over_distinct(call: Any, column: str) -> str:
    """The same over the distinct values of a column."""
    return f"pg_catalog.{strings(call.funcname)[-1]}(DISTINCT {column})"


def _renamed(call: Any, name: str, cast: str | None) -> Any:
    """The same call of another aggregate, its argument cast to a type."""
    found = copy(call)
    del found.funcname[:]
    for part in ("pg_catalog", name):
        found.funcname.add().string.sval = part
    if cast is not None:
        node = expression(f"cast(null as {cast})")
        node.type_cast.arg.CopyFrom(call.args[0])
        found.args[0].CopyFrom(node)
    return found


def _squares(call: Any) -> Any:
    """The sum of the squares of a call's argument."""
    found = _renamed(call, "sum", "numeric")
    node = expression("null operator(pg_catalog.*) null")
    node.a_expr.lexpr.CopyFrom(found.args[0])
    node.a_expr.rexpr.CopyFrom(found.args[0])
    found.args[0].CopyFrom(node)
    return found


def final(call: Any, scope: Scope, columns: list[str]) -> str:
    """The aggregate's value over the shards' partial results, which are in these columns."""
    name = strings(call.funcname)[-1]
    if name == "count":
        return f"coalesce({_sum(columns[0])}, 0)::bigint"
    if name in _SAME:
        return f"pg_catalog.{name}({columns[0]})"
    type_ = plain(type_of(call.args[0], scope) or "")
    if name == "sum":
        return _sum(columns[0]) + ("::bigint" if type_ in ("smallint", "integer") else "")
    if name == "avg":
        count = _sum(columns[1]) + ("" if type_ in _EXACT else "::double precision")
        return qualified(f"(case when {_sum(columns[1])} > 0 then {_sum(columns[0])} / {count} end)")
    return qualified(_spread(name, *columns))


def _sum(column: str) -> str:
    return f"pg_catalog.sum({column})"


def _spread(name: str, count: str, total: str, squares: str) -> str:
    """Variance and standard deviation as numeric_poly_var_samp and its like compute them, to the last digit."""
    n, s, s2 = _sum(count), _sum(total), _sum(squares)
    population = name.endswith("_pop")
    enough = f"{n} > {0 if population else 1}"
    above = f"(({n} * {s2}) - ({s} * {s}))"
    below = f"({n} * {n})" if population else f"({n} * ({n} - 1))"
    variance = f"(case when {enough} then case when {above} <= 0 then 0::numeric else {above} / {below} end end)"
    if not name.startswith("stddev"):
        return variance
    digits = f"pg_catalog.scale({variance})"
    more = f"pg_catalog.round(0::numeric, {digits} + 20)"
    rooted = f"pg_catalog.round(pg_catalog.sqrt({variance} + {more}), {digits})"
    return f"(case when {variance} = 'NaN' then 'NaN'::numeric else {rooted} end)"
