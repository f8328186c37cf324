"""UPDATE of a partition key: the rows go where they belong then, and all is as on one server, or it is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
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
    tables: {{people: id, pets: owner, numbered: k, watched: id, cascading: id, cascaded: id, parents: id, children: id,
      parted: k, twins: k}}
  texts:
    key: text
    {OWNERS}
    tables: {{notes: slug}}
  days:
    key: date
    range:
      - {{below: 2024-07-01, shard: s0}}
      - {{below: 2025-01-01, shard: s1}}
      - {{shard: s2}}
    tables: {{visits: day}}
  moments:
    key: timestamptz
    {OWNERS}
    tables: {{logged: at}}
  places:
    key: [text, bigint]
    {OWNERS}
    tables: {{places: [region, id]}}
reference_tables: [countries]
"""
SCHEMA = """
create type mood as enum ('fine', 'bad');
create domain percent as numeric(5, 2) check (value <= 100);
create domain padded as bpchar;
create table people (
  id bigint primary key, name varchar(5), v int check (v < 1000), n numeric(6, 2), f float8, r real, tags text[],
  born date, at timestamptz, span interval, doc jsonb, j json, raw bytea, mood mood, code char(4), bits bit(3),
  p percent, pad bpchar, padded padded, twice int generated always as (v * 2) stored);
create table pets (owner bigint, n int, name text, primary key (owner, n));
create table numbered (k bigint, id int generated always as identity, name text, primary key (k, id));
create table watched (id bigint primary key, v int);
create function watch() returns trigger language plpgsql as 'begin return new; end';
create trigger watcher before update on watched for each row execute function watch();
create table cascading (id bigint primary key);
create table cascaded (id bigint references cascading on delete cascade, n int);
create table parents (id bigint, n int, unique (id, n), v int);
create table children (id bigint, n int, foreign key (id, n) references parents (id, n));
create table parted (k bigint not null, v int, name text, primary key (k, v)) partition by range (v);
create table parted_low partition of parted for values from (0) to (10);
create table parted_high partition of parted for values from (10) to (1000);
create table twins (k bigint, v int);
create table notes (slug text primary key, n int);
create table visits (day date primary key, n int);
create table logged (at timestamptz primary key, n int);
create table places (region text, id bigint, name text, primary key (region, id));
create table countries (code text primary key, n bigint);
"""
ROWS = """
insert into people (id, name, v, n, f, r, tags, born, at, span, doc, j, raw, mood, code, bits, p)
  select i, 'n' || i, i, i / 7.0, i / 3.0::float8, i / 3.0::real, array['a,' || i, null, '"'],
    date '2024-01-01' + i::int, timestamptz '2024-01-01 12:00:00.123456+02' + i * interval '1 h',
    i * interval '1 mon 2 d 3.5 s',
    jsonb_build_object('i', i), '{"b" : 1, "a":2}', decode(lpad(to_hex(i), 4, '0'), 'hex'), 'bad', 'c' || i % 10,
    i::int::bit(3), i
  from generate_series(1, 40) i;
insert into people (id) values (50);
update people set pad = 'a  ', padded = 'b  ' where id % 3 = 0;
insert into pets select i, j, 'pet' || j from generate_series(1, 12) i, generate_series(1, 3) j;
insert into numbered (k, id, name) overriding system value select i, i + 100, 'n' from generate_series(1, 6) i;
insert into parents select i, 1, 0 from generate_series(1, 6) i;
insert into children values (1, 1);
insert into watched values (1, 1);
insert into cascading values (1), (2);
insert into cascaded values (1, 1);
insert into parted select i, i * 2, 'p' from generate_series(1, 10) i;
insert into twins values (1, 1), (1, 1), (2, 1);
insert into notes values ('a', 1), ('b', 2), ('c', 3);
insert into visits values ('2024-01-01', 1), ('2024-12-31', 2), ('2025-03-01', 3);
insert into logged values ('2025-01-01 00:00+00', 1), ('2025-01-02 00:00:00.000001+00', 2);
insert into places values ('eu', 1, 'a'), ('eu', 2, 'b'), ('us', 1, 'c');
insert into countries values ('x', 5), ('y', 6);
"""
# What is done on the fleet is what is done on one server: the answer, its tag, what is stored.
ALIKE: list[Any] = [
    "update people set id = 1001 where id = 1",
    "update people set id = -2, v = v + 1, name = 'two' where id = 2 returning *",
    "update people set id = id + 100 where id between 3 and 20 and v % 2 = 0",
    "update people as p set id = p.id * 1000, tags = tags || '{x}' where v > 30 returning p.id, name, twice",
    ("update people set id = %s, name = %s, n = %s where id = %s returning id, name, n", [7007, "ab'%", 1.005, 7]),
    ("update people set id = %(id)s, v = %(v)s where id = %(old)s", {"id": 8008, "v": -2147483648, "old": 8}),
    ("update people set v = %s + v, id = id + %s returning id", [1, 1_000_000]),
    "update people set id = id, v = -1 where id = 1000050 returning v",
    "update people set id = 1, v = 1 where id = 123456789 returning id, name as n",
    "update people set id = id + 10000000, pad = pad || 'c'::bpchar || ' '::bpchar, padded = padded where id = 33",
    "update people set id = id + 0, padded = 'c ' where id = 9 returning id, pad, padded",
    "update people set id = null where id = 123456789",
    "update people set id = 77 where id = null",
    "update people set id = id + 1 where id = (select max(code)::bigint from countries where n = 99)",
    "update people set id = 60, name = upper(name) || '!', n = v / 3.0, f = f * 1.5, bits = b'101' where id = 1000022",
    "update people set (id, v) = (61, default), p = 12.345, code = default where id = 1000023 returning *",
    "update people set (v, id) = row(5, 62) where v = -1 returning twice",
    "update people set id = 63 where id = 1000024 and exists (select from countries where code = 'x')",
    "update people set id = c.n + 500 from countries c where c.code = 'x' and people.id = 1000025",
    "with c as (select 700::bigint as n) update people set id = c.n from c where people.id = 1000026",
    "update people set id = (select n from countries where code = 'y') where id = 1000027 returning id",
    "update people set twice = default, id = 64 where id = 1000028 returning id, twice",
    "update people set id = id + 0 where v < 500 returning id, v",
    "update pets set owner = owner + 1000 where n = 1 returning owner, n",
    "update pets set owner = 1, n = n + owner * 10",
    "update pets set owner = 2, n = -n where n > 100",
    "update numbered set k = k + 50 returning *",
    "update parents set id = id + 10 where id > 1",
    "update parted set k = k + 100, v = v + 9 returning *",
    "update twins set k = 3 where k = -1 returning *",
    "update twins set k = k + 5",
    "update twins set k = 3 where v = 1 returning *",
    "update notes set slug = slug || ' – ü' where n > 1 returning slug",
    "update notes set slug = 'z' where n = 1",
    "update visits set day = day + 300 returning *",
    ("update visits set day = %s::date where n = %s", ["2024-09-09", 1]),
    "update logged set at = at + interval '1 mon 1 us' returning at",
    "update places set region = 'us', id = id + 5 where region = 'eu' returning *",
    "update places set id = 9 where region = 'us' and id = 1",
    ("update places set region = %s where id = %s", ["as", 9]),
]
# Refused by one server, and with the same error here.
FAILS = [
    "update people set id = 'x'",
    "update people set id = name",
    "update people set id = 2 where nothing = 1",
    "update people set id = id / 0 where id = 60",
    "update people set id = 60 where id = 62",
    "update people set id = 5, v = 1000 where id = 60",
    "update people set id = 5, name = 'too long' where id = 60",
    "update people set id = 5, p = 101 where id = 60",
    "update people set id = 5, mood = 'strange' where id = 60",
    "update people set id = 5, twice = 1 where id = 60",
    "update people set id = null where id = 60",
    "update people set id = 9223372036854775807 + id where id = 60",
    "update numbered set k = 5, id = 5",
    "update parents set id = 77 where id = 1",
    "update parted set k = k + 1, v = 1000",
    "update pets set owner = 5, n = 1",
    "update pets set owner = 5 returning nothing",
]
REFUSED = {
    "update watched set id = 2": "the trigger watcher would run for DELETE and INSERT, and not for UPDATE",
    "update cascading set id = id + 1": "a foreign key of cascaded changes its rows with them",
    "update people set (id, v) = (select n, 1 from countries where code = 'x')": "a subquery gives several columns",
    "update people set id = id + 1, tags[1] = 'a'": "a part of a column is assigned",
    "update people set id = id + 1, p = f * 2": "p, whose type is a domain, is assigned an expression",
    "update numbered set k = k + 1, id = default": "UPDATE of numbered leaves id out",
    "update people set id = (random() * 100)::bigint": "random() would be evaluated by each shard for itself",
    "update people set id = c.n from countries c returning *": "RETURNING may name columns of other tables",
    "update people set id = 5 returning old.id": "RETURNING may tell old rows from new ones",
    "update people set id = 5 returning (select 1)": "RETURNING has a subquery",
    "update people set id = 5, at = now() returning now() = at": "RETURNING tells the time",
    "update people set id = 5 where v > (select avg(v) from people)": "looks at rows that may be on other shards",
    "update parents set id = id + 1 from pets where pets.n = parents.n": "looks at rows that may be on other shards",
}
TABLES = "people pets numbered parents parted twins notes visits logged places".split()


