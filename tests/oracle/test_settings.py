"""The same answers as one server's under each setting that decides what values mean or look like.

Statements of every strategy over values of every kind of type, on the servers of the session and on the oldest
PostgreSQL of the operating system; `make oracle` tries each setting by itself, too.
"""
# ruff: noqa: E501

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shardpool import Router, UnsupportedQuery
from shardpool.testing import _prepare, _topology
from tests.integration.tls_server import tls_server

from .compare import Different, compare
from .fleet import _new

KEYSPACES = """\
keyspaces:
  numbers:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    tables: {many: k, other: k}
  slugs:
    key: text
    hash:
      function: murmur3
      buckets: 4096
      owners: {s3: 0-1023, s2: 1024-2047, s1: 2048-3071, s0: 3072-4095}
    tables: {notes: slug}
reference_tables: [facts]
"""

SCHEMA = r"""
create type mood as enum ('ok', 'bad', 'a b');
create type pair as (f float8, d date, w text);
create domain wide as float8;
create table many (k bigint primary key, g int, f float8, r real, n numeric, d date, ts timestamp, tz timestamptz,
  tt timetz, iv interval, b bytea, a text[], fa float8[], ia interval[], mo money, x xml, js json, j jsonb, e mood,
  ea mood[], p pair, rg tstzrange, w wide, c text collate "C", u uuid);
create table other (k bigint, i int, f float8, tz timestamptz, primary key (k, i));
create table notes (slug text primary key, n int);
create table facts (n int primary key, f float8, tz timestamptz);
"""
ROWS = r"""
insert into many select i, i % 3, 0.1::float8 * i + 0.2::float8, (0.1 * i)::real, 0.10 * i,
  date '2000-01-01' + (i - 20) * 371, timestamp '2000-01-01 00:00' + (i - 20) * interval '9 days 5 hours 0.1 s',
  timestamptz '2000-03-26 00:30+00' + (i - 20) * interval '91 days 1 hour 0.25 s',
  (timestamptz '2001-01-01 10:00+00' + i * interval '7 min')::timetz,
  case i % 7 when 0 then interval '1 mon -2 days' when 1 then interval '-1 day 03:00' when 2 then interval '-1 year'
    when 3 then interval '2 mons 1 day -00:00:01.5' when 4 then interval '0' when 5 then interval '-2 days -00:01'
    else interval '25 hours' end,
  decode(lpad(to_hex(i * 37), 4, '0'), 'hex') || '\x00ff5c'::bytea,
  case i % 4 when 0 then array['x', null] when 1 then array['NULL', 'a,b'] when 2 then '{}'::text[] else array['\', '"', ''] end,
  array[0.1::float8 * i + 0.2::float8, null, 'NaN'], array[interval '1 day' * i, '-1 mon'], (i * 1.01)::numeric::money,
  null,
  '{"a": 1}', jsonb_build_object('f', 0.1::float8 * i), (array['ok', 'bad', 'a b'])[1 + i % 3]::mood,
  array['a b', null, 'ok']::mood[], row(0.1::float8 * i + 0.2::float8, date '2024-02-03', 'NULL')::pair,
  tstzrange('2024-07-01 12:00+00', timestamptz '2024-07-02 12:00+00' + i * interval '1 s'), 0.7::float8 * i,
  case i % 3 when 0 then 'ü' when 1 then 'z' else 'Z€' end || i % 4, lpad(i::text, 32, '0')::uuid
  from generate_series(1, 40) i;
insert into many (k, tz, d, f) values (101, '0044-03-15 12:00+00 BC', '0044-03-15 BC', 1e-300), (102, 'infinity', '-infinity', 'NaN'),
  (103, '1890-01-01 00:00+00', '9999-12-31', 3.0000000000000004), (104, null, null, null);
insert into other select k, i, 0.1::float8 * k + 0.2::float8, timestamptz '2000-03-26 00:30+00' + (k - 20) * interval '91 days 1 hour 0.25 s'
  from generate_series(1, 40) k, generate_series(1, 2) i;
insert into notes values (E'x\\y', 1), (E'x\\\\y', 2), (E'a\\b', 3), (E'a\\\\b', 4), (E'c\\d', 5), (E'c\\\\d', 6), ('ü', 7), ('it''s', 8);
insert into facts values (1, 0.1::float8 + 0.2::float8, '2024-07-01 12:00+00');
"""
# Where the servers are built with libxml.
XML = "update many set x = xmlparse(content case k % 3 when 1 then 'text<b/>' else '<a>1</a>' end) where k % 3 < 2"

