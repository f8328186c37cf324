"""The table of aggregates: what each shard computes of one, and how these partial results become its value.

Measured against one server on random subsets, all are equal to the last digit, but for sums and averages of floats,
whose last digits depend on the order of addition, on one server too. What is not here is not taken apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from ...control.own_sql import qualified
from ..analysis.scopes import Scope
from ..analysis.types import plain, type_of
from ..text.statement import expression, strings
from ..text.tree import copy

_INTEGERS = frozenset(("smallint", "integer", "bigint"))
_EXACT = _INTEGERS | {"numeric"}


@dataclass(frozen=True, slots=True)
class Decomposition:
    """How an aggregate over arguments of some `types` (None: of any) is made of what each shard computes.

    `parts` make the aggregates (FuncCalls) that each shard computes of the call; `final` is the SQL of the value over
    the columns that hold them. `added` is how values, one of each shard, become one without a server; empty: not.
    """

    types: frozenset[str] | None
    parts: tuple[Callable[[Any], Any], ...]
    final: Callable[..., str]
    added: Literal["sum", "min", "max", ""] = ""


@dataclass(frozen=True, slots=True)
class AggregateFacts:
    """What is known of one aggregate: the first of `ways` whose types fit is taken.

    `takes_star`: it may be of `*`. `ignores_distinct`: its value over the distinct arguments is the same. `by_order`:
    without an ORDER BY of its own its value depends on the order of the rows.
    """

    ways: tuple[Decomposition, ...] = ()
    takes_star: bool = False
    ignores_distinct: bool = False
    by_order: bool = False


def depends_on_order(call: Any) -> bool:
    """Whether a call is of an aggregate whose value depends on the order of the rows, and which gives none."""
    aggregate = AGGREGATES.get(strings(call.funcname)[-1])
    return aggregate is not None and aggregate.by_order and not call.agg_order


def decomposition(call: Any, scope: Scope) -> Decomposition | None:
    """How a call is made of what the shards compute; None when it is not known, or cannot be."""
    facts = AGGREGATES.get(strings(call.funcname)[-1])
    if facts is None or (call.agg_distinct and not facts.ignores_distinct):
        return None
    if len(call.args) != 1 and not (call.agg_star and facts.takes_star):
        return None
    type_ = None if call.agg_star else type_of(call.args[0], scope)
    type_ = None if type_ is None else plain(type_)
    return next((way for way in facts.ways if way.types is None or type_ in way.types), None)


def partials(call: Any, scope: Scope) -> list[Any] | None:
    """The aggregates (FuncCalls) that each shard computes; None when the call cannot be taken apart."""
    if call.agg_order or call.agg_within_group or call.func_variadic:
        return None
    way = decomposition(call, scope)
    return None if way is None else [part(call) for part in way.parts]


def final(call: Any, scope: Scope, columns: list[str]) -> str:
    """The aggregate's value over the shards' partial results, which are in these columns."""
    way = decomposition(call, scope)
    assert way is not None
    return way.final(*columns)


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


def _renamed(call: Any, name: str, cast: str | None = None) -> Any:
    """The same call of another aggregate, its argument cast to a type."""
    renamed = copy(call)
    del renamed.funcname[:]
    for part in ("pg_catalog", name):
        renamed.funcname.add().string.sval = part
    if cast is not None:
        node = expression(f"cast(null as {cast})")
        node.type_cast.arg.CopyFrom(call.args[0])
        renamed.args[0].CopyFrom(node)
    return renamed


def _squares(call: Any) -> Any:
    """The sum of the squares of a call's argument."""
    squares = _renamed(call, "sum", "numeric")
    node = expression("null operator(pg_catalog.*) null")
    node.a_expr.lexpr.CopyFrom(squares.args[0])
    node.a_expr.rexpr.CopyFrom(squares.args[0])
    squares.args[0].CopyFrom(node)
    return squares


