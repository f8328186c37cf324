"""What is known of a statement, and what a file that looks at one kind of clause needs of the whole analysis."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import UnsupportedQuery
from ...topology import Sharded, Topology
from .catalog import Catalog, Column
from .levels import Level, Top
from .listed import Listed
from .pins import KeyAssignment
from .scopes import Columns, Item, Mention, Occurrence, Origin, Scope, column_names
from .tables import table_name

# A statement with more occurrences of tables than this is not analysed further: each use of a CTE is one anew.
_NODES_MAX = 300

Ctes = dict[str, Any]


@dataclass(slots=True)
class Facts:
    """Everything that is known of a statement by its text and the catalog."""

    topology: Topology
    catalog: Catalog
    nodes: list[Occurrence] = field(default_factory=list)
    references: list[Occurrence] = field(default_factory=list)
    locks: bool = False
    writes: list[Occurrence] = field(default_factory=list)
    # Assignments to keys that are no changes if the parameters say so.
    key_assignments: list[KeyAssignment] = field(default_factory=list)
    # What may store other keys than those by which rows are placed.
    doubts: list[str] = field(default_factory=list)
    # Whether there is an aggregate of which it is not known whose level it belongs to.
    unclear_aggregates: bool = False
    # A function that is written as if it were a column, `t.count` for `count(t)`.
    disguised: str = ""
    top: Top = field(default_factory=Top)
    # Of an INSERT whose tree has only a sample of its rows: all of them.
    listed: Listed | None = None
    # Columns of the written table that are given numbers which no row has.
    new: frozenset[str] = frozenset()
    # How many columns the SELECT of an INSERT gives; None where only a server knows.
    inserted: int | None = None
    # The references to tables by their names, where these are asked for.
    mentions: list[Mention] | None = None

    @property
    def tables(self) -> list[Occurrence]:
        """The occurrences of tables of which not every shard has a copy."""
        return [node for node in self.nodes if node.table]

    @property
    def key_columns(self) -> set[str]:
        """The names of key columns that stand for no column of another type in the statement's tables."""
        types: dict[str, set[str]] = {}
        for node in (*self.tables, *self.references):
            for column in self.catalog.tables[node.table].columns:
                types.setdefault(column.name, set()).add(column.type)
        return {name for node in self.tables for name in node.key_columns if len(types[name]) == 1}

    def virtual(self, keyspace: str, parts: int) -> Occurrence:
        node = Occurrence(keyspace=keyspace, pins=[[] for _ in range(parts)])
        self.nodes.append(node)
        return node

    def add(self, node: Occurrence) -> None:
        """Count a table's occurrence among those whose rows lie on some shards only."""
        self.nodes.append(node)
        if len(self.nodes) > _NODES_MAX:
            raise UnsupportedQuery(
                "the statement reads too many tables to be planned",
                detail=f"Each use of a table counts, in WITH each use of its name; {_NODES_MAX} are taken.",
                hint="Pass key=…, or divide it.",
            )

    def table(self, relation: Any) -> tuple[Occurrence, Item]:
        """A table's node and its name with its columns; raises `UnknownTable` and `UnsupportedQuery`."""
        name = table_name(relation, self.catalog, self.topology)
        placement = self.topology.placement(name)
        alias = relation.alias.aliasname or relation.relname
        node = Occurrence(name, placement, relation, alias)
        if isinstance(placement, Sharded):
            node.keyspace, node.key_columns = placement.keyspace, placement.key_columns
            node.pins = [[] for _ in placement.key_columns]
        parts = {column: part for part, column in enumerate(node.key_columns)}
        columns: Columns = [
            (column.name, self._origin(node, parts.get(column.name, -1), column))
            for column in self.catalog.tables[name].columns
        ]
        if relation.HasField("alias"):
            return node, Item(alias, columns, node=node).renamed(alias, column_names(relation))
        return node, Item(alias, columns, table=name, node=node)

    def _origin(self, node: Occurrence, part: int, column: Column) -> Origin:
        is_ordered = column.collation is None or self.catalog.sorts_by_bytes(column.collation)
        return Origin(node, part, column.name, column.type, column.collation, is_ordered, not column.not_null)

    def tie(self, one: Origin, other: Origin, restricts: Callable[[Occurrence], bool]) -> None:
        """Two key parts are equal in each row that matters of a node that is restricted."""
        if one.part != other.part or one.part < 0:
            return
        for source, target in ((one.node, other.node), (other.node, one.node)):
            if restricts(target):
                source.tie(target, one.part)


class Descent(Facts, ABC):
    """The facts, and the ways down into what a clause holds: `Analysis` is the one that walks them."""

    __slots__ = ()

    @abstractmethod
    def query(self, tree: Any, parent: Scope | None, ctes: Ctes) -> Level:
        """A SELECT, a set operation, VALUES, or a write in a WITH clause."""

    @abstractmethod
    def with_clause(self, tree: Any, parent: Scope | None, ctes: Ctes) -> tuple[Ctes, list[dict[str, Any]]]:
        """The names that a statement's WITH clause adds, and its own entries."""

    @abstractmethod
    def unused(self, own: list[dict[str, Any]]) -> None:
        """What of a WITH clause nothing refers to."""

    @abstractmethod
    def from_item(self, item: Any, scope: Scope, ctes: Ctes) -> list[Occurrence]:
        """Add an item of FROM to the scope; gives the nodes of which each of its rows has a row."""

    @abstractmethod
    def condition(
        self,
        expression: Any,
        scope: Scope,
        ctes: Ctes,
        restricts: Callable[[Occurrence], bool],
        solid: Sequence[Occurrence],
    ) -> None:
        """A condition that every row that matters of the nodes that it `restricts` fulfils."""

    @abstractmethod
    def visit_all(self, nodes: Iterable[Any], scope: Scope, ctes: Ctes) -> None:
        """Analyse the subqueries of some expressions."""

    @abstractmethod
    def visit(self, expression: Any, scope: Scope, ctes: Ctes) -> None:
        """Analyse the subqueries of an expression."""
