"""copy_into stores each value of each type as text COPY into one PostgreSQL does, or refuses it as well."""

from __future__ import annotations

import datetime as dt
import ipaddress
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Json, Jsonb

from shardpool import LoadError, Router

UTC, INDIA = dt.UTC, dt.timezone(dt.timedelta(hours=5, minutes=30))
JSON = ["[1,  2]", '{"a": 1, "a": 2}', Json({"x": 'é"\n'}), Jsonb([None, 1.5]), "null", '"\\u00e9"', 7]
A = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
# Between two reals: of the first the text is above it, of the second below.
BETWEEN = [1 + 2.0**-24, 1 + 3 * 2.0**-24, -0.1 - 2.0**-28, float(2**24 + 1), 2.0**-149 * 1.5, 2.0**-127]
REALS = [0.0, -0.0, 0.1, 3, 2**24 + 3, -(2**53), 1e-45, 3.4028235e38, math.inf, -math.inf, math.nan, *BETWEEN]
# By type the values that binary COPY takes.
GOOD: dict[str, Sequence[Any]] = {
    "real": REALS,
    "float8": [0.1, 7, 2**53 + 1, 10**300],
    "json": JSON,
    "jsonb": JSON,
    "mood": ["sad", "it's"],
    "inet": [*map(ipaddress.ip_address, ["1.2.3.4", "::1", "fe80::1"]), ipaddress.ip_interface("10.1.2.3/8")],
    "cidr": [*map(ipaddress.ip_network, ["10.0.0.0/8", "::/0", "1.2.3.4/32"])],
    "time": [dt.time(), dt.time(23, 59, 59, 999999)],
    "interval": [dt.timedelta(-1, 3600), dt.timedelta(0), dt.timedelta(400, 5, 7), dt.timedelta(0, -1)],
    "text": ["a", "", 7, UUID(A), Decimal("1.50"), b"x", True, dt.date(2025, 1, 2), "\\N", "\t"],
    "char(4)": ["a", "ab  ", 7],
    "boolean[]": [[True, None, False], []],
    "bytea[]": [[b"", b"\0\xff"]],
    "smallint[]": [[1, -(2**15), None]],
    "integer[]": [[], [None], [1, None, 2**31 - 1], [[1, 2], [3, 4]], [[[1]], [[None]]]],
    "bigint[]": [[2**63 - 1, -(2**63)]],
    "text[]": [["a", "", "NULL", None, 'x"y', "{}", "\\", "é", " "], [["a"], ["b"]]],
    "varchar(2)[]": [["ab", "a  ", None]],
    "float8[]": [[0.1, math.nan, None, -math.inf]],
    "timestamp[]": [[dt.datetime(2025, 1, 2, 3), None]],
    "timestamptz[]": [[dt.datetime(2025, 1, 2, 3, tzinfo=UTC), dt.datetime(1, 1, 2, tzinfo=INDIA)]],
    "date[]": [[dt.date(1, 1, 1), dt.date(9999, 12, 31)]],
    "numeric(5,1)[]": [[Decimal("1.25"), Decimal("NaN")], [1, 2]],
    "uuid[]": [[UUID(A), None]],
}
# By type a value that binary COPY takes, and one that COPY refuses.
BAD: list[tuple[str, Any, Any]] = [
    ("real", 1.0, 1e39),
    ("real", 1.0, 1e-46),
    ("real", 1.0, True),
    ("real", 1, 10**39),
    ("json", "1", "{"),
    ("json", "1", True),
    ("json", "1", [1, 2]),
    ("jsonb", "1", "\x00"),
    ("jsonb", "1", '"\\u0000"'),
    ("mood", "sad", "odd"),
    ("mood", "sad", 7),
    ("inet", ipaddress.ip_address("::1"), ipaddress.ip_address("fe80::1%eth0")),
    ("cidr", ipaddress.ip_network("::/0"), ipaddress.ip_interface("10.1.2.3/8")),
    ("integer[]", [1], [2**31]),
    ("smallint[]", [1], [-(2**15) - 1]),
    ("integer[]", [1], ["x"]),
    ("integer[]", [1], [[1], [2, 3]]),
    ("integer[]", [1], [1, [2]]),
    ("integer[]", [1], [True, 1.5]),
    ("varchar(2)[]", ["a"], ["abc"]),
    ("boolean[]", [True], [2]),
    ("text[]", ["a"], ["\x00"]),
]
TYPES = sorted({*GOOD, *(name for name, *_ in BAD)})
TABLES = {name: f"t{number}" for number, name in enumerate(TYPES)}
MOOD = "create type mood as enum ('sad', 'it''s');"
SCHEMA = MOOD + "".join(f"create table {table} (id bigint, v {name});" for name, table in TABLES.items())
KEYSPACES = f"""\
keyspaces:
  numbers:
    key: bigint
    hash:
      function: murmur3
      buckets: 64
      owners: {{s0: 0-31, s1: 32-63}}
    tables: {{{", ".join(f"{table}: id" for table in TABLES.values())}}}
"""
Rows = list[tuple[int, Any]]


