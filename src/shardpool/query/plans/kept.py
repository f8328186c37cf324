"""Writes that may change columns which are unique over the fleet: the entries are kept with them. Pure."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
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
    for node in analysis.writes:
        _refuse_entries(node.table, topology)
    _refuse_conflicts(tree, topology, catalog)
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
        stored = catalog.tables[name].column(lookup.column) if name in catalog.tables else None
        if stored is not None and stored.generated:
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


def refuse_load(table: Table, columns: Sequence[str], topology: Topology) -> None:
    """Raise `UnsupportedQuery` where loading columns of a table would leave its entries behind, or writes entries."""
    if not topology.lookups:
        return
    _refuse_entries(table.name, topology)
    for lookup in topology.lookups.get(table.name, ()):
        column = table.column(lookup.column)
        if lookup.column in columns or (column is not None and column.default):
            raise UnsupportedQuery(
                f"COPY into {table.name.removeprefix('public.')}, whose {lookup.column} is unique over the fleet",
                detail="COPY tells nothing of the rows for which entries are kept.",
                hint="Insert them with execute(), many in one VALUES. Or drop the lookup, load, and make it anew: "
                f"shardpool lookup drop {lookup.name}",
            )


def _refuse_conflicts(tree: Any, topology: Topology, catalog: Catalog) -> None:
    """Raise `UnsupportedQuery` for ON CONFLICT with a value that a row of another shard may have."""
    for part in walk(tree):
        if kind(part) != "InsertStmt" or not part.HasField("on_conflict_clause"):
            continue
        name = catalog.resolve(part.relation.schemaname, part.relation.relname) or ""
        inferred = part.on_conflict_clause.infer
        targets = {element.index_elem.name for element in inferred.index_elems}
        for lookup in topology.lookups.get(name, ()):
            if lookup.column in targets or not (targets or inferred.conname):
                raise UnsupportedQuery(
                    f"ON CONFLICT with a value of {lookup.name}, which a row of another shard may have",
                    detail="Each shard looks for conflicts among its own rows.",
                    hint="Name the key of the table: ON CONFLICT (…). Or insert, and catch UniqueViolation.",
                )


def _refuse_entries(table: str, topology: Topology) -> None:
    for lookup in (lookup for lookups in topology.lookups.values() for lookup in lookups):
        if lookup.entries == table:
            raise UnsupportedQuery(
                f"{table.removeprefix('public.')} has the entries of the lookup of {lookup.name}",
                hint="Write the table itself, and they are kept; what others have left is mended by: "
                "shardpool lookup repair",
            )
