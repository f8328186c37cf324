"""SQL with places for literals: for COPY, which takes no parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .statement import deparse, kind, walk

_MARK = "shardpool $%d parameter"


@dataclass(frozen=True, slots=True)
class Template:
    """Texts and, between them, the numbers of parameters."""

    parts: tuple[str | int, ...]

    def fill(self, literal: Callable[[int], str]) -> str:
        """The SQL with `literal(n)` in the place of `$n`."""
        return "".join(part if isinstance(part, str) else literal(part) for part in self.parts)

    @property
    def params(self) -> frozenset[int]:
        """The numbers of the parameters that are used."""
        return frozenset(part for part in self.parts if isinstance(part, int))

    def __str__(self) -> str:
        return self.fill(lambda number: f"${number}")


def template(tree: Any) -> Template:
    """The template of a tree, which is changed by it."""
    numbers = sorted({found.number for found in walk(tree) if kind(found) == "ParamRef"})
    if not numbers:
        return Template((deparse(tree),))
    _mark(tree)
    parts: list[str | int] = [deparse(tree)]
    for number in numbers:
        parts = [piece for part in parts for piece in _split(part, number)]
    return Template(tuple(parts))


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
