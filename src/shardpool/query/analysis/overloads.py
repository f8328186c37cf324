"""Calls and operators that can only mean PostgreSQL's own, though others have one of the name: by argument types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..text.statement import inner, kind, strings, walk
from .catalog import Catalog, Takes
from .scopes import Scope
from .types import SCALARS, type_of


def qualify(expression: Any, scope: Scope, catalog: Catalog) -> None:
    """Write the schema of a call of PostgreSQL's own function or operator where others have one of its name."""
    others: Sequence[Takes] | None = None
    if kind(expression) == "FuncCall" and not (expression.agg_within_group or expression.func_variadic):
        name, arguments = expression.funcname, list(expression.args)
        others = catalog.other_functions.get(strings(name)[-1])
    elif kind(expression) == "A_Expr" and expression.kind == 1:
        name, arguments = expression.name, [expression.lexpr, expression.rexpr]
        others = catalog.other_operators.get(strings(name)[-1])
    if others is None or len(name) > 1:
        return
    types = [_type(argument, scope, catalog) for argument in arguments if inner(argument) is not None]
    if not any(_may_take(takes, types) for takes in others):
        last = name[0].string.sval
        name[0].string.sval = "pg_catalog"
        name.add().string.sval = last


def _type(argument: Any, scope: Scope, catalog: Catalog) -> str | None:
    """The type of an argument, when it is one of PostgreSQL's own and no function of others has a say in it.

    A domain is given as its own type is: that something does not fit is known of PostgreSQL's own types only.
    """
    calls = [catalog.function(strings(part.funcname)) for part in walk(argument) if kind(part) == "FuncCall"]
    type_ = type_of(argument, scope) if all(call is not None and call.built_in for call in calls) else None
    return type_ if type_ in SCALARS else None


def _may_take(takes: Takes, types: Sequence[str | None]) -> bool:
    return len(takes) == len(types) and all(
        wanted is None or given is None or given in wanted for wanted, given in zip(takes, types, strict=True)
    )
