"""Conditions of a statement as facts about keys: which key parts are equal, and to what they are pinned."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from ..text.statement import inner, kind, strings
from .pins import AnyOf, Both, Const, Either, In, Inequality, Pin
from .scopes import Occurrence, Origin, Scope

_FLIPPED = {"=": "=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}
# Spellings of types as the parser gives them, when they have no length.
CASTS = frozenset("int2 int4 int8 numeric text varchar uuid bytea date timestamptz".split())
_NO_TYPMOD = -1

Found = tuple[Origin, int]


def conjuncts(expression: Any) -> Iterator[Any]:
    """The conditions that all have to hold for the whole to hold."""
    if kind(expression) == "BoolExpr" and expression.boolop == 1:  # AND_EXPR
        for arg in expression.args:
            yield from conjuncts(inner(arg))
    else:
        yield expression


def equality(condition: Any, scope: Scope) -> list[tuple[Found, Found]]:
    """Pairs of key parts that a condition says are equal, each with the number of levels out where it was found."""
    pairs = []
    for operator, left, right in _comparisons(condition):
        one, other = _key_column(left, scope), _key_column(right, scope)
        if operator == "=" and one is not None and other is not None:
            pairs.append((one, other))
    return pairs


def pins_of(condition: Any, scope: Scope) -> dict[tuple[Occurrence, int], Pin]:
    """What a condition says about keys of tables of its own level."""
    if kind(condition) == "BoolExpr" and condition.boolop == 2:  # OR_EXPR
        return _either([pins_of(inner(arg), scope) for arg in condition.args])
    if kind(condition) == "BoolExpr" and condition.boolop == 1:
        return _both([pins_of(inner(arg), scope) for arg in condition.args])
    if kind(condition) == "A_Expr" and _operator(condition) == "=" and condition.kind in (2, 7):
        return _pin_of_list(condition, scope)
    if kind(condition) == "A_Expr" and condition.kind == 11:  # BETWEEN
        return _pin_of_between(condition, scope)
    pins: dict[tuple[Occurrence, int], Pin] = {}
    for operator, left, right in _comparisons(condition):
        for name, column, value in ((operator, left, right), (_FLIPPED[operator], right, left)):
            key, const = _own_key(column, scope, ordered=name != "="), constant(value)
            if key is not None and const is not None:
                pin: Pin = In((const,)) if name == "=" else Inequality(name, const)
                pins[key] = Both((pins[key], pin)) if key in pins else pin
    return pins


def _both(sides: list[dict[tuple[Occurrence, int], Pin]]) -> dict[tuple[Occurrence, int], Pin]:
    pins: dict[tuple[Occurrence, int], Pin] = {}
    for side in sides:
        for key, pin in side.items():
            pins[key] = Both((pins[key], pin)) if key in pins else pin
    return pins


def _either(sides: list[dict[tuple[Occurrence, int], Pin]]) -> dict[tuple[Occurrence, int], Pin]:
    """Only what every side says something about is said at all."""
    return {key: Either(tuple(side[key] for side in sides)) for key in sides[0] if all(key in side for side in sides)}


def _comparisons(condition: Any) -> list[tuple[str, Any, Any]]:
    """`a = b` and `(a, b) = (c, d)` as triples of operator, left and right; none for anything else."""
    if kind(condition) != "A_Expr" or condition.kind != 1:
        return []
    operator = _operator(condition)
    left, right = inner(condition.lexpr), inner(condition.rexpr)
    if operator not in _FLIPPED or left is None or right is None:
        return []
    if kind(left) == "RowExpr" and kind(right) == "RowExpr":
        if operator != "=" or len(left.args) != len(right.args):
            return []
        return [("=", inner(one), inner(other)) for one, other in zip(left.args, right.args, strict=True)]
    return [(operator, left, right)]


def _operator(expression: Any) -> str:
    """The operator's name; empty when it is written with a schema."""
    names = strings(expression.name)
    if len(names) == 2 and names[0] == "pg_catalog":
        return names[1]
    return names[0] if len(names) == 1 else ""


