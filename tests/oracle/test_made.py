"""INSERTs whose keys only a server can tell: one shard makes the rows, and what is stored is what one server stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shardpool import Router, UnsupportedQuery
from shardpool.errors import ShardpoolError

OWNERS = "hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}"
KEYSPACES = f"""\
keyspaces:
  numbers:
    key: bigint
    {OWNERS}
    tables: {{people: id, serials: id, always: id, short: id, loose: id}}
  names:
    key: text
    {OWNERS}
    tables: {{notes: slug}}
  ids:
    key: uuid
    {OWNERS}
    tables: {{things: id}}
  days:
    key: date
    {OWNERS}
    tables: {{visits: day}}
  moments:
    key: timestamptz
    {OWNERS}
    tables: {{logged: at}}
reference_tables: [countries]
single_tables: {{tally: s2}}
id_block: 1
"""
SCHEMA = """
create domain padded as bpchar;
create table people (id bigint primary key, name text, born date, at timestamptz default now(), tags text[],
  pad bpchar, padded padded);
create table serials (id bigserial primary key, name varchar(5) not null, n numeric(6, 2) default 1);
create table always (id bigint generated always as identity primary key, name text);
create table short (name varchar(3), id int primary key);
create table notes (slug text primary key default 'none', n int);
create table things (id uuid primary key default gen_random_uuid(), name text unique, born timestamptz default now());
create table visits (day date primary key default current_date, n int);
create table logged (at timestamptz primary key default now(), n int);
create table loose (id bigint, name text);
create table tally (what text, n bigint, at date default current_date);
create table countries (id int primary key, name text);
insert into countries values (1, 'a'), (2, 'b'), (3, null);
"""

# Done as by one server: what it says, returns and stores is the same.
ALIKE: list[Any] = [
    # Django's bulk_create.
    (
        "insert into people (id, name, born) select * from unnest(%s::bigint[], %s::text[], %s::date[])"
        " returning id, name",
        [[1, 2, 3, 4], ["a", None, "100%", "it's"], [date(2025, 1, 1), None, date(1, 1, 1), date(9999, 12, 31)]],
    ),
    # SQLAlchemy's insertmanyvalues.
    (
        "INSERT INTO people (id, name) SELECT p0::BIGINT, p1::VARCHAR"
        " FROM (VALUES (%s, %s, 0), (%s, %s, 1), (%s, %s, 2))"
        " AS imp_sen(p0, p1, sen_counter) ORDER BY sen_counter RETURNING people.id, people.id AS id__1",
        [7, "g", 6, "f", 5, "e"],
    ),
    "insert into people (id) select n from generate_series(10, 40) n",
    "insert into people select * from (values (50, 'x'), (51, 'y')) v",
    "insert into people (name, id) select name, id + 100 from countries order by id returning id, name",
    "insert into people (id, name) values (20 + 100, 'a'), (abs(-121), upper('b')) returning id, name",
    "insert into people (id, name) values (122, lower('A')), (123, default) on conflict (id) do nothing",
    (
        "insert into people (id, name) select n, %s from generate_series(1, 2) n on conflict (id) do update"
        " set name = people.name || excluded.name || %s returning id, name",
        ["new", "%"],
    ),
    "with v as (select 200 as id union all select 201) insert into people (id) select id from v returning id",
    "insert into people (id) select id from countries where id > 5",
    "insert into loose (id, name) select id, name from countries where id > 5 returning name",
    "insert into loose (id, name) select null, name from countries limit 0",
    "insert into people (id) select id from countries where id > 5 returning id, name",
    "insert into people (id, tags) select 300 + n, array['a,b', null, n::text] from generate_series(1, 3) n",
    "insert into people (id, pad) select 310 + n, repeat('x ', n) from generate_series(0, 3) n returning pad",
    "insert into people (id, padded) values (350, 'x  '), (351, null)",
    "insert into people (id, padded) select id + 2, padded from people where id / 2 = 175 order by 1 returning padded",
    "insert into people (id, name) values (400, 'x'), (401, 'y') order by 1 limit 1",
    "insert into short (id, name) select 1.1 + 0.5, 'ab '",
    "insert into short (id, name) select n, 'abc   ' from generate_series(3, 6) n returning name, id",
    "insert into notes (slug) values (lower('A')), ('B' || 'c'), (default) returning slug",
    "insert into notes (n) values (4) on conflict do nothing",
    "insert into notes default values on conflict do nothing",
    "insert into visits values (date '2025-01-01' + 1, 1), (date '2024-02-28' + 1, 2) returning *",
    "insert into logged values (timestamptz '2025-01-01 00:00+03' + interval '1 day 1 us', 1)",
    # Of rows of shards.
    "insert into people (id, name) select id + 1000, name from people where id < 40",
    "insert into people (id, name) select -id, upper(name) from people where id > 1000 order by id returning id, name",
    "insert into people (id, name) select 3000 + count(*), max(name) from people",
    "insert into people (id, name) values ((select 4000 + count(*) from people), 'n'), (4999, '%') returning name",
    "insert into people (id, name) select p.id + 5000, c.name from people p join countries c on c.id = p.id % 4",
    (
        "insert into people (id, name) select id + %s, name || %s from people where id between 10 and %s order by id"
        " on conflict (id) do update set name = excluded.name || '!' returning id, name",
        [1, "%", 30],
    ),
    "insert into people (id, name) select id + 1, 'none' from people where id = -77 returning id",
    "insert into short (id, name) select 50 + coalesce(n, 0), lower(slug) from notes order by slug limit 1",
    "insert into tally (what, n) select name, count(*) from people group by name order by name returning what, n",
    "insert into tally values ('all', (select count(*) from people), '2025-01-01'), ('none', 0, default)",
    "insert into people (id, name) select 100000 + row_number() over (order by what, n), what from tally",
    "insert into serials (name) values ('a'), ('b'), ('c') returning id, name, n",
    "insert into serials (id, name) values (nextval('serials_id_seq'), 'n') returning *",
    "insert into serials (name, id) values ('d', default), ('e', default) returning id",
    "insert into serials (name, n) select name, 1.005 from countries where name is not null order by id returning *",
    "insert into always (name) values ('a'), ('b') returning *",
    "insert into always (name) select 'c' from generate_series(1, 5) returning id",
    "insert into always default values returning id",
    "insert into always (name) select name from people where id < 3 order by id returning *",
]
# Refused by one server, and with the same error here.
FAILS = [
    "insert into people (id) select 'a' || n from generate_series(1, 2) n",
    "insert into people (id) select n, n from generate_series(1, 2) n",
    "insert into people (id, name) select n from generate_series(1, 2) n",
    "insert into people (id) values (1 / 0)",
    "insert into people (id) select null::bigint from generate_series(1, 2)",
    "insert into people (id) select n from generate_series(500, 501) n union all select 1",
    "insert into short (id, name) select n, 'abcd' from generate_series(20, 30) n",
    "insert into short (id, name) select id, 'abcd' from people",
    "insert into people (id) select name from people",
    "insert into people (id) select id / 0 from people",
    "insert into people (id) select 7000 from people",
    "insert into serials (n) values (1)",
    "insert into always (id, name) select n, 'x' from generate_series(1, 2) n",
]
TABLES = "people serials always short notes visits logged tally".split()


@pytest.fixture
def both(shardpool_make_topology: Callable[..., Path], shardpool_database: str) -> Iterator[tuple[Router, Any]]:
    """The router, and one plain server with the same tables."""
    with (
        Router(shardpool_make_topology(KEYSPACES, SCHEMA)) as router,
        psycopg.connect(shardpool_database, autocommit=True) as plain,
    ):
        plain.execute(SCHEMA)  # type: ignore[call-overload]
        yield router, plain


def contents(execute: Callable[[str], Any], table: str) -> Counter[str]:
    columns = "id, name, born, tags" if table == "people" else "*"
    return Counter(map(repr, execute(f"select {columns} from {table}")))


def test_rows_are_made_once_and_stored_where_they_belong(both: tuple[Router, Any]) -> None:
    router, plain = both
    for case in ALIKE:
        sql, params = case if isinstance(case, tuple) else (case, None)
        result, cursor = router.execute(sql, params, timeout=60), plain.execute(sql, params)
        assert result.statusmessage == cursor.statusmessage, sql
        assert (result.description is None) == (cursor.description is None), sql
        if cursor.description:
            assert result.columns == tuple(column.name for column in cursor.description), sql
            assert result.rows == cursor.fetchall(), sql
    for sql in FAILS:
        with pytest.raises(psycopg.Error) as expected:
            plain.execute(sql)
        with pytest.raises((psycopg.Error, ShardpoolError)) as found:
            router.execute(sql)
        assert getattr(found.value, "sqlstate", None) == expected.value.sqlstate, (sql, found.value)
    for table in TABLES:
        ours = contents(lambda sql: router.execute(sql).rows, table)
        assert ours == contents(lambda sql: plain.execute(sql).fetchall(), table), table
    assert [found for found in router.check().findings if "lie here" in found.message] == []
    # The rows of one statement have one moment, whichever shards they are on.
    (moments,) = router.execute("select count(distinct at) from people where id between 10 and 40").one()
    assert moments == 1


def test_keys_that_a_default_makes_are_returned_as_they_are_stored(both: tuple[Router, Any]) -> None:
    router, _ = both
    made = router.execute("insert into things (name) values ('a'), ('b'), ('c'), ('d') returning id, name, born").rows
    assert [name for _, name, _ in made] == ["a", "b", "c", "d"]
    assert len({born for _, _, born in made}) == 1
    for key, name, _ in made:
        assert router.execute("select name from things where id = %s", (key,)).one() == (name,)
    assert router.execute("insert into logged (n) values (7) returning at").one() == (
        router.execute("select at from logged where n = 7").one()
    )
    for _ in range(20):
        router.execute("insert into always (name) values ('x')")
    assert router.execute("select count(*), count(distinct id) from always").one() == (20, 20)
    assert "one shard makes the rows" in str(router.explain("insert into things (name) values ('a')"))


def test_rows_that_are_read_in_a_transaction_are_those_that_it_sees(both: tuple[Router, Any]) -> None:
    router, _ = both
    router.execute("insert into people (id, name) select n, 'old' from generate_series(1, 8) n")
    with pytest.raises(LookupError), router.transaction() as tx:
        tx.execute("update people set name = 'new'")
        tx.execute("insert into people (id, name) select id + %s, name from people where id <= %s", (100, 8))
        assert tx.execute("select id, name from people where id > 8 order by id").rows == [
            (100 + number, "new") for number in range(1, 9)
        ]
        raise LookupError
    assert router.execute("select name, count(*) from people group by name").rows == [("old", 8)]
    with pytest.raises(UnsupportedQuery, match="more than 65,535 at once"):
        router.execute("insert into people (id, name) select a.id * b.n, a.name from people a, tally b where false")
        router.execute("insert into tally select 'x', a.id, null from people a, generate_series(1, 4000)")
    assert router.execute("select count(*) from tally").one() == (0,)


@pytest.mark.parametrize(
    "sql",
    [
        "insert into people (name) values ('a')",
        "insert into people (id) select n from generate_series(1, 3) n returning (select count(*) from people)",
        "with gone as (delete from countries returning id) insert into people (id) select id + 1 from gone",
    ],
)
def test_what_one_shard_cannot_make_is_refused(both: tuple[Router, Any], sql: str) -> None:
    router, _ = both
    with pytest.raises(UnsupportedQuery) as refused:
        router.execute(sql)
    assert refused.value.hint
    assert router.execute("select count(*) from people").one() == (0,)
