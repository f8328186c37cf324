"""A row is where its key says, whatever a server makes of it on storing: as on one plain server, or refused whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql as composed

from shardpool import InvalidKey, Router, UnsupportedQuery

OWNERS = "hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}"
KEYSPACES = f"""\
keyspaces:
  names:
    key: text
    {OWNERS}
    tables: {{notes: slug, short: slug, logged: slug}}
  numbers:
    key: bigint
    {OWNERS}
    tables: {{made: k, doubled: k, ruled: k, behind: k, touched: k, moved: k, linked: k, parted: k, odd: "the % key"}}
"""
SCHEMA = """
create table notes (slug text not null, n int);
create table short (slug varchar(2) not null, n int, primary key (slug, n));
create table logged (n int, slug text not null, note text, what char(4));
create table made (k bigint generated always as identity primary key, s text);
create table doubled (a bigint primary key, k bigint generated always as (a * 2) stored, s text);
create table ruled (k bigint not null, s text);
create rule plus as on insert to ruled do instead insert into notes values (new.s, new.k::int);
create table behind (a int, b int, k bigint not null);
create table touched (k bigint primary key, s text, at text);
create function touch() returns trigger language plpgsql as $$ begin new.at := 'now'; return new; end $$;
create trigger touch before insert or update on touched for each row execute function touch();
create table moved (k bigint primary key, s text, id int unique);
create function move() returns trigger language plpgsql as $$
begin
  if new.s = 'skip' then return null; end if;
  if new.s = 'move' then new.k := new.k + 1; end if;
  return new;
end $$;
create trigger move before insert or update on moved for each row execute function move();
create table linked (id int primary key, k bigint not null, other bigint, constraint both_ends unique (k, other));
create table parted (k bigint not null, n int) partition by range (n);
create table parted_low partition of parted for values from (0) to (10);
create table parted_high partition of parted for values from (10) to (20);
create function shift() returns trigger language plpgsql as $$ begin new.k := new.k + 1; return new; end $$;
create trigger shift before insert on parted_high for each row execute function shift();
create table odd ("the % key" bigint primary key, s text);
create trigger move before insert or update on odd for each row execute function move_odd();
"""
SCHEMA = SCHEMA.replace(
    "create table odd",
    """create function move_odd() returns trigger language plpgsql as $$