@pytest.fixture
def both(shardpool_make_topology: Callable[..., Path], shardpool_database: str) -> Iterator[tuple[Router, Any]]:
    """The router, and one plain server with the same tables and rows."""
    with (
        Router(shardpool_make_topology(KEYSPACES, SCHEMA)) as router,
        psycopg.connect(shardpool_database, autocommit=True) as plain,
    ):
        plain.execute(SCHEMA)  # type: ignore[call-overload]
        for sql in filter(str.strip, ROWS.split(";\n")):
            plain.execute(sql)  # type: ignore[call-overload]
            router.execute(sql)
        yield router, plain


def contents(execute: Callable[[str], Any], table: str) -> Counter[str]:
    return Counter(map(repr, execute(f"select * from {table}")))


def check_alike(router: Router, plain: Any) -> None:
    for table in TABLES:
        ours = contents(lambda sql: router.execute(sql).rows, table)
        assert ours == contents(lambda sql: plain.execute(sql).fetchall(), table), table
    assert [found for found in router.check().findings if "lie here" in found.message] == []


def test_rows_follow_their_key_and_all_is_as_on_one_server(both: tuple[Router, Any]) -> None:
    router, plain = both
    for case in ALIKE:
        sql, params = case if isinstance(case, tuple) else (case, None)
        result, cursor = router.execute(sql, params, timeout=60), plain.execute(sql, params)
        assert result.statusmessage == cursor.statusmessage, sql
        assert result.rowcount == cursor.rowcount, sql
        assert (result.description is None) == (cursor.description is None), sql
        if cursor.description:
            assert result.columns == tuple(column.name for column in cursor.description), sql
            assert Counter(map(repr, result.rows)) == Counter(map(repr, cursor.fetchall())), sql
    check_alike(router, plain)
    for sql in FAILS:
        with pytest.raises(psycopg.Error) as expected:
            plain.execute(sql)
        with pytest.raises((psycopg.Error, ShardpoolError)) as found:
            router.execute(sql)
        assert getattr(found.value, "sqlstate", None) == expected.value.sqlstate, (sql, found.value)
    for sql, why in REFUSED.items():
        with pytest.raises(UnsupportedQuery) as refused:
            router.execute(sql)
        assert why in str(refused.value), sql
    check_alike(router, plain)


