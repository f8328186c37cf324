"""The names that PostgreSQL gives to output columns (FigureColname in its parse_target.c)."""

from __future__ import annotations

from typing import Any

from .statement import enum_name, inner, is_star, kind, strings

NAMELESS = "?column?"
_BY_KIND = {
    "A_ArrayExpr": "array",
    "RowExpr": "row",
    "CoalesceExpr": "coalesce",
    "GroupingFunc": "grouping",
    "XmlSerialize": "xmlserialize",
    "MergeSupportFunc": "merge_action",
    "JsonObjectConstructor": "json_object",
    "JsonArrayConstructor": "json_array",
    "JsonArrayQueryConstructor": "json_array",
    "JsonParseExpr": "json",
    "JsonScalarExpr": "json_scalar",
    "JsonSerializeExpr": "json_serialize",
}


def output_name(target: Any) -> str:
    """The name of a ResTarget's column; of `t.*` there is none."""
    return NAMELESS if is_star(target) else target.name or figured(inner(target.val))[0] or NAMELESS


def figured(expression: Any) -> tuple[str, int]:
    """A name, empty when there is none, and how good it is: 1 may be replaced by a better one, 2 stays."""
    match kind(expression):
        case "ColumnRef":
            names = strings(expression.fields)
            return (names[-1], 2) if names else ("", 0)
        case "A_Indirection":
            names = strings(expression.indirection)
            return (names[-1], 2) if names else figured(inner(expression.arg))
        case "FuncCall":
            return strings(expression.funcname)[-1], 2
        case "A_Expr" if expression.kind == 6:  # NULLIF
            return "nullif", 2
        case "TypeCast":
            inner_name = figured(inner(expression.arg)) if inner(expression.arg) is not None else ("", 0)
            names = strings(expression.type_name.names)
            return inner_name if inner_name[1] > 1 or not names else (names[-1], 1)
        case "CollateClause":
            return figured(inner(expression.arg))
        case "SubLink":
            return _of_sublink(expression)
        case "CaseExpr":
            inner_name = figured(inner(expression.defresult)) if expression.HasField("defresult") else ("", 0)
            return inner_name if inner_name[1] > 1 else ("case", 1)
        case "MinMaxExpr":
            return ("greatest" if expression.op == 1 else "least"), 2
        case "SQLValueFunction":
            return _of_value_function(expression), 2
    name = _BY_KIND.get(kind(expression))
    return (name, 2) if name else ("", 0)


def _of_sublink(expression: Any) -> tuple[str, int]:
    match enum_name(expression, "sub_link_type"):
        case "EXISTS_SUBLINK":
            return "exists", 2
        case "ARRAY_SUBLINK":
            return "array", 2
        case "EXPR_SUBLINK":
            select = inner(expression.subselect)
            while select.HasField("larg"):
                select = select.larg
            if select.target_list:
                return output_name(select.target_list[0].res_target), 2
            return "column1", 2
    return "", 0


def _of_value_function(expression: Any) -> str:
    name = enum_name(expression, "op").removeprefix("SVFOP_").lower()
    return name.removesuffix("_n")
