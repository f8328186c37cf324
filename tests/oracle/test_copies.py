"""All copies of a reference table have the same rows after every write, and those of one plain server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from shardpool import LoadError, Router, UnsupportedQuery

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    tables: {orders: tenant_id}
reference_tables: [plain, made, touched, keyless, numbers, counted]
"""
SCHEMA = """
create domain brief as varchar(3);
create domain padded as bpchar;
create table orders (tenant_id bigint primary key, at timestamptz default now(), note text);
create table plain (id int primary key, v int, note text, at timestamptz);
create table made (
  id int generated always as identity, serial serial, uid uuid default gen_random_uuid() primary key,
  at timestamptz default clock_timestamp(), day date default current_date, r float8 default random(),
  note varchar(30), code char(4), flag bool, data jsonb, tags text[], ip inet, span interval, raw bytea,
  bits bit(4), words varchar(3)[], brief brief, pad bpchar, padded padded,
  twice text generated always as (note || note) stored);
create table touched (id int primary key, v int, note text, touched timestamptz);
create table counted (id int generated always as identity primary key, v text unique);
create table keyless (v int, r float8);
create table numbers (id int primary key, f float8, total float8);
create function touch() returns trigger language plpgsql as
  $$begin new.touched := clock_timestamp(); new.note := upper(new.note); return new; end$$;
create trigger touch before insert or update on touched for each row execute function touch();
"""
TABLES = ("plain", "made", "touched", "keyless", "numbers", "counted")
WRITES: list[Any] = [
    "insert into plain select i, i, 'n' || i from generate_series(1, 20) i",
    "insert into plain values (21, 1, 'x', now()), (22, 2, 'y', clock_timestamp()) returning id, v",
    ("insert into plain values (23, %s, %s, 'now')", (1, "z")),
    ("insert into plain values (24, 1, 'do it now', %s) returning *", ("now",)),
    ("update plain set at = %s where id < 4", ("now",)),
    ("update plain set at = %s, note = %s where id < 4", ("today", "today")),
    ("insert into plain values (25, 1, %s, %s)", ["tomorrow", "yesterday"]),
    "update plain set at = clock_timestamp() where id < 9 returning id",
    "update plain set v = (random() * 1000)::int * 0 + 5 where id = 3",
    "update plain p set v = q.v from (values (1, 10), (2, 20)) q (id, v) where q.id = p.id returning p.v",
    "delete from plain where id in (select id from plain order by id limit 2) returning id",
    "delete from plain where random() > 2",
    "update plain set note = (select string_agg(note, ',') from plain where id in (5, 6)) where id = 7",
    "insert into plain values (5, 0, 'again', now()), (40, 0, 'new', now()) on conflict (id) do update "
    "set at = excluded.at, note = excluded.note returning id, note",
    "insert into plain values (5, 0, 'no', clock_timestamp()), (41, 0, 'new', now()) on conflict do nothing",
    "insert into plain (id, note) select id + 100, note from plain",
    "with n as (select 7 as id, random() as r) update plain set v = 70 from n where n.id = plain.id and n.r < 2",
    "insert into made (note, code, flag, data, tags, ip, span, raw) values "
    """('it''s "x" \\ {,}', 'ab', true, '{"a": [1]}', '{"a,b",NULL,"q\\""}', '10.0.0.1', '1 mon', '\\x00ff')""",
    "insert into made (note) values ('a'), (null), ('b') returning id, serial, note",
    "insert into made (pad, padded) values ('a  ', 'b  '), (null, ' ')",
    "insert into made default values returning id",
    "insert into counted (v) values ('a'), ('b') returning id",
    "delete from counted where v = 'a'",
    "insert into counted (id, v) overriding user value values (7, 'own'), (7, 'too') returning id",
    "insert into counted overriding user value select 1, 'x' from plain where id = 3 returning id",
    "insert into made (note) select note from plain where id < 9 order by id",
    "update made set at = default, r = default where note = 'a'",
    "update made set note = note || '!' where id > 2 returning id, twice",
    "delete from made where r < -1 or note is null",
    "insert into keyless select i, random() from generate_series(1, 5) i",
    "insert into keyless values (9, random()) returning v",
    "update keyless set v = v + 1",
    "insert into numbers select i, i * 0.1 + 1e15 / i from generate_series(1, 200) i",
    "update numbers set total = (select sum(f) from numbers) where id = 1",
    "insert into numbers select 1000, avg(f), 0 from numbers",
    "merge into plain p using (values (5, 'm')) v (id, note) on v.id = p.id when matched then update set note = v.note",
]
# Written through a trigger that gives each shard its own.
TOUCHED: list[Any] = [
    "insert into touched values (1, 1, 'a'), (2, 2, 'b')",
    "update touched set v = v + 1 returning id, v, note",
    "insert into touched values (1, 9, 'c'), (3, 3, 'd') on conflict (id) do update set v = excluded.v returning v",
    "insert into touched select id + 10, v, note from touched",
    ("update touched set note = %s where id = %s", ["x", 1]),
    "delete from touched where id = 2",
]


@pytest.fixture
def both(shardpool_make_topology: Callable[..., Path], shardpool_database: str) -> Iterator[tuple[Router, Any]]:
    with (
        Router(shardpool_make_topology(KEYSPACES, SCHEMA)) as router,
        psycopg.connect(shardpool_database, autocommit=True) as plain,
    ):
        plain.execute(SCHEMA)
        yield router, plain


def _copies(router: Router) -> dict[str, list[Counter[str]]]:
    return {
        table: [
            Counter(row[0] for row in result.rows)
            for result in router.scatter(f"select t::text from {table} t").values()
        ]
        for table in TABLES
    }