# -- values over the partial results ---------------------------------------------------------------------------------


def _sum(column: str) -> str:
    return f"pg_catalog.sum({column})"


def _sum_bigint(column: str) -> str:
    return f"{_sum(column)}::bigint"


def _count(column: str) -> str:
    return f"coalesce({_sum(column)}, 0)::bigint"


def _average(total: str, count: str, cast: str = "") -> str:
    return qualified(f"(case when {_sum(count)} > 0 then {_sum(total)} / {_sum(count)}{cast} end)")


def _itself(name: str, column: str) -> str:
    return f"pg_catalog.{name}({column})"


def _spread(name: str, count: str, total: str, squares: str) -> str:
    """Variance and standard deviation as numeric_poly_var_samp and its like compute them, to the last digit."""
    n, s, s2 = _sum(count), _sum(total), _sum(squares)
    population = name.endswith("_pop")
    enough = f"{n} > {0 if population else 1}"
    above = f"(({n} * {s2}) - ({s} * {s}))"
    below = f"({n} * {n})" if population else f"({n} * ({n} - 1))"
    variance = f"(case when {enough} then case when {above} <= 0 then 0::numeric else {above} / {below} end end)"
    if not name.startswith("stddev"):
        return qualified(variance)
    digits = f"pg_catalog.scale({variance})"
    more = f"pg_catalog.round(0::numeric, {digits} + 20)"
    rooted = f"pg_catalog.round(pg_catalog.sqrt({variance} + {more}), {digits})"
    return qualified(f"(case when {variance} = 'NaN' then 'NaN'::numeric else {rooted} end)")


# -- the table -------------------------------------------------------------------------------------------------------

_TOTAL, _NUMBER = partial(_renamed, name="sum"), partial(_renamed, name="count")
_INEXACT_AVERAGE = partial(_average, cast="::double precision")


def _same(name: str, types: frozenset[str] | None = None, added: Literal["min", "max", ""] = "") -> Decomposition:
    return Decomposition(types, (copy,), partial(_itself, name), added)


def _least(name: Literal["min", "max"]) -> AggregateFacts:
    return AggregateFacts((_same(name, _INTEGERS, name), _same(name)), ignores_distinct=True)


AGGREGATES: Mapping[str, AggregateFacts] = {
    "count": AggregateFacts((Decomposition(None, (copy,), _count, "sum"),), takes_star=True),
    "sum": AggregateFacts(
        (
            Decomposition(frozenset(("smallint", "integer")), (copy,), _sum_bigint, "sum"),
            Decomposition(frozenset(("bigint",)), (copy,), _sum, "sum"),
            Decomposition(frozenset(("numeric", "real", "double precision", "interval", "money")), (copy,), _sum),
        )
    ),
    "avg": AggregateFacts(
        (
            Decomposition(_EXACT, (_TOTAL, _NUMBER), _average),
            Decomposition(frozenset(("double precision", "interval")), (_TOTAL, _NUMBER), _INEXACT_AVERAGE),
            Decomposition(frozenset(("real",)), (partial(_TOTAL, cast="double precision"), _NUMBER), _INEXACT_AVERAGE),
        )
    ),
    "min": _least("min"),
    "max": _least("max"),
    **{name: AggregateFacts((_same(name),)) for name in "bool_and bool_or every bit_and bit_or bit_xor".split()},
    "any_value": AggregateFacts((_same("any_value"),), by_order=True),
    **{
        name: AggregateFacts(
            (Decomposition(_EXACT, (_NUMBER, partial(_TOTAL, cast="numeric"), _squares), partial(_spread, name)),)
        )
        for name in "variance var_samp var_pop stddev stddev_samp stddev_pop".split()
    },
    **{
        name: AggregateFacts(by_order=True)
        for name in "string_agg array_agg json_agg jsonb_agg json_object_agg jsonb_object_agg xmlagg".split()
    },
}
