"""Occurrences of tables in a statement, what is known of their keys, and the scopes in which column names are found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...topology import Placement
from ..text.statement import strings
from .pins import Pin


@dataclass(eq=False, slots=True)
class Occurrence:
    """One occurrence of a table, or of a subquery in FROM (then `table` is empty), whose rows lie on shards by a key.

    An edge to another node says: of that node only rows with the same key as the row of this one matter. `pins` are,
    by key part, what the statement says about the key of the rows that matter. `filters` are conditions on this node
    alone that every row that matters fulfils.
    """

    table: str = ""
    placement: Placement | None = None
    relation: Any = None
    alias: str = ""
    keyspace: str = ""
    key_columns: tuple[str, ...] = ()
    pins: list[list[Pin]] = field(default_factory=list)
    edges: list[Occurrence] = field(default_factory=list)
    filters: list[Any] = field(default_factory=list)
    # Parts of the key that are known to be equal so far, for nodes with a key of several parts.
    equal_parts: dict[Occurrence, set[int]] = field(default_factory=dict)

    @property
    def has_key(self) -> bool:
        return bool(self.keyspace)

    def tie(self, other: Occurrence, part: int) -> None:
        """The key part of `other`'s rows that matter equals this node's; an edge when all parts do."""
        if part < 0 or not self.has_key or self.keyspace != other.keyspace or other is self:
            return
        parts = self.equal_parts.setdefault(other, set())
        parts.add(part)
        if len(parts) == len(self.pins) and other not in self.edges:
            self.edges.append(other)

    def reach(self) -> set[Occurrence]:
        """Itself and every node that edges lead to."""
        reached = {self}
        left = [self]
        while left:
            for node in left.pop().edges:
                if node not in reached:
                    reached.add(node)
                    left.append(node)
        return reached


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a column comes from: part `part` of the key of `node`, or (part -1) any other column of it.

    `column` is its name in the table, empty when it has passed through a subquery; `type` is as format_type() tells it.
    """

    node: Occurrence
    part: int = -1
    column: str = ""
    type: str = ""
    collation: str | None = None
    # Whether the server orders its values as the key's own order is.
    is_ordered: bool = False
    # Whether a key column may be NULL in the table itself.
    nullable: bool = False


Columns = list[tuple[str, Origin | None]]


@dataclass(slots=True)
class Item:
    """One name in FROM with its columns in order; an Origin of None is a column of which nothing is known.

    `is_open`: it may have columns whose names are not listed. `node` is the table that it is; `table` is the qualified
    name of one that has no alias.
    """

    name: str
    columns: Columns
    is_open: bool = False
    table: str = ""
    node: Occurrence | None = None

    def find(self, name: str) -> list[Origin | None]:
        """The columns of that name."""
        return [origin for column, origin in self.columns if column == name]

    def renamed(self, name: str, names: list[str]) -> Item:
        """The item under another name, with new names for its first columns."""
        renamed = [
            (names[number] if number < len(names) else column, origin)
            for number, (column, origin) in enumerate(self.columns)
        ]
        return Item(name, renamed, self.is_open, node=self.node)


@dataclass(frozen=True, slots=True)
class Mention:
    """A ColumnRef that names an occurrence of a table, for a column of it or for its whole row."""

    reference: Any
    node: Occurrence
    is_row: bool