def test_a_row_that_stays_on_its_shard_is_updated_there_with_all_that_this_sets_off(both: tuple[Router, Any]) -> None:
    router, _ = both
    home = router.for_key(1, table="watched").shard
    on_home = {key: router.for_key(key, table="watched").shard == home for key in range(2, 99)}
    near, far = (next(key for key in on_home if on_home[key] is wanted) for wanted in (True, False))
    found = router.execute("update watched set id = %s where id = 1 returning id", (near,))
    assert found.rows == [(near,)] and found.plan is not None and found.plan.strategy == "one"
    with pytest.raises(UnsupportedQuery, match="trigger watcher"):
        router.execute("update watched set id = %s where id = %s", (far, near))


def test_in_a_transaction_rows_follow_their_key_up_to_the_savepoint(both: tuple[Router, Any]) -> None:
    router, _ = both
    with router.transaction() as tx:
        assert tx.execute("update pets set owner = owner + 100 where n = 1").rowcount == 12
        with pytest.raises(psycopg.errors.UniqueViolation), tx.savepoint():
            tx.execute("update pets set owner = 7 where n = 1")
        assert tx.execute("select count(*), min(owner) from pets where n = 1").one() == (12, 101)
        with pytest.raises(LookupError), tx.savepoint():
            tx.execute("delete from pets where n = 1")
            raise LookupError
        assert tx.execute("update pets set owner = owner + 100 where n = 1 returning n").rows == [(1,)] * 12
    assert router.execute("select min(owner), max(owner) from pets where n = 1").one() == (201, 212)
    with pytest.raises(psycopg.errors.InFailedSqlTransaction), router.transaction() as tx:
        with pytest.raises(psycopg.errors.UniqueViolation):
            tx.execute("update pets set owner = 7 where n = 1")
        tx.execute("select 1")
    with router.transaction(readonly=True) as tx, pytest.raises(UnsupportedQuery, match="only reads"):
        tx.execute("update pets set owner = 7 where n = 1")
    with pytest.raises(UnsupportedQuery, match="and those of new keys"):
        router.execute("update pets set owner = owner + 1 where owner = 1", fanout="one")


