"""Partial results of the shards, put together by a statement on one of them: aggregates, DISTINCT, ORDER BY.

What cannot be shown to be the same that way is left to `pull`: these functions then give the reason.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

from ..analysis.analysis import Analysis
from ..analysis.conditions import conjuncts
from ..analysis.levels import Top
from ..analysis.operations import gives_sets, is_aggregate
from ..analysis.scopes import Scope
from ..text.names import output_name
from ..text.statement import deparse, expression, has_limit, inner, is_star, kind, parse, quoted, strings, walk
from ..text.template import Template, template
from ..text.tree import copy, parts, put
from .aggregates import final, is_over_distinct, over_distinct, partials
from .gathered import limited
from .plan import Transfer, Transferred
from .sorting import RowLimits, Sorting, limits, meant, signature, sortings

TEMP = "_shardpool_1"


def column(number: int) -> str:
    """The name of a column of the partial result, by its number from 1: none that a statement uses itself."""
    return f"_shardpool_c{number}"


class _Unfit(Exception):
    """The statement cannot be put together from partial results."""


def combine(tree: Any, analysis: Analysis, uses: int) -> Transferred | str:
    """The plan, or why there is none; `tree` is not changed."""
    top = analysis.top
    try:
        if top.windows and not top.windows_by_key:
            return "a window without the partition key spans rows of different shards"
        groups = top.grouped and not top.grouped_by_key
        made = _Groups(copy(tree), analysis).plan(uses) if groups else _rows(copy(tree), analysis, uses)
        return replace(made, goes_further=has_limit(tree) or tree.HasField("having_clause"))
    except _Unfit as reason:
        return str(reason)


def _transferred(partial: Template, columns: int, final_sql: str, uses: int) -> Transferred:
    names = tuple(column(number) for number in range(1, columns + 1))
    transfer = Transfer(TEMP, "partial result", partial, (), tuple(range(uses)), columns=names)
    return Transferred("combine", (transfer,), final_sql)


# -- rows ----------------------------------------------------------------------------------------------------------


def _rows(tree: Any, analysis: Analysis, uses: int) -> Transferred:
    """Rows that each shard makes for itself, sorted, made distinct and limited once more."""
    top = analysis.top
    if top.columns is None:
        raise _Unfit("the columns of the statement are not known from its text")
    width = len(top.columns)
    names = [name for name, _ in top.columns]
    added: list[Any] = []
    places: dict[Hashable, int] = {}

    def place(number: int | None, value: Any) -> int:
        """The number of the column that holds a value, from 1; it is added when there is none."""
        if number is not None:
            return number + 1
        key = signature(value, top.scope)
        if key not in places:
            if top.distinct and not top.distinct_on:
                raise _Unfit("ORDER BY of SELECT DISTINCT names no output column")
            added.append(value)
            places[key] = width + len(added)
        return places[key]

    _check_sets(tree, analysis)
    order = _order(tree, top, place)
    distinct = _distinct(tree, top, place)
    limit = _tail(tree)
    bounds = limits(tree)
    for number, value in enumerate(added, 1):
        target = tree.target_list.add().res_target
        # A name of its own: ORDER BY looks at names of output columns first.
        target.name = f"_shardpool_k{number}"
        put(target.val, value)
    partial = _partial(tree, bounds, keep_order=bounds.is_known and bounds.limit is not None)
    listed = ", ".join(f"{column(number)} AS {quoted(name)}" for number, name in enumerate(names, 1))
    sql = f"SELECT {distinct}{listed} FROM pg_temp.{TEMP}{order}{limit}"
    return _transferred(partial, width + len(added), sql, uses)


def _order(tree: Any, top: Top, place: Any) -> str:
    order = sortings(tree, top)
    if order is None:
        raise _Unfit("ORDER BY USING, or what names no column, is done by pulling the rows")
    keys = [f"{column(place(key.column, key.expression))}{_direction(key)}" for key in order]
    return " ORDER BY " + ", ".join(keys) if keys else ""


def _check_sets(tree: Any, analysis: Analysis) -> None:
    """Of one row a function may give several, which stay together in any order but one by that function itself."""
    keys = sortings(tree, analysis.top)
    if not keys or tree.distinct_clause or any(gives_sets(key.expression, analysis.catalog) for key in keys):
        return
    if any(gives_sets(target, analysis.catalog) for target in tree.target_list):
        raise _Unfit("to sort once more would mix what a function gives for one row")


def _direction(key: Sorting) -> str:
    return f"{' DESC' if key.descending else ''}{' NULLS FIRST' if key.nulls_first else ' NULLS LAST'}"


def _distinct(tree: Any, top: Top, place: Any) -> str:
    if not top.distinct:
        return ""
    if not top.distinct_on:
        return "DISTINCT "
    columns = []
    for item in tree.distinct_clause:
        number, value = meant(tree, inner(item), top)
        if value is None:
            raise _Unfit("DISTINCT ON names an unknown position")
        columns.append(column(place(number, value)))
    return f"DISTINCT ON ({', '.join(columns)}) "


def _tail(tree: Any) -> str:
    """LIMIT and OFFSET as they stand in the statement."""
    if not has_limit(tree):
        return ""
    # WITH TIES wants an ORDER BY.
    bare = "SELECT 1 ORDER BY 1" if tree.limit_option == 3 else "SELECT 1"
    whole = parse(bare)[0]
    _limit_as(whole, tree)
    return deparse(whole).removeprefix(bare)


def _limit_as(whole: Any, tree: Any) -> None:
    """Give a statement the LIMIT and OFFSET of another."""
    whole.limit_option = tree.limit_option
    for name in ("limit_count", "limit_offset"):
        if tree.HasField(name):
            getattr(whole, name).CopyFrom(getattr(tree, name))


def _partial(tree: Any, bounds: RowLimits, *, keep_order: bool) -> Template:
    """What each shard answers; sorted and limited when that leaves rows out."""
    if not keep_order:
        if not tree.distinct_clause or not any(node.WhichOneof("node") for node in tree.distinct_clause):
            del tree.sort_clause[:]
        bounds = RowLimits(None, None, True)
    return template(limited(tree, bounds))


def _both(conditions: Sequence[Any]) -> Any:
    node = expression("true and true")
    del node.bool_expr.args[:]
    for condition in conditions:
        put(node.bool_expr.args.add(), condition)
    return node.bool_expr


# -- groups --------------------------------------------------------------------------------------------------------


class _Groups:
    """GROUP BY without the partition key: the shards' groups are grouped again, their aggregates put together."""

    def __init__(self, tree: Any, analysis: Analysis) -> None:
        assert analysis.top.scope is not None
        self._tree = tree
        self._analysis = analysis
        self._scope: Scope = analysis.top.scope
        self._columns: list[Any] = []
        self._groups: dict[Hashable, int] = {}
        self._partials: dict[Hashable, int] = {}
        # The one expression of which distinct values are wanted, by which the shards group too.
        self._distinct_value: Hashable | None = None
        self._distinct_column = 0

    def plan(self, uses: int) -> Transferred:
        tree = self._tree
        if any(is_star(node.res_target) for node in tree.target_list) or tree.group_distinct:
            raise _Unfit("a star in a grouped statement is done by pulling the rows")
        for item in tree.group_clause:
            self._group(inner(item))
        groups = len(self._columns)
        targets = [node.res_target for node in tree.target_list]
        distinct = self._distinct()
        finals = [self._final(target.val) for target in targets]
        having = self._final(tree.having_clause) if tree.HasField("having_clause") else None
        order, sorted_by = self._order_by()
        listed = ", ".join(f"null AS {quoted(output_name(target))}" for target in targets)
        group = " GROUP BY " + ", ".join(column(number) for number in range(1, groups + 1)) if groups else ""
        whole = parse(f"SELECT {distinct}{listed} FROM pg_temp.{TEMP}{group}{order}")[0]
        for target, value in zip(whole.target_list, finals, strict=True):
            target.res_target.val.CopyFrom(value)
        for place, value in sorted_by:
            whole.sort_clause[place].sort_by.node.CopyFrom(value)
        if having is not None:
            whole.having_clause.CopyFrom(having)
        _limit_as(whole, tree)
        return _transferred(self._partial(groups), len(self._columns), deparse(whole), uses)

    def _group(self, item: Any) -> None:
        if kind(item) == "GroupingSet":
            raise _Unfit("grouping sets are done by pulling the rows")
        tree = self._tree
        if kind(item) == "A_Const" and item.WhichOneof("val") == "ival":
            number = item.ival.ival
            if not 0 < number <= len(tree.target_list):
                raise _Unfit("GROUP BY names an unknown position")
            item = inner(tree.target_list[number - 1].res_target.val)
        elif kind(item) == "ColumnRef" and len(item.fields) == 1 and self._scope.find(strings(item.fields)) is None:
            # A name in GROUP BY is one of FROM first, then one of an output column.
            named = [n.res_target for n in tree.target_list if [n.res_target.name] == strings(item.fields)]
            if len(named) != 1:
                raise _Unfit("GROUP BY names an unknown column")
            item = inner(named[0].val)
        key = self._signature(item)
        if key not in self._groups:
            self._columns.append(item)
            self._groups[key] = len(self._columns)
        else:
            raise _Unfit("GROUP BY names an expression twice")

    def _signature(self, value: Any) -> Hashable:
        return signature(value, self._scope)

    def _final(self, node: Any) -> Any:
        """An expression over groups in terms of the columns of the partial result."""
        rewritten = copy(node)
        self._rewrite(rewritten)
        return rewritten

    def _rewrite(self, node: Any) -> None:
        value = inner(node)
        if value is None:
            return
        number = self._groups.get(self._signature(value))
        if number is not None:
            node.CopyFrom(expression(column(number)))
            return
        match kind(value):
            case "JsonArrayAgg" | "JsonObjectAgg":
                raise _Unfit("an aggregate of JSON cannot be put together from partial results")
            case "FuncCall" if is_aggregate(value, self._analysis.catalog):
                node.CopyFrom(expression(self._aggregate(value)))
                return
            case "SubLink" | "GroupingFunc":
                raise _Unfit("a subquery beside aggregates is done by pulling the rows")
            case "ColumnRef":
                raise _Unfit("a column that is not in GROUP BY is done by pulling the rows")
            case "FuncCall" if value.HasField("over"):
                raise _Unfit("a window over groups is done by pulling the rows")
        self._rewrite_below(value)

    def _rewrite_below(self, message: Any) -> None:
        for _, child in parts(message):
            if kind(child) == "Node":
                self._rewrite(child)
            else:
                self._rewrite_below(child)

    def _aggregate(self, call: Any) -> str:
        function = self._analysis.catalog.function(strings(call.funcname))
        is_known = function is not None and function.built_in
        if is_known and is_over_distinct(call):
            return over_distinct(call, self._distinct_place(inner(call.args[0])))
        made = partials(call, self._scope) if is_known else None
        if made is None:
            raise _Unfit(f"{strings(call.funcname)[-1]}() cannot be put together from partial results")
        places = []
        for partial in made:
            key = self._signature(partial)
            if key not in self._partials:
                self._columns.append(partial)
                self._partials[key] = len(self._columns)
            places.append(column(self._partials[key]))
        return final(call, self._scope, places)

    def _is_of_keys(self, condition: Any) -> bool:
        """Whether a part of HAVING looks at the keys of the groups alone."""
        parts = list(walk(condition)) if condition is not None else []
        return bool(parts) and not any(
            kind(part) == "SubLink" or is_aggregate(part, self._analysis.catalog) for part in parts
        )

    def _distinct_place(self, value: Any) -> str:
        """The column of the value whose distinct ones are wanted: the shards' groups are groups of it, too."""
        key = self._signature(value)
        if key in self._groups:
            return column(self._groups[key])
        if self._distinct_value is None:
            self._columns.append(value)
            self._distinct_value, self._distinct_column = key, len(self._columns)
        elif self._distinct_value != key:
            raise _Unfit("distinct values of several expressions cannot be put together from partial results")
        return column(self._distinct_column)

    def _order_by(self) -> tuple[str, list[tuple[int, Any]]]:
        """ORDER BY by the positions of output columns, and which of its keys are expressions (Nodes)."""
        keys = sortings(self._tree, self._analysis.top)
        if keys is None:
            raise _Unfit("ORDER BY USING is done by pulling the rows")
        parts: list[str] = []
        expressions: list[tuple[int, Any]] = []
        for key in keys:
            if key.column is None:
                if self._tree.distinct_clause:
                    raise _Unfit("ORDER BY of SELECT DISTINCT names no output column")
                node = expression("null")
                put(node, key.expression)
                expressions.append((len(parts), self._final(node)))
            parts.append(f"{1 if key.column is None else key.column + 1}{_direction(key)}")
        return (" ORDER BY " + ", ".join(parts) if parts else ""), expressions

    def _distinct(self) -> str:
        if not self._tree.distinct_clause:
            return ""
        if any(node.WhichOneof("node") for node in self._tree.distinct_clause):
            raise _Unfit("DISTINCT ON over groups is done by pulling the rows")
        return "DISTINCT "

    def _partial(self, groups: int) -> Template:
        tree = self._tree
        having = [condition for condition in conjuncts(inner(tree.having_clause)) if self._is_of_keys(condition)]
        for name in ("having_clause", "limit_count", "limit_offset"):
            tree.ClearField(name)
        if having:
            # What asks for no aggregate is a condition on rows to one server, which looks no further at the others.
            put(tree.having_clause, having[0] if len(having) == 1 else _both(having))
        tree.limit_option = 1
        for items in (tree.target_list, tree.group_clause, tree.sort_clause, tree.distinct_clause):
            del items[:]
        for value in self._columns:
            put(tree.target_list.add().res_target.val, value)
        for number in (*range(1, groups + 1), *filter(None, (self._distinct_column,))):
            tree.group_clause.add().CopyFrom(expression(str(number)))
        if not self._columns:
            raise _Unfit("there is nothing to put together")
        return template(tree)