EVERY = "k, g, f, r, n, d, ts, tz, tt, iv, b, a, fa, ia, mo, x::text, js, j, e, ea, p, rg, w, c, u"
# (SQL, the positions by which its rows are ordered)
STATEMENTS: list[tuple[str, tuple[int, ...]]] = [
    ("select * from many where k = 7", ()),
    (f"select {EVERY} from many", ()),
    (f"select {EVERY} from many order by tz desc, k limit 30", (7, 0)),
    ("select d, k from many order by d, k", (0, 1)),
    ("select ts from many order by ts limit 5 offset 2", (0,)),
    ("select c from many order by c, k", (0,)),
    (f"select {EVERY} from many order by n, k", (4, 0)),
    ("select b from many order by b", (0,)),
    ("select count(*), sum(g), max(k), count(f) from many", ()),
    ("select max(f), min(d), max(tz), min(iv), max(n), sum(mo), max(c), min(a) from many", ()),
    ("select f, w, count(*) from many group by f, w", ()),
    ("select iv, count(*) from many group by iv", ()),
    ("select a, e, ea, count(*) from many group by a, e, ea", ()),
    ("select p, count(*) from many group by p", ()),
    ("select tz, tt, count(*) from many group by tz, tt", ()),
    ("select mo, count(*), max(mo) from many group by mo", ()),
    ("select d, b, count(*) from many group by d, b", ()),
    (
        "select g, array_agg(f order by k), array_agg(a[1] order by k), xmlagg(x order by k)::text from many group by g",
        (),
    ),
    ("select f::text, count(*) from many group by f::text", ()),
    ("select (f + 0.1)::text || d::text || coalesce(iv::text, ''), count(*) from many group by 1", ()),
    ("select tz::text, b::text, a::text, fa::text, mo::text, p::text from many", ()),
    (
        "select concat(f, d, tz, iv, b, a, x::text), to_json(p), to_jsonb(tz), format('%s %L %I', f, a, c) from many order by n, k",
        (),
    ),
    (
        "select g, string_agg(f::text || tz::text, ',' order by k) from many group by g",
        (),
    ),
    ("select count(distinct f), count(distinct tz), count(distinct iv), count(distinct fa) from many", ()),
    ("select count(*) from (select f from many limit 1000) s where f = 0.1::float8 * 1 + 0.2::float8", ()),
    ("select count(*), count(distinct a.tz) from many a join other b on a.f = b.f and a.tz = b.tz", ()),
    ("select a.*, b.f from many a join other b on a.k = b.k + 1 and b.i = 1", ()),
    ("select x::text, a, ia from (select * from many order by k limit 1000) s where x is not null", ()),
    ("select m.k, n.slug from many m join notes n on n.n = m.k where m.f::text <> '0.3'", ()),
    ("select k from many where f::text = '0.3' or d::text like '%2000%' order by k limit 50", (0,)),
    ("select count(*) from many where tz > '2001-02-03 04:05' and d < '01/02/2010' and iv > '1 day'", ()),
    ("select k from (select * from many limit 500) s where tz > '2001-02-03 04:05' and d < '01/02/2010'", ()),
    ("select tz::date, count(*) from many group by 1", ()),
    ("select date_trunc('day', tz), sum(n) from many group by 1 order by 1", (0,)),
    ("select extract(hour from tz), max(f) from many group by 1", ()),
    ("select f.tz, m.k from facts f join many m on m.g = f.n where f.f > m.f", ()),
    ("select a = '{NULL}', array_to_string(a, ',', '*'), count(*) from many group by 1, 2", ()),
    ("select quote_ident(c), quote_literal(c), xmlforest(k as a, b as b)::text from many where k < 10", ()),
    ("select max(quote_literal(c)), count(*) from many where g = null", ()),
    ("select k from many where null = k", ()),
    ("select count(*) from many m left join other o on o.k = m.k where o.k = null", ()),
    ("select n from notes where slug = 'ü'", ()),
    ("select n from notes where slug = 'it''s'", ()),
    (r"select n from notes where slug = E'x\\y'", ()),
    (r"select n from notes where slug in (E'c\\d', E'a\\\\b', 'ü') order by n", (0,)),
    (r"select count(*) from (select slug from notes limit 10) s where slug in (E'c\\d', E'it\'s')", ()),
]
# With the parameters that psycopg makes of Python's.
WITH_PARAMS: list[tuple[str, list[Any]]] = [
    ("select n from notes where slug = %s", ["x\\y"]),
    ("select count(*) from (select slug from notes limit 10) s where slug = any(%s)", [["c\\d", "ü", "a\\\\b"]]),
    ("select k from (select * from many limit 500) s where d < %s and f > %s", ["01/02/2010", 0.1 * 1 + 0.2]),
    ("select %s::float8, count(*) from many where f = %s group by b", [0.1 * 3 + 0.2, 0.1 * 3 + 0.2]),
]
# What a literal with a backslash means depends on standard_conforming_strings.
BACKSLASHES = [
    r"select n from notes where slug = 'x\\y'",
    r"select n from notes where slug = 'x\y'",
    r"select n from notes where slug = 'a\\b' or slug = 'a\\\\b'",
    r"select count(*) from (select slug from notes limit 10) s where slug in ('c\\d', 'a\\b', 'x\\y')",
    r"select slug || '\\', count(*) from notes group by slug || '\\'",
    "select slug, '\\' from notes order by n limit 3",
    r"select 'it\'s', count(*) from notes",
]