def test_rows_that_many_move_at_once_are_there_once(both: tuple[Router, Any]) -> None:
    """They meet on several shards, in all orders."""
    router, _ = both
    before = router.execute("select n, name, count(*) from pets group by n, name order by n").rows

    def work(number: int) -> None:
        chance = Random(number)
        for _ in range(5):
            old, new = chance.sample(range(1, 13), 2)
            with suppress(psycopg.errors.UniqueViolation):
                router.execute("update pets set owner = %s where owner = %s", (new, old), timeout=60)
            with suppress(psycopg.errors.UniqueViolation):
                router.execute("update pets set owner = %s - owner where n = %s", (13, old % 3 + 1), timeout=60)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))
    assert router.execute("select n, name, count(*) from pets group by n, name order by n").rows == before
    assert [found for found in router.check().findings if "lie here" in found.message] == []
    assert not router.in_doubt()


def test_a_column_that_is_not_known_yet_is_not_lost(both: tuple[Router, Any], tmp_path: Path) -> None:
    router, _ = both
    router.explain("update twins set k = k + 1")
    shards = {name: router.shard(name) for name in router.shards}
    for shard in shards.values():
        # Unseen by the router: as by another program.
        with shard.connection() as conn:
            conn.execute("alter table twins add extra text default 'x'")
    with suppress(UnsupportedQuery):
        router.execute("update twins set k = k + 1")
    router.execute("update twins set extra = 'y'")
    router.execute("update twins set k = k + 7")
    assert {extra for (extra,) in router.execute("select extra from twins")} == {"y"}


@pytest.mark.parametrize(
    "ddl",
    [
        "create trigger late before update on twins for each row execute function keep()",
        "create rule late as on delete to twins do also notify twins",
        "alter table twins enable row level security",
    ],
)
def test_what_a_write_sets_off_and_is_not_known_yet_is_not_left_out(ddl: str, both: tuple[Router, Any]) -> None:
    router, _ = both
    shards = [(name, router.shard(name)) for name in router.shards]
    router.scatter("create function keep() returns trigger language plpgsql as 'begin new.v = 0; return new; end'")
    router.execute("select count(*) from twins")
    router.explain("update twins set k = k + 1")
    before = [(name, shard.execute("table twins").rows) for name, shard in shards]
    for _, shard in shards:
        with shard.connection() as conn:
            conn.execute(ddl)
    with pytest.raises(UnsupportedQuery):
        router.execute("update twins set k = k + 1")
    assert [(name, shard.execute("table twins").rows) for name, shard in shards] == before
