"""What a new shard gets beside its schema: the rows of reference tables, positions of sequences, filled views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from psycopg import AsyncConnection, sql

from ..control.own_sql import qualified
from ..errors import MigrationError
from .session import one, rows_of

_MINE = """
n.nspname <> ALL (ARRAY['pg_catalog', 'information_schema', 'shardpool']::pg_catalog.name[])
AND NOT pg_catalog.starts_with(n.nspname::pg_catalog.text, 'pg_')
AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid AND e.deptype = 'e')
"""

_OWNED = qualified("""
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
  AND d.deptype = 'a' AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
WHERE c.relkind = 'S' AND d.refobjid = pg_catalog.to_regclass(%s)
""")

_NAMES = qualified(f"""
SELECT n.nspname, c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = %s AND (c.relkind <> 'm' OR c.relispopulated) AND {_MINE} ORDER BY c.oid
""")

_ROWS = sql.SQL(
    "SELECT pg_catalog.count(*), coalesce(pg_catalog.sum("
    "pg_catalog.hashtextextended(t::pg_catalog.text, 0)::numeric), 0)::pg_catalog.text FROM {} t"
)


def quoted(table: str) -> str:
    """The name of a table as SQL, and as a pattern of pg_dump that means no other."""
    return sql.Identifier(*table.split(".")).as_string()


async def copy(source: AsyncConnection[Any], target: AsyncConnection[Any], table: str) -> int:
    """All rows of a table; gives how many. Raises `MigrationError` when the table is not there."""
    name = sql.Identifier(*table.split("."))
    columns = await rows_of(
        source,
        qualified(
            "SELECT attname FROM pg_catalog.pg_attribute WHERE attrelid = pg_catalog.to_regclass(%s) AND attnum > 0 "
            "AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
        ),
        (quoted(table),),
    )
    if not columns:
        raise MigrationError(f"reference table {table} is not there to be copied")
    listed = sql.SQL(", ").join(sql.Identifier(row[0]) for row in columns)
    reader, writer = source.cursor(), target.cursor()
    async with (
        reader.copy(sql.SQL("COPY {} ({}) TO STDOUT").format(name, listed)) as out,
        writer.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(name, listed)) as into,
    ):
        async for data in out:
            await into.write(data)
    return writer.rowcount


async def known(conn: AsyncConnection[Any], tables: Iterable[str]) -> list[str]:
    """Those of the tables that are there, with their schemas."""
    query = qualified("""
        SELECT pg_catalog.concat(n.nspname, '.', c.relname) FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass(%s)
    """)
    return [row[0] for table in tables for row in await rows_of(conn, query, (quoted(table),))]


async def digest(conn: AsyncConnection[Any], table: str) -> Any:
    """Equal for equal rows, whatever their order."""
    return await one(conn, _ROWS.format(sql.Identifier(*table.split("."))).as_string())


async def sequences_of(conn: AsyncConnection[Any], tables: Iterable[str]) -> list[str]:
    """The sequences of the serial columns of these tables, quoted."""
    return [row[0] for table in tables for row in await rows_of(conn, _OWNED, (quoted(table),))]


async def set_sequences(source: AsyncConnection[Any], target: AsyncConnection[Any]) -> None:
    """Each sequence goes on after the other shard's.

    One that began anew would give the keys of rows again that are here already, those of reference tables, or that
    come with their buckets.
    """
    there = {tuple(row) for row in await rows_of(target, _NAMES, ("S",))}
    for row in await rows_of(source, _NAMES, ("S",)):
        if tuple(row) in there:
            name = sql.Identifier(*row)
            position = await one(source, sql.SQL("SELECT last_value, is_called FROM {}").format(name).as_string())
            await one(target, "SELECT pg_catalog.setval(%s, %s, %s)", (name.as_string(), *position))


async def fill_views(source: AsyncConnection[Any], target: AsyncConnection[Any]) -> None:
    """The materialized views that are filled on the other shard: a query of one that is not is an error."""
    for row in await rows_of(source, _NAMES, ("m",)):
        await target.execute(sql.SQL("REFRESH MATERIALIZED VIEW {}").format(sql.Identifier(*row)), prepare=False)
