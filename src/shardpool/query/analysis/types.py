"""The types of expressions, as far as they can be told from the statement and the catalog."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..text.statement import inner, kind, strings
from .scopes import Scope

_INTEGERS = ("smallint", "integer", "bigint")
_NUMBERS = (*_INTEGERS, "numeric", "real", "double precision")
# Types of PostgreSQL itself, by the names that format_type() gives to no others.
SCALARS = frozenset(
    (
        *_NUMBERS,
        *("boolean", "text", "character varying", "character", "bytea", "uuid", "json", "jsonb", "money"),
        *("date", "timestamp with time zone", "timestamp without time zone"),
        *("interval", "time with time zone", "time without time zone"),
    )
)
_SPELLED = {
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "bool": "boolean",
    "timestamptz": "timestamp with time zone",
    "timestamp": "timestamp without time zone",
    "varchar": "character varying",
    "bpchar": "character",
}
# Functions of PostgreSQL by the type that they give, whatever they are given.
_GIVES = {
    "count": "bigint",
    "length": "integer",
    "char_length": "integer",
    "octet_length": "integer",
    "extract": "numeric",
    "date_part": "double precision",
    "lower": "text",
    "upper": "text",
    "substring": "text",
    "substr": "text",
    "left": "text",
    "right": "text",
    "btrim": "text",
    "replace": "text",
    "concat": "text",
    "to_char": "text",
}
_AS_ARGUMENT = frozenset("abs min max".split())
_MATHS = frozenset("+ - * / %".split())
_COMPARE = frozenset("= <> < > <= >= ~ !~ ~~ !~~ @> <@".split())


def type_of(expression: Any, scope: Scope) -> str | None:
    """The type's name as format_type() spells it, without its length; None when it is not known."""
    value = inner(expression)
    match kind(value):
        case "ColumnRef":
            fields = strings(value.fields)
            hit = scope.find(fields) if len(fields) == len(value.fields) else None
            return plain(hit[0].type) if hit is not None and hit[0] is not None and hit[0].type else None
        case "A_Const":
            return {"ival": "integer", "boolval": "boolean", "fval": "numeric"}.get(value.WhichOneof("val") or "")
        case "TypeCast":
            return _cast_type(value.type_name)
        case "A_Expr":
            return _operator_type(value, scope)
        case "CaseExpr":
            arms = [when.case_when.result for when in value.args]
            return _common([*arms, *([value.defresult] if value.HasField("defresult") else [])], scope)
        case "CoalesceExpr" | "MinMaxExpr":
            return _common(value.args, scope)
        case "FuncCall":
            name = strings(value.funcname)[-1]
            return type_of(value.args[0], scope) if name in _AS_ARGUMENT and value.args else _GIVES.get(name)
        case "CollateClause":
            return type_of(value.arg, scope)
        case "BoolExpr" | "NullTest" | "BooleanTest":
            return "boolean"
    return None


def plain(type_: str) -> str:
    """`numeric(12,2)` → `numeric`, `character varying(10)` → `character varying`; times keep their words."""
    return type_ if "(" not in type_ else type_[: type_.index("(")] + type_[type_.index(")") + 1 :]


def collation_of(expression: Any, scope: Scope) -> str | None:
    """The collation by which the expression sorts: its name, `default`, or None when it is not known."""
    value = inner(expression)
    if kind(value) == "CollateClause":
        return strings(value.collname)[-1]
    if kind(value) == "ColumnRef":
        fields = strings(value.fields)
        hit = scope.find(fields) if len(fields) == len(value.fields) else None
        return hit[0].collation if hit is not None and hit[0] is not None else None
    return None


def _cast_type(type_name: Any) -> str | None:
    names = strings(type_name.names)
    if type_name.array_bounds or type_name.setof:
        return None
    return _SPELLED.get(names[-1], names[-1]) if names[:-1] in ([], ["pg_catalog"]) else ".".join(names)


def _operator_type(expression: Any, scope: Scope) -> str | None:
    operator = (strings(expression.name) or [""])[-1]
    if expression.kind == 6:  # NULLIF
        return type_of(expression.lexpr, scope)
    if expression.kind != 1 or operator in _COMPARE:
        return "boolean" if expression.kind != 1 or operator in _COMPARE else None
    right = type_of(expression.rexpr, scope)
    if inner(expression.lexpr) is None:
        return right if operator in ("-", "+") and right in _NUMBERS else None
    left = type_of(expression.lexpr, scope)
    if operator == "||" and "text" in (left, right):
        return "text"
    if operator == "-" and left == right == "date":
        return "integer"
    if operator not in _MATHS or left not in _NUMBERS or right not in _NUMBERS:
        return None
    return _wider(left, right)


def _wider(one: str, other: str) -> str:
    """The type of arithmetic on two types of numbers."""
    if "double precision" in (one, other) or ("real" in (one, other) and one != other):
        return "double precision"
    return max(one, other, key=_NUMBERS.index)


def _common(expressions: Iterable[Any], scope: Scope) -> str | None:
    """The type that arms of different types have together; NULL takes any."""
    types = {
        type_of(expression, scope)
        for expression in expressions
        if not (kind(inner(expression)) == "A_Const" and inner(expression).isnull)
    }
    known = {type_ for type_ in types if type_ is not None}
    if len(types) == 1 and known:
        return known.pop()
    return max(known, key=_NUMBERS.index) if known == types and known and known <= set(_NUMBERS) else None
