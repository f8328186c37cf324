"""Names of tables in a statement → tables of the topology."""

from __future__ import annotations

from typing import Any

from ...errors import UnsupportedQuery
from ...keys import column_problems
from ...topology import Sharded, Single, Topology, qualified
from .catalog import Catalog, NeedsShard, Table


def table_name(relation: Any, catalog: Catalog, topology: Topology) -> str:
    """The qualified name of the table that a RangeVar means; raises `UnknownTable` and `UnsupportedQuery`."""
    written = f"{relation.schemaname}.{relation.relname}" if relation.schemaname else relation.relname
    if relation.schemaname in ("pg_catalog", "information_schema") or (
        relation.relname.startswith("pg_") and not relation.schemaname
    ):
        raise UnsupportedQuery(
            f"{written} tells of one server only",
            hint="Ask every shard with scatter(), or one with shard(name).execute().",
        )
    placement = topology.placements.get(qualified(written))
    if isinstance(placement, Single) and placement.shard not in catalog.told_by:
        raise NeedsShard(placement.shard)
    name = catalog.resolve(relation.schemaname, relation.relname)
    if name is None or name not in topology.placements:
        topology.placement(written)
        raise UnsupportedQuery(
            f'the search_path of the shards does not find the table "{written}" of the topology',
            hint="Create it on every shard, or write its schema in the statement.",
        )
    if name not in catalog.tables:
        raise UnsupportedQuery(
            f'table "{written}" is in the topology, but not on the shards', hint="Create it on every shard."
        )
    table = catalog.tables[name]
    # A view that is declared as a reference or single table is the word of whoever declared it.
    is_view = table.kind not in "rp" and isinstance(topology.placement(name), Sharded)
    if is_view or table.row_security:
        raise UnsupportedQuery(
            f"{written} is {'under row security' if table.row_security else 'not a table'} on the shards",
            detail="What it gives depends on more than its rows.",
            hint="Pass key=…, or name the shard: shard(name).execute().",
        )
    _check_key(table, written, topology)
    return name


def _check_key(table: Table, written: str, topology: Topology) -> None:
    """Raise `UnsupportedQuery` for key columns whose values do not say on which shard a row is."""
    placement = topology.placement(table.name)
    if not isinstance(placement, Sharded):
        return
    for name, key_type in zip(placement.key_columns, topology.keyspaces[placement.keyspace].key_types, strict=True):
        column = table.column(name)
        if column is None:
            raise UnsupportedQuery(f'the key column "{name}" of {written} is not on the shards', hint="Add it.")
        for problem in column_problems(name, column.type, key_type, deterministic=column.deterministic):
            raise UnsupportedQuery(
                f"{problem}: {written} cannot be asked across shards",
                detail="Values that are equal on the server may be of different shards.",
                hint="Change the column as check() says; or pass key=…, or name the shard: shard(name).execute().",
            )