begin if new.s = 'move' then new."the % key" := 7; end if; return new; end $$;
create table odd""",
)
TABLES = ["notes", "short", "logged", "made", "doubled", "behind", "touched", "moved", "linked", "parted", "odd"]

# What is answered as by one server, and then what is refused; in the order in which it is run.
ANSWERED: list[Any] = [
    "insert into notes values ('a', 1), ('cz ', 2), ('bz', 3), ('d', 4)",
    "insert into short (slug, n) select slug, n from notes where n <> 2 returning slug",
    "insert into short values ('xx  ', 1), ('yy', 1)",
    "insert into short select slug, n + 10 from short; -- and no more",
    "insert into touched values (1, 'a'), (2, 'b'), (3, 'c')",
    "update touched set s = s || '!'",
    "update doubled set s = 'same'",
    "insert into touched values (3, 'd') on conflict (k) do update set s = excluded.s returning *",
    "insert into moved values (1, 'a', 1), (2, 'skip', 2), (3, 'c', 3), (4, 'd', 4) returning k, s",
    "insert into moved values (5, 'e', 5) -- nothing behind",
    ("insert into moved values (%s, 'f', 6), (%s, 'g', 7);", [6, 7]),
    ("insert into moved values (%s, '%%', 8) /* 100%% */ returning *, k %% 3 as rest", [8]),
    "update moved m set s = n.n::text from (values (1)) n (n) where m.k in (1, 3) returning m.*",
    "update moved set s = 'x' where k = 1",
    "update moved set k = k, s = 'y'",
    "insert into moved values (11, 'k', 11)",
    "insert into moved as m values (1, 'z', 1) on conflict (k) do update set s = m.s || excluded.s",
    "insert into linked values (1, 1, 1), (2, 2, 2)",
    "insert into linked values (3, 1, 1), (4, 2, 3) on conflict (k, other) do nothing",
    "insert into linked values (5, 1, 1) on conflict on constraint both_ends do nothing",
    ("insert into behind values (%(a)s, %(a)s, %(a)s)", {"a": 5}),
    ("insert into logged (slug, note) values (%(a)s, %(a)s), ('b', %(a)s)", {"a": "x  "}),
    "insert into parted values (1, 1), (2, 2), (3, 3)",
    """insert into odd values (1, 'a'), (2, 'b') returning "the % key" as "%\"""",
    """update odd set s = 'c'""",
]
REFUSED: list[Any] = [
    "insert into short (slug, n) select slug || '  ', 20 from notes",
    "insert into short (slug, n) select slug, 20 from notes",
    "insert into short (slug, n) select slug, 21 from notes where slug = 'cz '",
    "insert into made overriding user value values (1000, 'a'), (1001, 'b')",
    "insert into made overriding user value values (1000, 'a') returning k",
    "merge into made m using (values (1)) v (s) on m.k = 5 when not matched then "
    "insert (k, s) overriding user value values (5, 'x')",
    "insert into doubled (a, s) values (1, 'a')",
    "update doubled set a = a + 3",
    "insert into ruled values (1, 'a')",
    "insert into behind values (1, 2)",
    "insert into behind values (1, 2), (3, 4)",
    "insert into moved values (21, 'move', 20), (20, 'a', 21), (22, 'move', 22), (28, 'a', 23)",
    "insert into moved values (21, 'move', 20) returning s",
    ("insert into moved values (%s, %s, 20)", [21, "move"]),
    (composed.SQL("insert into moved values ({}, {}, 20)").format(21, composed.Literal("move")), None),
    (b"insert into moved values (21, 'move', 20)", None),
    "update moved set s = 'move'",
    "update moved set s = 'move' where k = 3",
    "insert into moved values (11, 'a', 3) on conflict (k) do update set s = 'move'",
    "with new as (insert into moved values (30, 'move', 30) returning k) select k from new",
    "insert into moved values (1, 'a', 1) on conflict do nothing",
    "insert into linked values (1, 9, 9) on conflict do nothing",
    "insert into linked values (1, 9, 9) on conflict on constraint linked_pkey do nothing",
    "insert into linked values (1, 9, 9) on conflict (id) do nothing",
    ("insert into logged (n, slug) values (%(a)s, %(a)s)", {"a": "05"}),
    ("insert into logged (what, slug) values (%(a)s, %(a)s), ('b', 'b')", {"a": "x "}),
    "insert into parted values (1, 11)",
    """insert into odd values (3, 'move')""",
    ("""update odd set s = %s""", ["move"]),
]


@pytest.fixture
def both(shardpool_make_topology: Callable[..., Path], shardpool_database: str) -> Iterator[tuple[Router, Any]]:
    """The router, and one plain server with the same tables."""
    with (
        Router(shardpool_make_topology(KEYSPACES, SCHEMA)) as router,
        psycopg.connect(shardpool_database, autocommit=True) as plain,
    ):
        plain.execute(SCHEMA)  # type: ignore[call-overload]
        yield router, plain


def contents(run: Callable[[str], Any]) -> dict[str, Counter[str]]:
    return {name: Counter(map(repr, run(f"select * from {name}"))) for name in TABLES}


def assert_alike(router: Router, plain: Any, what: Any) -> None:
    ours, theirs = contents(lambda sql: router.execute(sql).rows), contents(lambda sql: plain.execute(sql).fetchall())
    assert ours == theirs, what


def test_keys_that_a_server_stores_otherwise_are_never_placed_by_what_was_given(both: tuple[Router, Any]) -> None:
    router, plain = both
    for engine in (router.for_key(10, table="doubled"), plain):
        engine.execute("insert into doubled (a) values (5)")
    for case in ANSWERED:
        sql, params = case if isinstance(case, tuple) else (case, None)
        result, cursor = router.execute(sql, params), plain.execute(sql, params)
        assert result.rowcount == cursor.rowcount, sql
        assert result.statusmessage == cursor.statusmessage, sql
        assert (result.description is None) == (cursor.description is None), sql
        if cursor.description:
            assert result.columns == tuple(column.name for column in cursor.description), sql
            assert Counter(result.rows) == Counter(cursor.fetchall()), sql
    assert_alike(router, plain, "answered")
    for case in REFUSED:
        sql, params = case if isinstance(case, tuple) else (case, None)
        with pytest.raises((UnsupportedQuery, InvalidKey)):
            print(sql, router.execute(sql, params))
    assert_alike(router, plain, "refused")
    assert [found for found in router.check().findings if "lie here" in found.message] == []
