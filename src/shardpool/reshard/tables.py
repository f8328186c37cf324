"""The tables whose rows move, as their servers have them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..control import guard
from ..control.buckets import bucket_of
from ..operations.connections import Conn, rows
from ..quoting import quote_ident, quote_table
from ..topology import RunningMove, Sharded, Topology

_COLUMNS = """
    select a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attgenerated <> '', a.attidentity,
      coalesce((select k.at from pg_catalog.pg_index i,
        lateral pg_catalog.unnest(i.indkey::int2[]) with ordinality as k (attnum, at)
        where i.indrelid = a.attrelid and i.indisprimary and k.attnum = a.attnum), 0)
    from pg_catalog.pg_attribute a
    where a.attrelid = pg_catalog.to_regclass(%s) and a.attnum > 0 and not a.attisdropped order by a.attnum
"""
_FACTS = """
    select c.relkind = 'p', pg_catalog.pg_get_userbyid(c.relowner),
      (select coalesce(pg_catalog.array_agg(distinct part.relreplident), '{}') from pg_catalog.pg_class part
        where part.oid = c.oid and c.relkind <> 'p'
          or part.oid in (select relid from pg_catalog.pg_partition_tree(c.oid) where isleaf)),
      (select coalesce(pg_catalog.bool_or(part.relpersistence <> 'p'), false) from pg_catalog.pg_class part
        where part.oid = c.oid or part.oid in (select relid from pg_catalog.pg_partition_tree(c.oid))),
      (select coalesce(pg_catalog.sum(greatest(part.reltuples, 0)), 0)::bigint from pg_catalog.pg_class part
        where part.oid = c.oid and c.relkind <> 'p'
          or part.oid in (select relid from pg_catalog.pg_partition_tree(c.oid) where isleaf)),
      (select coalesce(pg_catalog.sum(pg_catalog.pg_total_relation_size(part.oid)), 0)::bigint
        from pg_catalog.pg_class part where part.oid = c.oid and c.relkind <> 'p'
          or part.oid in (select relid from pg_catalog.pg_partition_tree(c.oid) where isleaf))
    from pg_catalog.pg_class c where c.oid = pg_catalog.to_regclass(%s)
"""


@dataclass(frozen=True, slots=True)
class MovedColumn:
    """A column; `at` is its place in the primary key, from 1 on, or 0."""

    name: str
    type: str
    generated: bool
    identity: str
    at: int


@dataclass(frozen=True, slots=True)
class MovedTable:
    """A table whose rows move. `rows` and `bytes` are what the server supposes of all of it, not only of what moves."""

    name: str
    columns: tuple[MovedColumn, ...]
    partitioned: bool
    owner: str
    identities: tuple[str, ...]
    is_lost_in_a_crash: bool
    rows: int
    bytes: int

    @property
    def shown(self) -> str:
        return self.name.removeprefix("public.")

    @property
    def quoted(self) -> str:
        return quote_table(self.name)

    @property
    def primary_key(self) -> tuple[MovedColumn, ...]:
        return tuple(sorted((column for column in self.columns if column.at), key=lambda column: column.at))

    @property
    def stored(self) -> tuple[MovedColumn, ...]:
        """The columns that are sent: generated ones are made anew."""
        return tuple(column for column in self.columns if not column.generated)


async def read_table(conn: Conn, name: str) -> MovedTable | None:
    """A table as its server has it; None where there is none of that name."""
    facts = await rows(conn, _FACTS, (quote_table(name),))
    if not facts:
        return None
    columns = tuple(MovedColumn(*row) for row in await rows(conn, _COLUMNS, (quote_table(name),)))
    partitioned, owner, identities, unlogged, count, size = facts[0]
    return MovedTable(name, columns, partitioned, owner, tuple(identities), unlogged, count, size)


async def read_tables(conn: Conn, topology: Topology, move: RunningMove) -> list[MovedTable]:
    """The tables of a move that are on the server, in the order of the topology."""
    tables = [await read_table(conn, name) for name in guard.tables_of(topology, move)]
    return [table for table in tables if table is not None]


def row_bucket(topology: Topology, table: str) -> str | None:
    """The bucket of a row, as an expression over the table's columns; None: the whole table moves."""
    placement = topology.placements[table]
    if not isinstance(placement, Sharded):
        return None
    return bucket_of(topology.keyspaces[placement.keyspace], placement.key_columns)


def of_move(topology: Topology, move: RunningMove, table: str) -> str:
    """The condition by which a row of a table is one of those that move."""
    bucket = row_bucket(topology, table)
    return "true" if bucket is None else f"coalesce({bucket} <@ {guard.multirange(move.buckets)}, false)"


def column_list(columns: Sequence[MovedColumn]) -> str:
    """Names of columns as SQL lists them."""
    return ", ".join(quote_ident(column.name) for column in columns)
