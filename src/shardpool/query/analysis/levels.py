"""Query levels: what is known of their columns and rows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .scopes import Columns, Occurrence, Origin, Scope

# Where a column of which only the type is known comes from.
NOWHERE = Occurrence()


@dataclass(slots=True)
class Level:
    """One query level: its output columns, the nodes below it, and the one that all its rows are anchored to.

    `anchor` is None when the level is not the union of what the shards make of it. `is_open`: some names of columns are
    not known; `is_counted`: how many there are is.
    """

    columns: Columns
    is_open: bool
    is_counted: bool
    nodes: list[Occurrence]
    anchor: Occurrence | None


@dataclass(slots=True)
class Top:
    """The outermost SELECT: what is to be done with the rows that the shards have made."""

    root: Occurrence | None = None
    grouped: bool = False
    grouped_by_key: bool = False
    distinct: bool = False
    distinct_on: bool = False
    distinct_by_key: bool = False
    windows: bool = False
    windows_by_key: bool = False
    scope: Scope | None = None
    is_set_operation: bool = False
    columns: Columns | None = None


class Aggregate:
    """The call of an aggregate, and the level that it belongs to: of those around it the innermost of which there is a
    column in its arguments, in subqueries in them too; its own when there is none (check_agg_arguments in PostgreSQL's
    parse_agg.c).
    """

    def __init__(self, scope: Scope) -> None:
        self._around = list(scope.outward())
        self._depth: int | None = None
        self.is_unclear = False

    def holds(self, level: Scope | None) -> None:
        """There is a column of that level in its arguments; None: of some level."""
        if level is None:
            self.is_unclear |= len(self._around) > 1
        elif level in self._around:
            depth = self._around.index(level)
            self._depth = depth if self._depth is None else min(depth, self._depth)

    @property
    def level(self) -> Scope:
        return self._around[self._depth or 0]


def renamed(level: Level, names: list[str]) -> Level:
    """The level with new names for its first columns."""
    if not names:
        return level
    if not level.is_counted:
        return Level([], True, False, level.nodes, level.anchor)
    columns = [
        (names[number] if number < len(names) else name, origin) for number, (name, origin) in enumerate(level.columns)
    ]
    is_open = level.is_open and len(names) < len(columns)
    return Level(columns, is_open, True, level.nodes, level.anchor)


def typed(origin: Origin | None) -> Origin | None:
    """Of a column that does not say where its row lies, only the type."""
    return replace(origin, node=NOWHERE, part=-1, column="") if origin is not None and origin.type else None


def part_of(source: Occurrence, origin: Origin, node: Occurrence) -> int:
    return origin.part if node.has_key and is_key_of(source, origin) else -1


def is_key_of(node: Occurrence, origin: Origin | None) -> bool:
    return origin is not None and origin.node is node and origin.part >= 0


def shared_key(first: Level, second: Level) -> dict[int, tuple[int, tuple[Origin, Origin]]] | None:
    """By part, the position of the column in which both arms have it; None unless these are all parts of one key."""
    if not (first.is_counted and second.is_counted and len(first.columns) == len(second.columns)):
        return None
    pairs: dict[int, tuple[int, tuple[Origin, Origin]]] = {}
    for number, ((_, one), (_, other)) in enumerate(zip(first.columns, second.columns, strict=True)):
        if one is None or other is None or one.part < 0 or one.part != other.part:
            continue
        if one.node.keyspace == other.node.keyspace and one.node.has_key:
            pairs[one.part] = number, (one, other)
    nodes = {origin.node for _, origins in pairs.values() for origin in origins}
    complete = bool(pairs) and len(nodes) == 2 and all(len(pairs) == len(node.pins) for node in nodes)
    return pairs if complete else None