# Each of them by itself, for `make oracle`.
EACH = [
    "",
    "extra_float_digits=0",
    "extra_float_digits=-3",
    "DateStyle=SQL,DMY",
    "DateStyle=Postgres,MDY|TimeZone=America/St_Johns",
    "DateStyle=German|TimeZone=Asia/Kolkata",
    "TimeZone=Europe/Zurich",
    "IntervalStyle=sql_standard",
    "IntervalStyle=iso_8601",
    "IntervalStyle=postgres_verbose",
    "bytea_output=escape",
    "array_nulls=off",
    "client_encoding=LATIN1",
    "client_encoding=EUC_JP",
    "client_encoding=SJIS",
    "xmloption=document|xmlbinary=hex",
    "quote_all_identifiers=on",
    "standard_conforming_strings=off|escape_string_warning=off",
    "backslash_quote=off",
    "transform_null_equals=on",
    "search_path=public,pg_catalog",
    "default_transaction_isolation=serializable",
    "default_transaction_read_only=on|default_transaction_deferrable=on",
    "idle_in_transaction_session_timeout=1",
    "row_security=off|check_function_bodies=off",
    "enable_hashagg=off|enable_hashjoin=off|enable_sort=off|gin_fuzzy_search_limit=1",
]
# All of them, several at once that have nothing to do with one another.
TOGETHER = [
    "extra_float_digits=0|DateStyle=SQL,DMY|TimeZone=Europe/Zurich|IntervalStyle=sql_standard|bytea_output=escape"
    "|array_nulls=off|xmloption=document|xmlbinary=hex",
    "extra_float_digits=-3|DateStyle=Postgres,MDY|TimeZone=America/St_Johns|IntervalStyle=iso_8601"
    "|client_encoding=LATIN1|transform_null_equals=on|idle_in_transaction_session_timeout=1",
    "DateStyle=German|TimeZone=Asia/Kolkata|IntervalStyle=postgres_verbose|client_encoding=EUC_JP"
    "|standard_conforming_strings=off|escape_string_warning=off|search_path=public,pg_catalog",
    "quote_all_identifiers=on|default_transaction_isolation=serializable|default_transaction_read_only=on"
    "|default_transaction_deferrable=on|row_security=off|check_function_bodies=off|enable_hashagg=off"
    "|enable_hashjoin=off|enable_sort=off|gin_fuzzy_search_limit=1",
]
SETTINGS = [*TOGETHER, *EACH] if "SHARDPOOL_ORACLE_STATEMENTS" in os.environ else TOGETHER


@dataclass(frozen=True)
class Settled:
    """The path of a topology, and the parameters of the plain database with the same rows."""

    path: Path
    plain: dict[str, Any]


