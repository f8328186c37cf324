"""ORDER BY and LIMIT of a whole statement: what they mean, and which of it can be done without a server."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from ..analysis.catalog import Catalog
from ..analysis.conditions import constant
from ..analysis.levels import Top
from ..analysis.pins import Const
from ..analysis.scopes import Scope
from ..analysis.types import collation_of, plain, type_of
from ..text.names import output_name
from ..text.statement import inner, is_star, kind, strings
from ..text.tree import without_places

# Types whose values are compared as this says, by what the server sends of them: see `merging`.
_DECODERS = {
    "smallint": "integer",
    "integer": "integer",
    "bigint": "integer",
    "boolean": "bytes",
    "uuid": "bytes",
    "date": "date_send",
    "timestamp without time zone": "timestamp_send",
    "timestamp with time zone": "timestamptz_send",
}
_TEXTS = ("text", "character varying")


@dataclass(frozen=True, slots=True)
class Sorting:
    """One key of ORDER BY: the expression that it stands for, and the number of its output column, if known."""

    expression: Any
    column: int | None
    descending: bool
    nulls_first: bool
    clause: Any


def sortings(tree: Any, top: Top) -> list[Sorting] | None:
    """The keys of ORDER BY of a SELECT; None when one cannot be told from the text (USING, an unknown position)."""
    sorts = []
    for item in tree.sort_clause:
        clause = item.sort_by
        descending = clause.sortby_dir == 3
        if clause.sortby_dir == 4:
            return None
        nulls_first = clause.sortby_nulls == 2 or (clause.sortby_nulls != 3 and descending)
        what = _of_set_operation if top.is_set_operation else meant
        column, expression = what(tree, inner(clause.node), top)
        if expression is None:
            return None
        sorts.append(Sorting(expression, column, descending, nulls_first, clause))
    return sorts


def meant(tree: Any, expression: Any, top: Top) -> tuple[int | None, Any]:
    """What an item of ORDER BY or DISTINCT ON stands for: the number of its output column, if any, and its expression.

    A name is first of all one of an output column (https://www.postgresql.org/docs/current/queries-order.html).
    """
    targets = [node.res_target for node in tree.target_list]
    # Positions behind a star are known only when its columns are.
    known = next((number for number, target in enumerate(targets) if is_star(target)), len(targets))
    if kind(expression) == "A_Const" and expression.WhichOneof("val") == "ival":
        number = expression.ival.ival - 1
        return (number, inner(targets[number].val)) if 0 <= number < known else (None, None)
    if kind(expression) == "ColumnRef" and len(expression.fields) == len(strings(expression.fields)) == 1:
        return _named(strings(expression.fields)[0], expression, targets, known, top)
    if kind(expression) == "ColumnRef" and len(targets) > known:
        place = _place(strings(expression.fields), top)
        if place is not None:
            return place, expression
    for number, target in enumerate(targets[:known]):
        if signature(inner(target.val), top.scope) == signature(expression, top.scope):
            return number, expression
    return None, expression


def _of_set_operation(tree: Any, expression: Any, top: Top) -> tuple[int | None, Any]:
    """Over a set operation only output columns may be named."""
    names = [name for name, _ in top.columns or []]
    if (
        kind(expression) == "A_Const"
        and expression.WhichOneof("val") == "ival"
        and 0 < expression.ival.ival <= len(names)
    ):
        return expression.ival.ival - 1, expression
    if (
        kind(expression) == "ColumnRef"
        and len(expression.fields) == 1
        and names.count(strings(expression.fields)[0]) == 1
    ):
        return names.index(strings(expression.fields)[0]), expression
    return None, None


def signature(value: Any, scope: Scope | None) -> Hashable:
    """What an expression says, the same for `t.x` and `x` when they are one column, but not in subqueries."""

    def named(part: Any) -> Hashable:
        if kind(part) == "SelectStmt":
            return without_places(part)
        if kind(part) != "ColumnRef" or scope is None or len(strings(part.fields)) != len(part.fields):
            return None
        hit = scope.find(strings(part.fields))
        is_own = hit is not None and hit[0] is not None and hit[0].column and hit[1] == 0
        return ("ColumnRef", id(hit[0].node), hit[0].column) if hit and hit[0] and is_own else None

    return without_places(value, named)


def _named(name: str, expression: Any, targets: list[Any], known: int, top: Top) -> tuple[int | None, Any]:
    """What a bare name stands for: the output column of that name, if there is one."""
    if top.columns is None:
        if known < len(targets):
            return None, None
        names = [output_name(target) for target in targets]
    else:
        names = [column for column, _ in top.columns]
    if name not in names:
        return None, expression
    number = names.index(name)
    if number < known:
        return number, inner(targets[number].val)
    return number, expression


def _place(fields: list[str], top: Top) -> int | None:
    """The number of the one output column, of a star too, that is this column of a table."""
    hit = top.scope.find(fields) if top.scope is not None else None
    if hit is None or hit[0] is None or hit[1] != 0 or not hit[0].column:
        return None
    places = [
        number
        for number, (name, origin) in enumerate(top.columns or [])
        if origin is not None and name == fields[-1] and (origin.node, origin.column) == (hit[0].node, hit[0].column)
    ]
    return places[0] if len(places) == 1 else None


def decoder(sorting: Sorting, top: Top, catalog: Catalog) -> str | None:
    """How the key's values are compared without a server; None when only a server can."""
    type_, collation = _type(sorting, top)
    if type_ is None:
        return None
    if plain(type_) in _TEXTS:
        return "bytes" if catalog.sorts_by_bytes(collation) else None
    return _DECODERS.get(type_)


def _type(sorting: Sorting, top: Top) -> tuple[str | None, str | None]:
    """The key's type and collation; those of a column of a star as the star has them."""
    assert top.scope is not None
    if sorting.column is not None and top.columns is not None:
        origin = top.columns[sorting.column][1]
        if origin is not None and origin.type:
            return origin.type, origin.collation
    return type_of(sorting.expression, top.scope), collation_of(sorting.expression, top.scope)


@dataclass(frozen=True, slots=True)
class RowLimits:
    """LIMIT and OFFSET as constants; `is_known` is False when one is an expression, or ties are to be kept."""

    limit: Const | None
    offset: Const | None
    is_known: bool


def limits(tree: Any) -> RowLimits:
    consts: list[Const | None] = []
    known = tree.limit_option != 3  # WITH TIES
    for name in ("limit_count", "limit_offset"):
        const = constant(inner(getattr(tree, name))) if tree.HasField(name) else None
        known &= const is not None or not tree.HasField(name)
        consts.append(const)
    return RowLimits(consts[0], consts[1], known)