def _pin_of_list(condition: Any, scope: Scope) -> dict[tuple[Occurrence, int], Pin]:
    """`k IN (1, 2)`, `k = ANY ($1)`, `k = ANY (ARRAY[1, 2])`, `(k, x) IN ((1, 2), (3, 4))`."""
    left, right = inner(condition.lexpr), inner(condition.rexpr)
    if condition.kind == 7:  # IN
        items = [inner(item) for item in right.items]
        if kind(left) == "RowExpr":
            return _pin_of_rows(left, items, scope)
    elif kind(right) == "A_ArrayExpr":
        items = [inner(item) for item in right.elements]
    else:
        key, const = _own_key(left, scope), constant(right, array=True)
        return {key: AnyOf(const)} if key is not None and const is not None and const.param else {}
    key = _own_key(left, scope)
    consts = [constant(item) for item in items]
    if key is None or any(const is None for const in consts):
        return {}
    return {key: In(tuple(const for const in consts if const is not None))}


def _pin_of_rows(left: Any, rows: list[Any], scope: Scope) -> dict[tuple[Occurrence, int], Pin]:
    pins: dict[tuple[Occurrence, int], Pin] = {}
    for number, column in enumerate(left.args):
        key = _own_key(inner(column), scope)
        if key is None or any(kind(row) != "RowExpr" or len(row.args) != len(left.args) for row in rows):
            continue
        consts = [constant(inner(row.args[number])) for row in rows]
        if all(const is not None for const in consts):
            pins[key] = In(tuple(const for const in consts if const is not None))
    return pins


def _pin_of_between(condition: Any, scope: Scope) -> dict[tuple[Occurrence, int], Pin]:
    key = _own_key(inner(condition.lexpr), scope, ordered=True)
    low, high = (constant(inner(item)) for item in inner(condition.rexpr).items)
    if key is None or low is None or high is None:
        return {}
    return {key: Both((Inequality(">=", low), Inequality("<=", high)))}


def _key_column(expression: Any, scope: Scope) -> Found | None:
    if kind(expression) != "ColumnRef":
        return None
    fields = strings(expression.fields)
    hit = scope.find(fields) if len(fields) == len(expression.fields) else None
    return (hit[0], hit[1]) if hit is not None and hit[0] is not None and hit[0].part >= 0 else None


def _own_key(expression: Any, scope: Scope, *, ordered: bool = False) -> tuple[Occurrence, int] | None:
    """The key part of this level that a column is; when it is to be `ordered`, only one that the server orders so."""
    hit = _key_column(expression, scope)
    if hit is None or hit[1] != 0 or (ordered and not hit[0].is_ordered):
        return None
    return hit[0].node, hit[0].part


def constant(expression: Any, *, array: bool = False) -> Const | None:
    """A literal or a parameter, perhaps cast; None for every other expression."""
    match kind(expression):
        case "ParamRef":
            return Const(param=expression.number) if expression.number else None
        case "A_Const":
            return None if array else _literal(expression)
        case "TypeCast":
            return _cast(expression, array)
        case "A_Expr" if expression.kind == 1 and _operator(expression) == "-" and inner(expression.lexpr) is None:
            const = constant(inner(expression.rexpr))
            negative = const is not None and type(const.value) in (int, Decimal) and not const.cast
            return Const(-const.value) if const is not None and negative else None
    return None


def _literal(expression: Any) -> Const | None:
    match expression.WhichOneof("val"):
        case "ival":
            return Const(expression.ival.ival)
        case "fval":
            try:
                number = Decimal(expression.fval.fval)
            except ArithmeticError:  # 0x1F, 1_000
                return None
            return Const(int(number) if number == number.to_integral_value() and abs(number) < 2**63 else number)
        case "sval":
            return Const(expression.sval.sval)
    return Const(None) if expression.isnull else None


def _cast(expression: Any, array: bool) -> Const | None:
    type_name = expression.type_name
    names = strings(type_name.names)
    if names[:1] == ["pg_catalog"]:
        names = names[1:]
    if type_name.typmods or len(names) != 1 or names[0] not in CASTS or bool(type_name.array_bounds) is not array:
        return None
    const = constant(inner(expression.arg), array=array)
    return None if const is None or const.cast else Const(const.value, const.param, names[0])
