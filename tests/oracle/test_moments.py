"""Rows that one statement writes on several shards have one moment, as on one plain server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shardpool import Router, UnsupportedQuery

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    tables: {t: k, source: k}
"""
SCHEMA = """
create table t (
  k bigint primary key, note text default 'none', at timestamptz default now(),
  day date default current_date, local timestamp(3) default localtimestamp, short varchar(60) default now()::text,
  later timestamptz default current_timestamp(2) + interval '1 day', clock time default localtime,
  zoned timetz default current_time(1), own timestamptz default clock_timestamp(), uid uuid default gen_random_uuid());
create table source (k bigint primary key, note text, at timestamptz);
insert into source select i, 'n' || i % 3, now() from generate_series(1, 40) i;
"""
MOMENTS = ("at", "day", "local", "short", "later", "clock", "zoned")
COUNTS = ", ".join(f"count(distinct {name})" for name in MOMENTS)
LONG = ", ".join(f"({number}, 'it''s {number}')" for number in range(1, 1500))
# So that no moment of a change is rounded to that of the rows before.
EARLIER = "update t set day = day - 1, short = 'earlier', " + ", ".join(
    f"{name} = {name} - interval '1 hour'" for name in ("at", "local", "later", "clock", "zoned")
)
WRITES: list[Any] = [
    "insert into t (k) values (1), (2), (3), (4), (5), (6), (7), (8)",
    "insert into t values (1, 'a'), (2, 'b'), (3, 'c'), (4, default), (5, 'x$1'), (6, 'y'), (7, 'z'), (8, null)",
    "insert into t (k, at, note) values (1, default, 'a'), (2, default, 'b'), (3, default, 'c'), (4, default, 'd') "
    "returning k, at is null, note",
    ("insert into t (k, note) values (%s, %s), (%s, %s), (%s, %s)", [1, "a", 2, "b", 3, "c"]),
    ("insert into t (k, note, at) values (%s, %s, default), (%s, 'b', default), (3, %s, default)", [1, "a", 2, "c"]),
    f"insert into t (k, note) values {LONG}",
    f"insert into t as x (k, note) values {LONG} returning x.k, x.note",
    "insert into t (note, day, k) values " + ", ".join(f"('n', default, {n})" for n in range(1, 1500)),
    "insert into t (k, note) select k, note from source",
    "insert into t select * from source where k < 30",
    "insert into t select k from source",
    "insert into t (k, note) select distinct k, note from source",
    "insert into t (k, note) select k, max(note) from source group by k",
    "insert into t (k, note) select k, note from source where k < 9 union select k, 'u' from source where k > 20",
    "insert into t (k, note) select k, note from source where k < 9 returning k, note",
    "with s as (select k, note from source) insert into t (k, note) select s.k, '2020' from s",
]
CHANGES: list[Any] = [
    "update t set at = default, day = default",
    "update t set (at, note, local) = (default, 'x', default), short = default where k > 3",
    "update t set at = default, note = t.note || '!' from source s where s.k = t.k returning t.k, t.note",
    "insert into t (k) values (1), (2), (3), (4) on conflict (k) do update set at = default, day = default, "
    "later = default, clock = default, zoned = default, local = default, short = default",
    "insert into t (k, at) values (1, now()), (2, default), (3, '2020-01-01') on conflict (k) do nothing",
    "merge into t using source s on s.k = t.k when matched then update set at = default",
]


@pytest.fixture
def both(shardpool_make_topology: Callable[..., Path], shardpool_database: str) -> Iterator[tuple[Router, Any]]:
    with (
        Router(shardpool_make_topology(KEYSPACES)) as router,
        psycopg.connect(shardpool_database, autocommit=True) as plain,
    ):
        tables, _, rows = SCHEMA.partition("insert into")
        plain.execute(tables)
        router.scatter(tables)
        plain.execute("insert into " + rows)
        router.copy_into("source", plain.execute("table source").fetchall(), columns=["k", "note", "at"])
        yield router, plain


def _same(both: tuple[Router, Any], case: Any) -> None:
    sql, params = case if isinstance(case, tuple) else (case, None)
    result, cursor = both[0].execute(sql, params), both[1].execute(sql, params)
    assert result.rowcount == cursor.rowcount, sql
    if cursor.description:
        assert result.columns == tuple(column.name for column in cursor.description), sql
        assert sorted(map(repr, result.rows)) == sorted(map(repr, cursor.fetchall())), sql
    for query in (f"select {COUNTS} from t", "select k, note, own is null, uid is null from t order by k"):
        assert both[0].execute(query).rows == both[1].execute(query).fetchall(), (sql, query)


def test_what_a_default_makes_of_the_moment_is_the_same_on_all_shards(both: tuple[Router, Any]) -> None:
    for case in WRITES:
        _same(both, case)
        for one in both:
            one.execute("delete from t")


def test_what_is_set_to_a_default_of_the_moment_is_the_same_on_all_shards(both: tuple[Router, Any]) -> None:
    for case in CHANGES:
        for one in both:
            one.execute("delete from t")
            one.execute("insert into t (k) select k from source")
            one.execute(EARLIER)
        _same(both, case)


def test_rows_that_are_loaded_have_one_moment_on_all_shards(both: tuple[Router, Any]) -> None:
    router, _ = both
    for binary in (True, False):
        router.copy_into("t", [(k, "n") for k in range(500)], columns=["k", "note"], binary=binary)
        assert router.execute(f"select {COUNTS} from t").one() == (1,) * len(MOMENTS)
        assert router.execute("select count(*), count(distinct uid) from t where at <= now()").one() == (500, 500)
        router.execute("delete from t")


def test_a_text_that_holds_the_name_of_a_moment_is_a_text(both: tuple[Router, Any]) -> None:
    for one in both:
        one.execute("insert into t (k) select k from source")
    for sql in (
        "update t set note = 'know how' where k < 10",
        "update t set note = 'not now'",
        "update t set (note, short) = ('now', 'today') where note = 'not now' and k > 3",
        "update t set note = 'x' where note in ('now', 'tomorrow') and not short like 'today is%'",
        "update t set note = coalesce(t.note, 'do it now, not tomorrow') from source s where s.k = t.k",
        "insert into t (k, note) values (101, 'now'), (102, 'not now'), (103, ' today ')",
        "insert into t (k, note) select k, 'not now' from source where k < 3 on conflict do nothing",
        "insert into t (k) values (1), (2), (3), (4) on conflict (k) do update set note = 'yesterday'",
        "delete from t where t.note = 'yesterday'",
        "insert into t (k, at) values (201, 'now'), (202, 'now'), (203, 'now')",
    ):
        for one in both:
            one.execute(EARLIER)
        _same(both, sql)
    for sql in (
        "update t set at = 'now'",
        "update t set at = ' Today at 10:00 pm UTC'",
        "with s as (select k, at note from source) update t set note = 'x' from s where s.k = t.k and s.note < 'now'",
        "update t set note = 'now'::timestamptz::text",
        "update t set note = 'x' where at < 'yesterday'",
    ):
        with pytest.raises(UnsupportedQuery, match="evaluated by each shard"):
            both[0].execute(sql)
