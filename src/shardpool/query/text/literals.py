"""The literals in a text that differ from call to call: what is left without them, and which may be others.

Only whole numbers and plain texts in quotes are looked at, and only where nothing else could be taken for them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from .statement import inner, kind, strings, walk

_INT4, _INT8, _TEXT = "\1", "\2", "\3"
# A text in quotes; a whole number; a quoted name; and what makes it another question what is a literal. By the set that
# comes first, what can begin none of them is passed over in half of the time; what it has taken is looked back at.
_TOKEN = re.compile(
    r"""['"0-9$\1-\3/-](?:"""
    r"""(?<=(?<![\w&])')([^'\\]*)'(?!')"""
    r"""|(?<=(?<![\w$.'"])[0-9])([0-9]{0,17})(?![\w$.'"])"""
    r"""|(?<=")[^"]*\""""
    r"""|((?<=[$'\1-\3])|(?<=-)-|(?<=/)\*))"""
)
# They are read as the time at which they are read.
_NAMED_TIMES = re.compile(r"now|today|tomorrow|yesterday|epoch|infinity|allballs", re.IGNORECASE)
_COMPARISONS = frozenset(("=", "<", ">", "<=", ">=", "<>"))
_OPERATOR, _IN, _BETWEEN = 1, 7, 11


class Literals(NamedTuple):
    """A text with marks, by kind, in the places of its literals, and their values."""

    frame: str
    values: tuple[int | str, ...]


def literals(sql: str) -> Literals | None:
    """The literals of a text; None where it has none, or may have others."""
    frame: list[str] = []
    values: list[int | str] = []
    at = 0
    for token in _TOKEN.finditer(sql):
        which = token.lastindex
        if which is None:
            continue
        if which == 1:
            text = token[1]
            if _NAMED_TIMES.search(text):
                return None
            values.append(text)
            frame += (sql[at : token.start()], _TEXT)
        elif which == 2:
            number = int(token[0])
            values.append(number)
            frame += (sql[at : token.start()], _INT4 if number < 2**31 else _INT8)
        else:
            return None
        at = token.end()
    if not values:
        return None
    frame.append(sql[at:])
    return Literals("".join(frame), tuple(values))


def variable(sql: str, tree: Any) -> tuple[int, ...]:
    """The numbers of the literals that are values: compared, inserted, or assigned, each as it stands."""
    places = set(_values(tree))
    tokens = (token for token in _TOKEN.finditer(sql) if token.lastindex in (1, 2))
    return tuple(number for number, token in enumerate(tokens) if len(sql[: token.start()].encode()) in places)


def with_parameters(sql: str, numbers: tuple[int, ...]) -> str:
    """The text with `$1`, `$2`, … in the places of these literals."""
    parts: list[str] = []
    at = 0
    tokens = [token for token in _TOKEN.finditer(sql) if token.lastindex in (1, 2)]
    for param, number in enumerate(numbers, 1):
        token = tokens[number]
        parts += (sql[at : token.start()], f"${param}")
        at = token.end()
    return "".join((*parts, sql[at:]))


def _values(tree: Any) -> Iterator[int]:
    """Where in the text these literals stand, in bytes."""
    for found in walk(tree):
        match kind(found):
            case "A_Expr" if found.kind in (_IN, _BETWEEN) or (
                found.kind == _OPERATOR and strings(found.name)[-1] in _COMPARISONS
            ):
                sides = [inner(found.lexpr), inner(found.rexpr)]
                nodes = [node for side in sides for node in (side, *map(inner, getattr(side, "items", ())))]
            case "InsertStmt":
                nodes = [cell for row in inner(found.select_stmt).values_lists for cell in map(inner, inner(row).items)]
            case "UpdateStmt":
                nodes = [inner(inner(target).val) for target in found.target_list]
            case _:
                continue
        yield from (node.location for node in nodes if kind(node) == "A_Const")
