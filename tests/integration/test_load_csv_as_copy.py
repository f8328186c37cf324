"""load_csv reads any bytes as PostgreSQL's COPY does: the same rows, each on the shard of its key, or none as well."""

from __future__ import annotations

import asyncio
import io
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import psycopg
import pytest
from psycopg import sql

from shardpool import AsyncRouter, LoadError
from shardpool.load import CsvFile, load_csv

KEYSPACES = """\
keyspaces:
  texts:
    key: text
    hash:
      function: murmur3
      buckets: 64
      owners: {s0: 0-31, s1: 32-63}
    tables: {wide: b, lone: b}
"""
SCHEMA = "create table wide (a text, b text not null, c text); create table lone (b text not null);"
WIDE, LONE = ["a", "b", "c"], ["b"]
# What is in a file, more or less often.
PIECES = ["a", "xyz", "é", "7", " ", "\t", "\\", "\\.", "N", "now", ";", "'", '"', '"', '""', '"x"', '"x"', "\r", "\n"]
QUOTED = ["a", "é", ",", ";", '""', "\n", "\r\n", "\r", "\\.", "\n\\.\n", "N", ""]


def odd_text(chance: Random, columns: list[str], delimiter: str, end: str) -> str:
    """A file of fields that are in part what somebody would write, in part anything."""

    def field() -> str:
        kind = chance.random()
        if kind < 0.45:
            return '"' + "".join(chance.choices(QUOTED, k=chance.randint(0, 3))) + '"'
        if kind < 0.9:
            return "".join(chance.choices(PIECES[:10], k=chance.randint(0, 2)))
        return "".join(chance.choices(PIECES, k=chance.randint(1, 4)))

    records = [delimiter.join([field() for _ in columns]) for _ in range(chance.randint(1, 6))]
    if chance.random() < 0.1:
        records.insert(0, delimiter.join([field() for _ in range(chance.randint(1, 4))]))
    last = end if chance.random() < 0.5 else ""
    return end.join([delimiter.join(columns), *records]) + last


def copied(conn: psycopg.Connection, table: str, data: bytes, delimiter: str, null: str) -> Counter[tuple[str, ...]]:
    """The rows that one PostgreSQL makes of the file; raises what it is refused with."""
    form = sql.SQL("copy {} from stdin (format csv, header, delimiter {}, null {})")
    statement = form.format(sql.Identifier(table), delimiter, null)
    with conn.transaction(force_rollback=True), conn.cursor() as cursor:
        with cursor.copy(statement) as copy:
            copy.write(data)
        return Counter(cursor.execute(sql.SQL("select * from {}").format(sql.Identifier(table))).fetchall())


@pytest.mark.parametrize("seed", range(2))
def test_any_file_is_read_as_copy_reads_it(
    shardpool_make_topology: Callable[..., Path], shardpool_database: str, seed: int
) -> None:
    chance = Random(seed)

    async def loaded(router: AsyncRouter, table: str, file: CsvFile) -> Counter[tuple[str, ...]]:
        await load_csv(router, table, file)
        found: Counter[tuple[str, ...]] = Counter()
        for shard, result in (await router.scatter(f"select * from {table}")).items():
            for row in result:
                assert router.for_key(row[WIDE.index("b") if len(row) > 1 else 0], table=table).shard == shard
                found[row] += 1
        await router.scatter(f"truncate {table}")
        return found

    async def compare(conn: psycopg.Connection) -> int:
        taken = 0
        async with AsyncRouter(str(shardpool_make_topology(KEYSPACES, SCHEMA))) as router:
            for _ in range(60):
                table, columns = chance.choice([("wide", WIDE), ("wide", WIDE), ("lone", LONE)])
                delimiter, null = chance.choice(",,;\t"), chance.choice(["", "", "N"])
                end = chance.choice(["\n", "\r", "\r\n"])
                text = odd_text(chance, columns, delimiter, end)
                if conn.info.server_version < 180000 and "\\." in re.split("\r\n|\r|\n", text):
                    # There it ends the COPY, without a word of what follows.
                    continue
                data = text.encode()
                file = CsvFile(io.BytesIO(data), delimiter=delimiter, null=null)
                try:
                    wanted = copied(conn, table, data, delimiter, null)
                except psycopg.Error as error:
                    # Empty lines, which a table of several columns cannot be meant by, are read over.
                    if re.search(f"({re.escape(end)}){{2}}", text) and "missing data" in str(error):
                        continue
                    with pytest.raises(LoadError):
                        await loaded(router, table, file)
                        pytest.fail(f"{text!r} was taken, and COPY says {error}")
                else:
                    assert await loaded(router, table, file) == wanted, text
                    taken += 1
        return taken

    with psycopg.connect(shardpool_database) as conn:
        conn.execute(SCHEMA)
        assert asyncio.run(compare(conn)) > 15
