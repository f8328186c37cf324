"""JOIN: which of its rows are real, what its conditions say, and what columns it has."""

from __future__ import annotations

from typing import Any

from ..text.statement import enum_name, inner, strings
from .conditions import conjuncts, equality
from .facts import Ctes, Descent
from .scopes import Item, Occurrence, Origin, Scope, column_names

# The sides of which a join keeps only rows that fulfil its condition.
_RESTRICTED = {"JOIN_LEFT": (1,), "JOIN_RIGHT": (0,), "JOIN_FULL": (), "JOIN_INNER": (0, 1)}


def join(analysis: Descent, join: Any, scope: Scope, ctes: Ctes) -> list[Occurrence]:
    start, first, before, star = len(scope.items), len(analysis.nodes), scope.merged, len(scope.star)
    left, left_merged = _side(analysis, join.larg, scope, ctes)
    left_star = scope.star[star:]
    lefts, middle = scope.items[start:], len(analysis.nodes)
    right, right_merged = _side(analysis, join.rarg, scope, ctes)
    right_star = scope.star[star + len(left_star) :]
    rights = scope.items[start + len(lefts) :]
    type_ = enum_name(join, "jointype")
    sides = (set(analysis.nodes[first:middle]), set(analysis.nodes[middle:]))
    restricted = set().union(*(sides[number] for number in _RESTRICTED.get(type_, ())))
    inside = Scope(scope.parent, lefts + rights, merged={**left_merged, **right_merged})
    if join.HasField("quals"):
        solid = {"JOIN_INNER": left + right, "JOIN_LEFT": right, "JOIN_RIGHT": left}.get(type_, [])
        analysis.condition(inner(join.quals), inside, ctes, restricted.__contains__, solid)
    using = strings(join.using_clause)
    if join.is_natural:
        names = [name for item in lefts for name, _ in item.columns]
        using = [name for name in dict.fromkeys(names) if any(item.find(name) for item in rights)]
    vague = join.is_natural and any(item.is_open for item in lefts + rights)
    pairs = [
        (None, None, name)
        if vague
        else (only_column(lefts, left_merged, name), only_column(rights, right_merged, name), name)
        for name in using
    ]
    for one, other, _ in pairs:
        if one is not None and other is not None:
            analysis.tie(one, other, restricted.__contains__)
    anchors = {"JOIN_INNER": left + right, "JOIN_LEFT": left, "JOIN_RIGHT": right}.get(type_, [])
    merged = {**left_merged, **right_merged}
    merged |= {name: _merged(one, other, right=type_ == "JOIN_RIGHT") for one, other, name in pairs}
    if type_ == "JOIN_FULL":
        anchors, full = _full(analysis, join, inside, left, right, pairs)
        merged |= full
    rest = [column for column in (*left_star, *right_star) if column[0] not in using]
    scope.star[star:] = [(name, merged[name]) for name in using] + rest
    if vague:
        scope.items[start:] = [Item(item.name, [], True, item.table, item.node) for item in scope.items[start:]]
    if join.HasField("join_using_alias"):
        scope.items.append(Item(join.join_using_alias.aliasname, [(name, None) for name in using]))
    if join.HasField("alias"):
        _alias(join, scope, start, star)
        merged = {}
    scope.merged = {**merged, **{name: None if name in merged else origin for name, origin in before.items()}}
    return anchors


def _merged(one: Origin | None, other: Origin | None, *, right: bool) -> Origin | None:
    """The one column that two become: of the type that they have together, which may be that of neither."""
    main, beside = (other, one) if right else (one, other)
    if main is None or beside is None:
        return None
    if main.type and main.type == beside.type and main.collation == beside.collation:
        return main
    is_key = main.part == beside.part and main.node.keyspace == beside.node.keyspace
    return Origin(main.node, main.part if is_key else -1, nullable=main.nullable or beside.nullable)


def _side(analysis: Descent, item: Any, scope: Scope, ctes: Ctes) -> tuple[list[Occurrence], dict[str, Origin | None]]:
    scope.merged = {}
    anchors = analysis.from_item(inner(item), scope, ctes)
    return anchors, scope.merged


def _full(
    analysis: Descent, join: Any, inside: Scope, left: list[Occurrence], right: list[Occurrence], pairs: list[Any]
) -> tuple[list[Occurrence], dict[str, Origin | None]]:
    """A FULL JOIN by the whole key: each of its rows lies where the one or the other does."""
    merged: dict[str, Origin | None] = {name: None for *_, name in pairs}
    equal = [(one, other, name) for one, other, name in pairs if one is not None and other is not None]
    if join.HasField("quals"):
        for condition in conjuncts(inner(join.quals)):
            hits = equality(condition, inside)
            equal += [(one[0], other[0], "") for one, other in hits if one[1] == other[1] == 0]
    for one in left:
        for other in right:
            tied = [pair for pair in equal if {pair[0].node, pair[1].node} == {one, other}]
            names = {a.part: name for a, b, name in tied if a.part == b.part >= 0}
            if one.has_key and one.keyspace == other.keyspace and len(names) == len(one.pins):
                node = analysis.virtual(one.keyspace, len(one.pins))
                for part, name in names.items():
                    node.tie(one, part)
                    node.tie(other, part)
                    if name:
                        merged[name] = Origin(node, part, nullable=any(a.nullable or b.nullable for a, b, _ in tied))
                return [node], merged
    return [], merged


def _alias(join: Any, scope: Scope, start: int, star: int) -> None:
    columns = scope.star[star:]
    is_open = any(item.is_open for item in scope.items[start:])
    names = column_names(join)
    renamed = Item("", [(name, None) for name, _ in columns] if is_open and names else columns, is_open)
    scope.items[start:] = [renamed.renamed(join.alias.aliasname, names)]
    scope.star[star:] = scope.items[start].columns


def only_column(items: list[Item], merged: dict[str, Origin | None], name: str) -> Origin | None:
    """The only column of that name on one side of a join."""
    if name in merged:
        return merged[name]
    hits = [origin for item in items for origin in item.find(name)]
    return hits[0] if len(hits) == 1 and not any(item.is_open for item in items) else None