def _settled(stack: ExitStack, servers: list[dict[str, Any]], folder: Path) -> Settled:
    token = secrets.token_hex(5)
    shards = [_new(stack, servers[n % len(servers)], f"settings_{token}_{n}") for n in range(4)]
    path = folder / f"settings-{token}.yaml"
    path.write_text(_topology(folder, token, shards, KEYSPACES), encoding="utf-8")
    _prepare(path, SCHEMA, init=True)
    plain = _new(stack, servers[0], f"settings_{token}_plain")
    with psycopg.connect(autocommit=True, **plain) as conn, Router(path) as router:
        conn.execute(SCHEMA + ROWS)
        router.scatter(ROWS)
        with suppress(psycopg.errors.FeatureNotSupported):
            conn.execute(XML)
            router.scatter(XML)
        for keyspace, table, key in (("numbers", "many", "k"), ("numbers", "other", "k"), ("slugs", "notes", "slug")):
            for name in router.shards:
                owned = [b for b, s in enumerate(router.topology.keyspaces[keyspace].shard_by_bucket) if s == name]
                router.shard(name).execute(
                    f'delete from {table} where shardpool."bucket_{keyspace}"({key}) <> all(%s)', [owned]
                )
    return Settled(path, plain)


def old_binaries() -> Path | None:
    """The programs of the operating system's oldest PostgreSQL; None when it has none."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").exists()]
    return min(found, key=lambda path: int(path.parent.name), default=None)


SERVERS = [
    pytest.param(name, marks=pytest.mark.xdist_group(name))
    for name in ("servers of the session", "oldest of the system")
]


@pytest.fixture(scope="module", params=SERVERS)
def settled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settled]:
    folder = tmp_path_factory.mktemp("settings")
    with ExitStack() as stack:
        if request.param == "servers of the session":
            yield _settled(stack, request.getfixturevalue("shardpool_fleet").servers(), folder)
            return
        binaries = old_binaries()
        if binaries is None:
            missing = "no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql-15"
            assert "SHARDPOOL_TEST_OLD_SERVER" not in os.environ, missing
            pytest.skip(missing)
        server = stack.enter_context(tls_server(binaries))
        params = {"host": str(server.data), "port": server.port, "user": "postgres", "dbname": "postgres"}
        yield _settled(stack, [params], folder)


def options(settings: str) -> str:
    """`a=b|c=d` as what libpq passes to the server."""
    return " ".join(f"-c {setting.replace(' ', chr(92) + ' ')}" for setting in settings.split("|") if setting)


@pytest.mark.parametrize("settings", SETTINGS)
def test_answers_are_those_of_one_server_under(settings: str, settled: Settled) -> None:
    asked: list[tuple[str, Any, tuple[int, ...]]] = [(sql, None, ordered) for sql, ordered in STATEMENTS]
    asked += [(sql, params, ()) for sql, params in WITH_PARAMS]
    asked += [(sql, None, ()) for sql in BACKSLASHES]
    different = []
    with (
        psycopg.connect(autocommit=True, options=options(settings), **settled.plain) as plain,
        Router(settled.path, kwargs={"options": options(settings)}) as router,
    ):
        for sql, params, ordered in asked:
            try:
                outcome = compare(plain, router, sql, params, ordered=ordered)
            except Different as error:
                different.append(str(error))
            else:
                if outcome == "refused":
                    different.append(f"refused: {outcome.message}\n  sql: {sql}")
    assert not different, f"{len(different)} of {len(asked)}:\n" + "\n".join(different)


def test_copies_of_a_reference_table_do_not_lose_digits(settled: Settled) -> None:
    write = "update facts set f = random() where n = 1"
    for harmful in ("extra_float_digits=0", "array_nulls=off"):
        router = Router(settled.path, kwargs={"options": options(harmful)})
        with router, pytest.raises(UnsupportedQuery, match="its own random"):
            router.execute(write)
    with Router(settled.path) as router:
        router.execute(write)
        copies = {tuple(map(tuple, result)) for result in router.scatter("select n, f from facts order by n").values()}
        assert len(copies) == 1
        router.execute("update facts set f = 0.1::float8 + 0.2::float8")
