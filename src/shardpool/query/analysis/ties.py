"""What a condition says of the rows of single tables: that it looks at one alone, or ties two by their keys."""

from __future__ import annotations

from typing import Any

from ..text.statement import inner, kind, strings, walk
from ..text.tree import copy
from .levels import Level
from .scopes import Occurrence, Scope


def only_node(condition: Any, scope: Scope) -> Occurrence | None:
    """The one table of this level whose columns are all that a condition looks at."""
    nodes = set()
    for part in walk(condition):
        if kind(part) == "SubLink":
            return None
        if kind(part) == "ColumnRef":
            hit = scope.find(strings(part.fields)) if len(strings(part.fields)) == len(part.fields) else None
            if hit is None or hit[0] is None or hit[1] != 0 or not hit[0].column:
                return None
            nodes.add(hit[0].node)
    node = nodes.pop() if len(nodes) == 1 else None
    return node if node is not None and node.table else None


def in_own_names(condition: Any, scope: Scope) -> Any:
    """A copy of a condition on one table in which columns have the names that the table gives them."""
    renamed = copy(condition)
    for reference in walk(renamed):
        if kind(reference) == "ColumnRef":
            hit = scope.find(strings(reference.fields))
            assert hit is not None and hit[0] is not None
            del reference.fields[:]
            reference.fields.add().string.sval = hit[0].column
    return renamed


def semi_join(tests: Any, level: Level, scope: Scope) -> None:
    """`key IN (SELECT key …)`: of the subquery only rows with the same key matter.

    Neither side is ever NULL: else rows of other shards could turn false into NULL, which NOT makes a difference.
    """
    tested = [inner(arg) for arg in tests.args] if kind(tests) == "RowExpr" else [tests]
    if level.anchor is None or not level.is_counted or len(tested) != len(level.columns):
        return
    for test, (_, origin) in zip(tested, level.columns, strict=True):
        if kind(test) != "ColumnRef" or origin is None:
            continue
        hit = scope.find(strings(test.fields))
        if hit is None or hit[0] is None or hit[0].node not in scope.outer(hit[1]).anchors:
            continue
        if hit[0].part == origin.part and not (hit[0].nullable or origin.nullable):
            hit[0].node.tie(origin.node, origin.part)