def _shown(table: str) -> str:
    names = {
        "plain": "id, v, note, at is null",
        "made": "id, serial, note, code, flag, data, tags::text, ip::text, span::text, raw, twice",
        "touched": "id, v, note",
        "keyless": "v",
        "counted": "id, v",
        "numbers": "id, f::numeric(40, 6), total::numeric(40, 6)",
    }
    return f"select {names[table]} from {table}"


def _apply(router: Router, plain: Any, case: Any, binary: bool = False) -> None:
    """Run a write on both; the answers are the same, and the copies that of the plain server."""
    sql, params = case if isinstance(case, tuple) else (case, None)
    result, cursor = router.execute(sql, params, binary=binary), plain.execute(sql, params)
    assert result.rowcount == cursor.rowcount, sql
    assert (result.description is None) == (cursor.description is None), sql
    if cursor.description:
        assert result.columns == tuple(column.name for column in cursor.description), sql
        if "returning *" not in sql:
            assert Counter(map(repr, result.rows)) == Counter(map(repr, cursor.fetchall())), sql
    else:
        assert (result.rows, result.statusmessage) == ([], cursor.statusmessage), sql
    for table, copies in _copies(router).items():
        assert all(copy == copies[0] for copy in copies), (sql, table, copies)
        ours = Counter(map(repr, router.execute(_shown(table)).rows))
        assert ours == Counter(map(repr, plain.execute(_shown(table)).fetchall())), (sql, table)


@pytest.mark.parametrize("binary", [False, True])
def test_all_copies_are_the_same_after_every_write(both: tuple[Router, Any], binary: bool) -> None:
    router, plain = both
    for case in WRITES:
        _apply(router, plain, case, binary)
    assert router.check().ok


@pytest.fixture
def no_way_past_triggers(shardpool_fleet: Any) -> Iterator[None]:
    """The role of the tests may not write past triggers; on servers that the tests have started it may."""
    parameter = "parameter session_replication_role"
    with ExitStack() as stack:
        for server in shardpool_fleet.fleet.servers if hasattr(shardpool_fleet, "fleet") else ():
            conn = stack.enter_context(psycopg.connect(autocommit=True, **server.params("postgres", "postgres")))
            stack.callback(conn.execute, f"grant set on {parameter} to app")
            conn.execute(f"revoke set on {parameter} from app")
        yield


def test_what_triggers_have_made_of_rows_is_the_same_on_all_copies(both: tuple[Router, Any]) -> None:
    for case in TOUCHED:
        _apply(*both, case)


def test_a_write_whose_trigger_gives_each_shard_its_own_is_refused_without_a_way_past_it(
    both: tuple[Router, Any], no_way_past_triggers: None
) -> None:
    router, _ = both
    if router.shard("s0").execute("select current_setting('is_superuser')").one() == ("on",):
        return
    with pytest.raises(UnsupportedQuery, match="would differ from shard to shard"):
        router.execute("insert into touched values (1, 1, 'a'), (2, 2, 'b')")
    assert {result.one() for result in router.scatter("select count(*) from touched").values()} == {(0,)}
    router.execute("delete from touched")


def test_rows_that_are_loaded_are_the_same_on_all_copies(both: tuple[Router, Any]) -> None:
    router, _ = both
    notes = [(f"n{number}", None if number % 3 else [1, {"a": 'é"\\'}]) for number in range(2500)]
    rows = [(note, Jsonb(data), ["x", None, 'q"']) for note, data in notes]
    assert router.copy_into("made", rows, columns=["note", "data", "tags"]) == dict.fromkeys(router.shards, 2500)
    assert router.copy_into("touched", [(1, "a"), (2, "b")], columns=["id", "note"])["s3"] == 2
    assert router.copy_into("touched", iter(()), columns=["id", "note"])["s3"] == 0
    for table, copies in _copies(router).items():
        assert all(copy == copies[0] for copy in copies), table
    found = router.execute("select count(distinct uid), count(distinct id), max(tags::text) from made").one()
    assert found == (2500, 2500, '{x,NULL,"q\\""}')
    with pytest.raises(LoadError, match="nothing was loaded into touched") as raised:
        router.copy_into("touched", [(7, "a"), (1, "b")], columns=["id", "note"])
    assert set(raised.value.rolled_back) == set(router.shards)
    with pytest.raises(LoadError, match="record 2 is bad"):
        router.copy_into("touched", [(7, "a"), (8,)], columns=["id", "note"])
    assert router.execute("select count(*) from touched").one() == (2,)
    for column, value in {
        "note": "n" * 31,
        "code": "abcde",
        "bits": "10101",
        "words": ["abcd"],
        "brief": "abcd",
    }.items():
        with pytest.raises(LoadError, match=r"too long|does not match"):  # as COPY says, where a cast would cut
            router.copy_into("made", [(value,)], columns=[column])
    fits, columns = ("n" * 30 + " ", "ab   ", "1010", ["ab  "], 'a"\\'), ["note", "code", "bits", "words", "brief"]
    router.copy_into("made", [fits], columns=columns)
    stored = router.execute("select code, bits::text, words, brief from made where note = %s", ("n" * 30,))
    assert stored.one() == ("ab  ", "1010", ["ab "], 'a"\\')
    for table, row in (("orders", (1, "now")), ("plain", (1, "tomorrow"))):
        with pytest.raises(LoadError, match="is another moment on each shard"):
            router.copy_into(table, [row], columns=["tenant_id" if table == "orders" else "id", "at"])
    assert router.check().ok