@pytest.fixture
def router(shardpool_make_topology: Callable[..., Path]) -> Iterator[Router]:
    with Router(shardpool_make_topology(KEYSPACES, SCHEMA)) as opened:
        yield opened


@pytest.fixture
def conn(shardpool_database: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(shardpool_database, autocommit=True) as conn:
        conn.execute(SCHEMA)
        yield conn


def copied(conn: psycopg.Connection, table: str, rows: Rows) -> None:
    with conn.cursor().copy(sql.SQL("copy {} from stdin").format(sql.Identifier(table))) as copy:
        for row in rows:
            copy.write_row(row)


def test_each_value_is_stored_as_text_copy_stores_it(router: Router, conn: psycopg.Connection) -> None:
    for name, values in GOOD.items():
        table = TABLES[name]
        rows = list(enumerate([*values, None] * 5))
        router.copy_into(table, rows, columns=["id", "v"], binary=True)
        copied(conn, table, rows)
        query = f"select id, v::text from {table}"
        found = [row for result in router.scatter(query).values() for row in result]
        assert sorted(found) == sorted(conn.execute(query).fetchall()), name  # type: ignore[arg-type]


def test_a_real_is_the_one_that_its_text_is(router: Router, conn: psycopg.Connection) -> None:
    chance = Random(1)
    bits = [chance.randrange(-(2**31), 2**31 - 1) for _ in range(600)]
    singles, next_ones = ([struct.unpack("f", struct.pack("i", at + step))[0] for at in bits] for step in (0, 1))
    between = [(one + other) / 2 for one, other in zip(singles, next_ones, strict=True)]
    values = [value for value in [*singles, *between, *map(math.sqrt, map(abs, singles))] if abs(value) < 3.4e38]
    rows = list(enumerate(values))
    router.copy_into(TABLES["real"], rows, columns=["id", "v"], binary=True)
    copied(conn, TABLES["real"], rows)
    query = f"select id, v from {TABLES['real']}"
    found = sorted(row for result in router.scatter(query).values() for row in result)
    assert found == sorted(conn.execute(query).fetchall())  # type: ignore[arg-type]


def test_what_text_copy_refuses_is_refused(router: Router, conn: psycopg.Connection) -> None:
    for name, good, bad in BAD:
        # Behind what the form is chosen by.
        rows: Rows = [*((number, good) for number in range(200)), (200, bad)]
        with pytest.raises((psycopg.Error, ValueError)):
            copied(conn, TABLES[name], rows)
        for binary in (None, True):
            with pytest.raises(LoadError, match=r"nothing was loaded"):
                router.copy_into(TABLES[name], rows, columns=["id", "v"], binary=binary)
        with pytest.raises(LoadError, match="nothing was loaded"):
            router.copy_into(TABLES[name], rows[-1:], columns=["id", "v"])


def test_values_that_have_no_binary_form_go_as_text(router: Router) -> None:
    mixed: dict[str, Sequence[Any]] = {
        "inet": ["10.1.2.3/8", ipaddress.ip_address("::1")],
        "integer[]": ["{1,2}", [3]],
        "real": [2**60, "1.5", Decimal("2.5")],
        "time": ["10:00", dt.time(11)],
    }
    for name, values in mixed.items():
        router.copy_into(TABLES[name], list(enumerate(values)), columns=["id", "v"])
        with pytest.raises(LoadError, match="record 1 is bad"):
            router.copy_into(TABLES[name], list(enumerate(values)), columns=["id", "v"], binary=True)
        count = sum(result.one()[0] for result in router.scatter(f"select count(*) from {TABLES[name]}").values())
        assert count == len(values)