@dataclass(eq=False, slots=True)
class Scope:
    """The names that expressions of one query level see, and the level around it."""

    parent: Scope | None = None
    items: list[Item] = field(default_factory=list)
    # What `*` stands for.
    star: Columns = field(default_factory=list)
    # Columns of JOIN … USING, which have no table: they come before those of the items.
    merged: dict[str, Origin | None] = field(default_factory=dict)
    # The nodes of which each row of the level has a row that is not made up of NULLs.
    anchors: list[Occurrence] = field(default_factory=list)
    # Whether there are aggregates that belong to this level, here or in its subqueries.
    has_aggregates: bool = False

    def outward(self) -> Iterator[Scope]:
        """The level itself and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent

    def outer(self, depth: int) -> Scope:
        """The scope so many levels out."""
        scope = self
        while depth and scope.parent is not None:
            scope, depth = scope.parent, depth - 1
        return scope

    def find(self, fields: list[str]) -> tuple[Origin | None, int] | None:
        """The origin of a column by the parts of its name, and how many levels out it was found; None: unknown."""
        scope: Scope | None = self
        depth = 0
        while scope is not None:
            hit = scope.unqualified(fields[0]) if len(fields) == 1 else scope.qualified(fields)
            if hit is not None:
                return (None if hit is _UNKNOWN else hit[0]), depth
            scope, depth = scope.parent, depth + 1
        return None

    def has_no_column(self, fields: list[str]) -> bool:
        """Whether the first name is one in FROM whose columns are all known, and the second is none of them."""
        scope: Scope | None = self
        while scope is not None:
            items = [item for item in scope.items if item.name == fields[0]]
            if items:
                return len(items) == 1 and not items[0].is_open and not items[0].find(fields[1])
            scope = scope.parent
        return False

    def level_of(self, names: list[str], *, is_row: bool = False) -> Scope | None:
        """The level that the column, or with `is_row` the whole row, of that name is of; None: it cannot be told.

        A single name is that of a column before it is that of a row.
        """
        table = names if is_row else names[:-1]
        if table:
            return next((scope for scope in self.outward() if scope.named(table)), None)
        scopes = [scope for scope in self.outward() if scope.unqualified(names[0]) is not None]
        if not scopes:
            return self.level_of(names, is_row=True)
        is_sure = len(scopes) == 1 and self.level_of(names, is_row=True) is None
        return scopes[0] if is_sure or scopes[0].has_column(names[0]) else None

    def row_of(self, reference: Any) -> tuple[Item | None, bool]:
        """The item in FROM that a ColumnRef names, if any, and whether its whole row is meant, as by `t` and `t.*`."""
        names = strings(reference.fields)
        is_row = len(names) < len(reference.fields)
        if len(names) == 1 and not is_row:
            is_row = all(scope.unqualified(names[0]) is None for scope in self.outward())
        table = names if is_row else names[:-1]
        level = self.level_of(table, is_row=True) if table else None
        items = level.named(table) if level is not None else []
        return (items[0] if len(items) == 1 else None), is_row

    def has_column(self, name: str) -> bool:
        """Whether a name is surely that of a column of this level."""
        return name in self.merged or any(item.find(name) for item in self.items)

    def named(self, table: list[str]) -> list[Item]:
        """The items of this level that a name, perhaps with its schema, stands for."""
        items = [item for item in self.items if item.name == table[-1]]
        return [item for item in items if item.table == ".".join(table[-2:])] if len(table) > 1 else items

    def unqualified(self, name: str) -> Any:
        if name in self.merged:
            return (self.merged[name],)
        hits = [origin for item in self.items for origin in item.find(name)]
        if len(hits) > 1 or any(item.is_open and not item.find(name) for item in self.items):
            return _UNKNOWN
        return (hits[0],) if hits else None

    def qualified(self, fields: list[str]) -> Any:
        items = self.named(fields[:-1])
        if not items:
            return None
        hits = items[0].find(fields[-1])
        return (hits[0],) if len(items) == len(hits) == 1 else _UNKNOWN


_UNKNOWN: Any = object()


def anchor(candidates: Iterable[Occurrence], nodes: Iterable[Occurrence]) -> Occurrence | None:
    """The node of the candidates from which all the nodes can be reached."""
    wanted = {node for node in nodes if node.table}
    return next((node for node in candidates if wanted <= node.reach()), None)


def column_names(item: Any) -> list[str]:
    """The names that an alias gives to columns."""
    return [node.string.sval for node in item.alias.colnames]
