"""Random writes of columns that are unique over the fleet: accepted and refused as one PostgreSQL does, row for row."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from shardpool import Router, load_topology
from shardpool.operations import create_lookups, repair_lookups

from ..timing import SLOW

OWNERS = "hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}"
KEYSPACES = f"""\
defaults: {{timeout: {SLOW:g}s}}
keyspaces:
  people: {{key: [text, bigint], {OWNERS}, tables: {{users: [region, id]}}}}
  emails: {{key: text, {OWNERS}, lookup: {{users.email: unique}}}}
  numbers: {{key: bigint, {OWNERS}, lookup: {{users.phone: unique}}}}
  moments: {{key: timestamptz, {OWNERS}, lookup: {{users.born: unique}}}}
  raws: {{key: bytea, {OWNERS}, lookup: {{users.raw: unique}}}}
  days: {{key: date, range: [{{below: 2000-01-05, shard: s0}}, {{shard: s1}}], lookup: {{users.day: unique}}}}
  uuids: {{key: uuid, {OWNERS}, lookup: {{users.u: unique}}}}
"""
SCHEMA = """
create table users (
  region text, id bigint, email varchar(20), phone int, born timestamptz, raw bytea, day date, u uuid, name text,
  primary key (region, id));
"""
COLUMNS = {
    "email": "'{0}\"''\\é' || {0}",
    "phone": "{0}",
    "born": "timestamptz '2000-01-01 12:00:00.123456+05' + {0} * interval '7 h'",
    "raw": "decode(lpad(to_hex({0}), 4, '0'), 'hex')",
    "day": "date '2000-01-01' + {0}",
    "u": "md5({0}::text)::uuid",
}


@pytest.fixture
def both(shardpool_make_topology: Callable[..., Path], shardpool_database: str) -> Iterator[tuple[Router, Any]]:
    """The router, and one plain server that looks for duplicates at the end of each statement."""
    path = shardpool_make_topology(KEYSPACES, SCHEMA)
    topology = load_topology(path)
    asyncio.run(create_lookups(topology, timeout=SLOW))
    asyncio.run(repair_lookups(topology, orphans=False))
    with Router(path) as router, psycopg.connect(shardpool_database, autocommit=True) as plain:
        plain.execute(SCHEMA)  # type: ignore[call-overload]
        for column in COLUMNS:
            plain.execute(f"alter table users add unique ({column}) deferrable")  # type: ignore[call-overload]
        yield router, plain


def statement(chance: Random) -> str:
    def value(column: str) -> str:
        return "null" if chance.random() < 0.2 else COLUMNS[column].format(chance.randrange(12))

    def where() -> str:
        column = chance.choice([*COLUMNS, "id", "all"])
        if column == "id":
            return f"region = '{chance.choice('ab')}' and id = {chance.randrange(9)}"
        return f"{column} = {COLUMNS[column].format(chance.randrange(12))}" if column in COLUMNS else "id % 3 = 1"

    columns = chance.sample([*COLUMNS], 2)
    match chance.randrange(6):
        case 0 | 1 | 2:
            rows = ", ".join(
                f"('{chance.choice('ab')}', {chance.randrange(9)}, {', '.join(map(value, columns))}, 'n')"
                for _ in range(chance.choice([1, 1, 2, 3]))
            )
            return f"insert into users (region, id, {', '.join(columns)}, name) values {rows}"
        case 3:
            return f"update users set {', '.join(f'{name} = {value(name)}' for name in columns)} where {where()}"
        case 4:
            return f"update users set phone = phone + {chance.choice([1, 100])}, name = 'm' where id < 6"
        case _:
            return f"delete from users where {where()}"


def outcome(execute: Callable[[str], Any], sql: str) -> Any:
    try:
        return execute(sql).rowcount
    except psycopg.Error as error:
        return error.sqlstate


def check_alike(router: Router, plain: Any, history: list[str]) -> None:
    for sql in (
        "select * from users",
        *(f"select {name}, region, id from users where {name} is not null" for name in COLUMNS),
    ):
        expected = sorted(map(repr, plain.execute(sql).fetchall()))
        assert sorted(map(repr, router.execute(sql).rows)) == expected, "\n".join(history)
        if " is not null" in sql:
            column = sql.split()[1].strip(",")
            entries = router.execute(f"select {column}, region, id from users_{column}_lookup").rows
            assert sorted(map(repr, entries)) == expected, "\n".join(history)


@pytest.mark.parametrize("seed", range(2))
def test_statements_and_transactions_are_as_on_one_server(both: tuple[Router, Any], seed: int) -> None:
    (router, plain), chance = both, Random(seed)
    history: list[str] = []
    codes = set()
    for _ in range(40):
        sql = statement(chance)
        expected = outcome(plain.execute, sql)
        history.append(f"{sql};  -- {expected}")
        assert outcome(router.execute, sql) == expected, "\n".join(history)
        codes.add(expected)
    assert "23505" in codes
    check_alike(router, plain, history)
    for _ in range(8):
        history.append("begin;")
        with suppress(LookupError), router.transaction() as tx, plain.transaction():
            for _ in range(4):
                sql = statement(chance)
                found: list[Any] = []
                for execute, savepoint in ((plain.execute, plain.transaction), (tx.execute, tx.savepoint)):
                    try:
                        with savepoint():
                            found.append(execute(sql).rowcount)
                    except psycopg.Error as error:
                        found.append(error.sqlstate)
                history.append(f"  {sql};  -- {found}")
                assert found[0] == found[1], "\n".join(history)
            if chance.random() < 0.3:
                history.append("rollback;")
                raise LookupError
        check_alike(router, plain, history)
    column = chance.choice([*COLUMNS])
    for number in range(12):
        sql = f"select name, id from users where {column} = {COLUMNS[column].format(number)}"
        assert router.execute(sql).rows == plain.execute(sql).fetchall()
