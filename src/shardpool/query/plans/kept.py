"""Writes that may change columns which are unique over the fleet: the entries are kept with them. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

from ...errors import UnsupportedQuery
from ...topology import Sharded, Topology
from ..analysis.analysis import Analysis
from ..analysis.catalog import Catalog, Table
from ..text.statement import kind, verb, walk

_WRITES = ("InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")


def keeps(tree: Any, analysis: Analysis) -> bool:
    """Whether a statement may change such columns, by itself, by a foreign key or by a trigger.

    Raises `UnsupportedQuery` where it would write entries itself.
    """
    topology, catalog = analysis.topology, analysis.catalog
    if not topology.lookups or not analysis.writes:
        return False
    entries = {lookup.entries: lookup for lookups in topology.lookups.values() for lookup in lookups}
    for node in analysis.writes:
        if node.table in entries:
            lookup = entries[node.table]
            raise UnsupportedQuery(
                f"{node.table.removeprefix('public.')} has the entries of the lookup of {lookup.name}",
                hint="Write the table itself, and they are kept; what others have left is mended by: "
                "shardpool lookup repair",
            )
    return any(
        _may_change(name, verbs, columns, topology, catalog, set())
        for name, verbs, columns in _written(tree, catalog)
        if name in catalog.tables
    )


def _written(tree: Any, catalog: Catalog) -> Iterator[tuple[str, str, frozenset[str] | None]]:
    """Each table that a statement writes, the verb, and the columns that an UPDATE assigns; None for any."""
    for part in walk(tree):
        if kind(part) in _WRITES:
            name = catalog.resolve(part.relation.schemaname, part.relation.relname) or ""
            columns = None
            if kind(part) == "UpdateStmt":
                columns = frozenset(target.res_target.name for target in part.target_list)
            elif kind(part) == "InsertStmt" and not part.on_conflict_clause.target_list:
                columns = frozenset()
            yield name, verb(part), columns


def _may_change(
    name: str, verb_: str, columns: Container[str] | None, topology: Topology, catalog: Catalog, seen: set[str]
) -> bool:
    if name in seen:
        return False
    seen.add(name)
    for lookup in topology.lookups.get(name, ()):
        placement = topology.placements[name]
        watched = (lookup.column, *(placement.key_columns if isinstance(placement, Sharded) else ()))
        if verb_ != "UPDATE" or columns is None or any(column in columns for column in watched):
            return True
    table: Table | None = catalog.tables.get(name)
    if table is None:
        return False
    if any(trigger.runs_on((verb_,)) or verb_ == "MERGE" for trigger in table.triggers):
        return True
    for cascade in table.cascades:
        deletes = verb_ in ("DELETE", "MERGE") and cascade.on_delete in "cnd"
        updates = verb_ != "DELETE" and cascade.on_update in "cnd"
        updates = updates and (columns is None or any(column in columns for column in cascade.referred))
        if (deletes and _may_change(cascade.table, "DELETE", None, topology, catalog, seen)) or (
            updates and _may_change(cascade.table, "UPDATE", None, topology, catalog, seen)
        ):
            return True
    return False
