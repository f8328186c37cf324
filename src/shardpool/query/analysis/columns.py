"""The output columns of a SELECT, and where their values come from."""

from __future__ import annotations

from typing import Any

from ..text.names import output_name
from ..text.statement import inner, kind, strings
from .levels import NOWHERE
from .scopes import Columns, Origin, Scope
from .types import collation_of, type_of


def output_columns(tree: Any, scope: Scope) -> tuple[Columns, bool]:
    """The output columns, and whether these are all of them."""
    columns: Columns = []
    is_whole = True
    for target in tree.target_list:
        value = inner(target.res_target.val)
        name = target.res_target.name
        if kind(value) == "ColumnRef":
            fields = strings(value.fields)
            if len(fields) != len(value.fields):
                is_whole &= _star(fields, scope, columns)
                continue
            hit = scope.find(fields)
            columns.append((name or fields[-1], hit[0] if hit and hit[1] == 0 else None))
            continue
        type_ = type_of(value, scope)
        origin = Origin(NOWHERE, type=type_, collation=collation_of(value, scope)) if type_ else None
        columns.append((output_name(target.res_target), origin))
    return columns, is_whole


def _star(fields: list[str], scope: Scope, columns: Columns) -> bool:
    """Add the columns of `*` or `t.*`; whether these are all of them."""
    items = [item for item in scope.items if not fields or item.name == fields[-1]]
    columns.extend(column for item in items for column in item.columns) if fields else columns.extend(scope.star)
    return bool(items) and not any(item.is_open for item in items)
