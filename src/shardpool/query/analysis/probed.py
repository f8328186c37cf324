"""Columns by which a subquery looks up rows for each row around it: an index on them spares it reading all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..text.statement import enum_name, inner, kind, strings, walk
from .catalog import Catalog
from .conditions import conjuncts
from .operations import walk_own
from .scopes import Occurrence

# Others, such as EXISTS and IN, are made joins by the server.
_FOR_EACH_ROW = ("EXPR_SUBLINK", "ARRAY_SUBLINK")
# Types whose values always fit into an index.
_INDEXED = frozenset(("smallint", "integer", "bigint", "uuid", "date", "timestamp with time zone"))


def probed(tree: Any, uses: Sequence[Occurrence], catalog: Catalog) -> tuple[str, ...]:
    """The columns of a table, by its uses in the statement, that are compared so with columns from outside."""
    places = {node.relation.location: node for node in uses}
    names: dict[str, None] = {}
    for link in walk(tree):
        if kind(link) == "SubLink" and enum_name(link, "sub_link_type") in _FOR_EACH_ROW:
            select = inner(link.subselect)
            own = [places[relation.location] for relation in _relations(select) if relation.location in places]
            names.update(dict.fromkeys(_compared(select, own, catalog)))
    return tuple(names)


def _relations(select: Any) -> Iterator[Any]:
    for item in select.from_clause:
        yield from (part for part in walk_own(item) if kind(part) == "RangeVar")


def _compared(select: Any, own: Sequence[Occurrence], catalog: Catalog) -> Iterator[str]:
    for condition in conjuncts(inner(select.where_clause)):
        if kind(condition) != "A_Expr" or condition.kind != 1 or strings(condition.name) != ["="]:
            continue
        sides = [inner(condition.lexpr), inner(condition.rexpr)]
        if all(kind(side) == "ColumnRef" for side in sides):
            columns = [column for side in sides if (column := _column(side, own, catalog))]
            if len(columns) == 1:
                yield columns[0]


def _column(reference: Any, own: Sequence[Occurrence], catalog: Catalog) -> str:
    """The name of the column when it is one of these tables', of a type that is indexed; else empty."""
    fields = strings(reference.fields)
    for node in own:
        column = catalog.tables[node.table].column(fields[-1]) if fields else None
        if column is not None and fields[-2:-1] in ([], [node.alias]) and column.type in _INDEXED:
            return column.name
    return ""
