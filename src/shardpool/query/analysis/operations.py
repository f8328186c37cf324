"""What a query level does with whole sets of rows, and whether each set lies on one shard."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from ..text.names import output_name
from ..text.statement import children, has_limit, inner, is_star, kind, strings
from .catalog import Catalog
from .levels import Top
from .scopes import Occurrence, Scope

JSON_AGGREGATES = ("JsonArrayAgg", "JsonObjectAgg")


class Operations:
    """The operations of one SELECT, whose rows each have a row of the `anchors`."""

    def __init__(self, tree: Any, scope: Scope, anchors: list[Occurrence]) -> None:
        self._tree = tree
        self._scope = scope
        self._anchors = anchors
        own = [piece for part in _own_parts(tree) for piece in walk_own(part)]
        calls = [own_part for own_part in own if kind(own_part) == "FuncCall"]
        self.grouped = bool(tree.group_clause) or tree.HasField("having_clause")
        self.grouped |= scope.has_aggregates
        self.grouped_by_key = bool(tree.group_clause) and self._keyed(tree.group_clause)
        self.distinct_on = any(node.WhichOneof("node") for node in tree.distinct_clause)
        self.distinct = bool(tree.distinct_clause)
        values = [target.res_target.val for target in tree.target_list]
        self.distinct_by_key = (
            self._keyed(tree.distinct_clause, output_first=True) if self.distinct_on else self._keyed(values)
        )
        over = [call.over for call in calls if call.HasField("over")]
        over += [
            call.constructor.over for call in own if kind(call) in JSON_AGGREGATES if call.constructor.HasField("over")
        ]
        self.windows = bool(over)
        named = {node.window_def.name: node.window_def for node in tree.window_clause}
        self.windows_by_key = all(self._window_keyed(window, named) for window in over)

    @property
    def are_local(self) -> bool:
        return (
            (not self.grouped or self.grouped_by_key)
            and (not self.distinct or self.distinct_by_key)
            and self.windows_by_key
            and not has_limit(self._tree)
        )

    def describe(self, top: Top, root: Occurrence | None) -> None:
        for name in ("grouped", "grouped_by_key", "distinct", "distinct_on", "distinct_by_key"):
            setattr(top, name, getattr(self, name))
        top.windows, top.windows_by_key = self.windows, self.windows_by_key
        top.root, top.scope = root, self._scope

    def _window_keyed(self, window: Any, named: dict[str, Any]) -> bool:
        names = [window.refname or window.name]
        while names[-1] in named and not window.partition_clause:
            window = named[names[-1]]
            if window.refname in names:
                break
            names.append(window.refname)
        return self._keyed(window.partition_clause, positions=False)

    def _keyed(self, expressions: Iterable[Any], *, output_first: bool = False, positions: bool = True) -> bool:
        """Whether the whole key of a table of which each row has a row is among the expressions."""
        parts: dict[Occurrence, set[int]] = {}
        for expression in expressions:
            meant = self._meant(inner(expression), output_first, positions)
            if kind(meant) != "ColumnRef" or len(strings(meant.fields)) != len(meant.fields):
                continue
            hit = self._scope.find(strings(meant.fields))
            if hit and hit[1] == 0 and hit[0] is not None and hit[0].part >= 0:
                parts.setdefault(hit[0].node, set()).add(hit[0].part)
        return any(node in self._anchors and len(own) == len(node.pins) for node, own in parts.items())

    def _meant(self, expression: Any, output_first: bool, positions: bool) -> Any:
        """Positions and names of output columns stand for expressions of the target list.

        A name is first of all one of FROM in GROUP BY, and one of an output column in DISTINCT ON.
        """
        targets = [node.res_target for node in self._tree.target_list]
        if positions and kind(expression) == "A_Const" and expression.WhichOneof("val") == "ival":
            number = expression.ival.ival
            if 1 <= number <= len(targets) and not any(is_star(target) for target in targets):
                return inner(targets[number - 1].val)
        if not positions or kind(expression) != "ColumnRef" or len(strings(expression.fields)) != 1:
            return expression
        if output_first or self._scope.find(strings(expression.fields)) is None:
            names = strings(expression.fields)
            named = [inner(target.val) for target in targets if not is_star(target) and [output_name(target)] == names]
            return named[0] if named else expression
        return expression


def _own_parts(tree: Any) -> Iterator[Any]:
    yield from tree.target_list
    yield from tree.sort_clause
    yield from tree.distinct_clause
    yield from tree.window_clause
    if tree.HasField("having_clause"):
        yield tree.having_clause


def walk_own(node: Any) -> Iterator[Any]:
    """Everything below a node that belongs to the same query level."""
    message = inner(node)
    if message is None or kind(message) == "SelectStmt":
        return
    yield message
    for _, child in children(message):
        yield from walk_own(child)


def is_aggregate(call: Any, catalog: Catalog) -> bool:
    """Whether an expression is the call of an aggregate, or may be."""
    if kind(call) in JSON_AGGREGATES:
        return not call.constructor.HasField("over")
    if kind(call) != "FuncCall" or call.HasField("over"):
        return False
    function = catalog.function(strings(call.funcname))
    return bool(call.agg_star or call.agg_within_group or (function and function.is_aggregate))


def gives_sets(tree: Any, catalog: Catalog) -> bool:
    """Whether an expression may give several rows for one."""
    calls = (catalog.function(strings(call.funcname)) for call in walk_own(tree) if kind(call) == "FuncCall")
    return any(function is not None and function.gives_set for function in calls)
