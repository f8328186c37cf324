"""SQL with places for literals: for COPY, which takes no parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .statement import deparse, expression, inner, kind, strings, walk

_MARK = "shardpool $%d parameter"
# SQLValueFunctionOp by number: CURRENT_DATE, CURRENT_TIMESTAMP, LOCALTIMESTAMP.
_TIMES = {1: "date", 4: "timestamptz", 8: "timestamp"}


@dataclass(frozen=True, slots=True)
class Template:
    """Texts and, between them, the numbers of parameters; 0 is the time of the transaction."""

    parts: tuple[str | int, ...]

    def fill(self, literal: Callable[[int], str]) -> str:
        """The SQL with `literal(n)` in the place of `$n`."""
        return "".join(part if isinstance(part, str) else literal(part) for part in self.parts)

    def numbered(self, time: int) -> str:
        """The SQL with its parameters, and with `$time` where the time of the transaction is."""
        return self.fill(lambda number: f"${number or time}")

    @property
    def params(self) -> frozenset[int]:
        """The numbers of the parameters that are used."""
        return frozenset(part for part in self.parts if isinstance(part, int))

    def __str__(self) -> str:
        return self.fill(lambda number: f"${number}" if number else "now()")


def template(tree: Any) -> Template:
    """The template of a tree, which is changed by it: `$n`, and as number 0 the time of the transaction."""
    _place_times(tree)
    numbers = sorted({found.number for found in walk(tree) if kind(found) == "ParamRef"})
    _mark(tree)
    parts: list[str | int] = [deparse(tree)]
    for number in (0, *numbers):
        parts = [piece for part in parts for piece in _split(part, number)]
    return Template(tuple(parts))


def time_type(expression: Any) -> str | None:
    """The type of an expression that is the time of the transaction, the same all through it; None for any other."""
    if kind(expression) == "FuncCall":
        names = strings(expression.funcname)
        is_now = names[-1] in ("now", "transaction_timestamp") and names[:-1] in ([], ["pg_catalog"])
        return "timestamptz" if is_now and not expression.args else None
    if kind(expression) == "SQLValueFunction":
        return _TIMES.get(expression.op)
    return None


def _place_times(message: Any) -> None:
    """Put a place with the number 0, cast to its type, where the time of the transaction is."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for child in (value,) if hasattr(value, "DESCRIPTOR") else value:
            type_ = time_type(inner(child)) if kind(child) == "Node" else None
            if type_ is None:
                _place_times(child)
                continue
            child.CopyFrom(expression(f"cast(cast(null as timestamptz) as {type_})"))
            place = child.type_cast.arg.type_cast.arg
            place.column_ref.fields.add().string.sval = _MARK % 0


def _mark(message: Any) -> None:
    """Put a column of a name that nobody uses where a parameter is: it is deparsed as one quoted word."""
    for descriptor, value in message.ListFields():
        if descriptor.message_type is None:
            continue
        for child in (value,) if hasattr(value, "DESCRIPTOR") else value:
            if kind(child) == "Node" and child.WhichOneof("node") == "param_ref":
                number = child.param_ref.number
                child.column_ref.fields.add().string.sval = _MARK % number
            else:
                _mark(child)


def _split(part: str | int, number: int) -> Sequence[str | int]:
    if isinstance(part, int):
        return [part]
    found: list[str | int] = []
    for piece in part.split('"' + _MARK % number + '"'):
        found += [piece, number]
    return found[:-1]
