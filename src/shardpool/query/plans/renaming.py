"""Temporary tables in the place of tables: what names a table, or is a row of it, has to mean the same after that."""

from __future__ import annotations

from typing import Any

from ...topology import Single
from ..analysis.analysis import Analysis
from ..analysis.catalog import Catalog
from ..analysis.scopes import Mention, Occurrence
from ..text.names import NAMELESS, output_name
from ..text.statement import expression, inner, kind, quoted, strings, walk
from ..text.tree import copy, parts

# A name of an occurrence of a table that no statement uses itself.
_ALIAS = "_shardpool_r{}"


def rename(tree: Any, analysis: Analysis) -> None:
    """Give the tables that are brought, of which `tree` reads temporary ones now, names by which references find them,
    and their rows that are used as values the type that they have in the table.
    """
    assert analysis.mentions is not None
    brought = {node.relation.location: node for node in analysis.tables}
    mentions = [mention for mention in analysis.mentions if mention.node.relation.location in brought]
    rows = {mention.reference.location: mention.node for mention in mentions if mention.is_row}
    _keep_names(tree, rows)
    aliases = _aliases(analysis, mentions)
    for place, node in brought.items():
        node.relation.alias.aliasname = aliases.get(place, node.alias)
    for mention in mentions:
        if mention.node.relation.location in aliases:
            _name(mention, aliases[mention.node.relation.location])
    homes = {node.placement.shard for node in brought.values() if isinstance(node.placement, Single)}
    # Of single tables on several shards there is none that has all their types.
    known = {place: node for place, node in rows.items() if len(homes) <= 1 or not isinstance(node.placement, Single)}
    _type_rows(tree, known, analysis.catalog)


def _aliases(analysis: Analysis, mentions: list[Mention]) -> dict[int, str]:
    """By place, a new name for each occurrence of a table of which others have the name, or that is named by schema."""
    bare = [node for node in (*analysis.tables, *analysis.references) if not node.relation.alias.aliasname]
    tables: dict[str, set[str]] = {}
    for node in bare:
        tables.setdefault(node.alias, set()).add(node.table)
    needed = {node.relation.location for node in bare if len(tables[node.alias]) > 1}
    needed |= {mention.node.relation.location for mention in mentions if _has_schema(mention)}
    places = sorted(needed & {node.relation.location for node in analysis.tables})
    return {place: _ALIAS.format(number) for number, place in enumerate(places, 1)}


def _has_schema(mention: Mention) -> bool:
    return len(strings(mention.reference.fields)) > (1 if mention.is_row else 2)


def _name(mention: Mention, alias: str) -> None:
    """`schema.table.column` and `table.column` → `alias.column`; a row is named by `table`, too."""
    fields = mention.reference.fields
    last = copy(fields[-1])
    is_bare = mention.is_row and not _is_star(mention.reference)
    del fields[:]
    fields.add().string.sval = alias
    if not is_bare:
        fields.append(last)


def _is_star(reference: Any) -> bool:
    return bool(reference.fields[-1].WhichOneof("node") == "a_star")


def _keep_names(tree: Any, rows: dict[int, Occurrence]) -> None:
    """Columns of the output that are named after a row."""
    for target in walk(tree):
        if kind(target) != "ResTarget" or target.name:
            continue
        value = inner(target.val)
        is_expanded = any(item.WhichOneof("node") == "a_star" for item in getattr(value, "indirection", ()))
        is_expanded |= kind(value) == "ColumnRef" and _is_star(value)
        if not is_expanded and any(kind(part) == "ColumnRef" and part.location in rows for part in walk(value)):
            target.name = output_name(target).replace(NAMELESS, "")


def _type_rows(message: Any, rows: dict[int, Occurrence], catalog: Catalog, *, expands: bool = False) -> None:
    """Replace rows used as values below a message, right below which `t.*` may stand for many columns."""
    for name, child in parts(message):
        found = inner(child)
        if kind(found) != "ColumnRef":
            many = kind(found) in ("ResTarget", "RowExpr") or name == "values_lists"
            if found is not None:
                _type_rows(found, rows, catalog, expands=many)
        elif found.location in rows and not (expands and _is_star(found)):
            node = rows[found.location]
            if not _is_of_column(message, node, catalog):
                child.CopyFrom(_row(strings(found.fields)[0], node))


def _is_of_column(message: Any, node: Occurrence, catalog: Catalog) -> bool:
    """`(t).x`, `(t).*` and `x(t)` are columns of t, and no values of its type."""
    if kind(message) != "FuncCall":
        return kind(message) == "A_Indirection"
    name = strings(message.funcname)[-1]
    return catalog.tables[node.table].column(name) is not None and not catalog.has_function(name)


def _row(alias: str, node: Occurrence) -> Any:
    """A row as a value of its table's type; NULL where an outer join has found none."""
    name, table = quoted(alias), ".".join(map(quoted, node.table.split(".", 1)))
    return expression(f"CASE WHEN {name}.* IS DISTINCT FROM NULL THEN CAST(ROW({name}.*) AS {table}) END")
