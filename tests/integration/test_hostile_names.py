"""Whoever may create things in a schema of the search_path gets none of them run by the role of the router.

Before the fleet is used, every shard gets functions and operators with the names of PostgreSQL's own in `public`: the
very same arguments, and ones that fit better. `public` stands before pg_catalog on the search_path. All of them raise.
"""

# ruff: noqa: E501

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from shardpool import Router
from tests import commands

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash: {buckets: 4096, owners: {owners}}
    pinned: {17: s3}
    tables: {orders: tenant_id}
  names:
    key: text
    hash: {buckets: 64, owners: {owners64}}
    tables: {people: name}
  events:
    key: date
    range:
      - {below: 2025-01-01, shard: s0}
      - {shard: s1}
    tables: {events: day}
reference_tables: [countries]
"""
SCHEMA = """\
create table orders (tenant_id bigint not null, n int not null, note text, total numeric, at timestamptz,
  small smallint, ratio float8, primary key (tenant_id, n));
create table people (name text primary key, age int);
create table events (day date not null, n int not null, primary key (day, n));
create table countries (code text primary key, name text not null);
"""

# But for the functions that the statements of the test name: with others of the name a statement is refused.
TRAPS = r"""
do $traps$
declare
  f record;
  o record;
  made integer := 0;
begin
  for f in
    select p.oid, p.proname, pg_catalog.pg_get_function_identity_arguments(p.oid) as arguments,
      pg_catalog.format_type(p.prorettype, null) as gives, p.proretset
    from pg_catalog.pg_proc p
    where p.pronamespace = 'pg_catalog'::regnamespace and p.prokind in ('f', 'a')
      and p.proname <> all (array['count', 'max', 'min', 'sum', 'avg', 'stddev', 'variance', 'bool_or', 'now',
        'row_number', 'upper'])
      and not exists (select from pg_catalog.unnest(p.proargtypes::oid[] || p.prorettype) t (oid)
                      join pg_catalog.pg_type y on y.oid = t.oid where y.typtype = 'p')
  loop
    begin
      execute pg_catalog.format('create function public.%I(%s) returns %s%s language plpgsql as $f$begin
        raise exception ''caught %s''; end$f$', f.proname, f.arguments, case when f.proretset then 'setof ' end,
        f.gives, f.proname);
      made := made + 1;
    exception when others then null;
    end;
  end loop;
  for f in select * from (values ('jsonb_object_agg', 'text, jsonb', 'jsonb'), ('coalesce', 'bigint, integer', 'bigint'),
    ('json_object_agg', 'text, text', 'json'), ('to_jsonb', 'shardpool.meta', 'jsonb'), ('to_json', 'text', 'json'),
    ('to_jsonb', 'shardpool.self', 'jsonb'), ('array_agg', 'text', 'text[]'),
    ('json_agg', 'jsonb', 'json'), ('json_agg', 'json', 'json'), ('unnest', 'text[]', 'text'),
    ('array_position', 'bigint[], bigint', 'integer'), ('array_position', 'text[], text', 'integer'),
    ('width_bucket', 'date, date[]', 'integer'), ('concat', 'text, oid', 'text'),
    ('format', 'text, text, text', 'text'), ('format', 'text, name, name', 'text'),
    ('pg_advisory_xact_lock', 'bigint, integer', 'void')) v (proname, arguments, gives)
  loop
    execute pg_catalog.format('create or replace function public.%I(%s) returns %s language plpgsql as $f$begin
      raise exception ''caught %s''; end$f$', f.proname, f.arguments, f.gives, f.proname);
  end loop;
  for o in
    select oprname, pg_catalog.format_type(oprleft, null) as l, pg_catalog.format_type(oprright, null) as r,
      pg_catalog.format_type(oprresult, null) as gives
    from pg_catalog.pg_operator where oprkind = 'b' and oprnamespace = 'pg_catalog'::regnamespace
      and oprleft < 10000 and oprname ~ '^(=|<>|<|>|<=|>=|\|\||->>?|[-+*/%&|#]|<<|>>|<@|@>|!?~~?\*?|\?)$'
    union all
    select n, l, r, case when n in ('=', '<>', '<', '>', '<=', '>=', '<@') then 'boolean' else l end
    from pg_catalog.unnest(array['=', '<>', '<', '>', '<=', '>=', '%', '+', '-', '*', '/', '<@', '||', '&']) n,
      (values ('oid', 'integer'), ('bigint', 'integer'), ('numeric', 'integer'), ('numeric', 'bigint'), ('bigint', 'numeric'),
        ('name', 'text'), ('name', 'unknown'), ('integer', 'int4multirange'), ('smallint', 'integer'), ('text', 'name'),
        ('double precision', 'bigint'), ('double precision', 'numeric'), ('integer', 'bigint'), ('"char"', 'text')) v (l, r)
  loop
    begin
      execute pg_catalog.format('create function public.trap(%s, %s) returns %s language plpgsql as $f$begin
        raise exception ''caught %s %s %s''; end$f$', o.l, o.r, o.gives, o.l,
        pg_catalog.replace(o.oprname, '%', '%%'), o.r);
    exception when duplicate_function then null; when others then continue;
    end;
    begin
      execute pg_catalog.format('create operator public.%s (leftarg = %s, rightarg = %s, function = public.trap)',
        o.oprname, o.l, o.r);
      made := made + 1;
    exception when others then null;
    end;
  end loop;
  if made < 1000 then
    raise exception 'only % traps were made', made;
  end if;
end
$traps$;
create type public.jsonb as enum ('trap');
create type public.pg_lsn as enum ('trap');
create type public.int4multirange as enum ('trap');
create type public.name as enum ('trap');
"""

MIGRATION = """\
-- migrate:up
create table public.added (id int primary key);
create index on public.added (id);
-- migrate:down
drop table public.added;
"""


@pytest.fixture
def trapped(shardpool_make_topology: Callable[..., Path]) -> Path:
    """The path of a topology whose databases have all that a stranger could make in `public`."""
    keyspaces = KEYSPACES.replace("{owners64}", "{s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}")
    path = shardpool_make_topology(keyspaces, SCHEMA)
    with Router(path) as router:
        for name in router.shards:
            with router.shard(name).connection() as conn:
                conn.autocommit = True
                conn.execute(TRAPS)
                database = conn.info.dbname
                conn.execute(f'alter database "{database}" set search_path = public, pg_catalog')
    return path


def run(path: Path, *arguments: str) -> str:
    done = commands.run(
        arguments, env={**os.environ, "SHARDPOOL_TOPOLOGY": str(path)}, cwd=path.parent, text="y", timeout=600
    )
    assert "caught" not in done.stdout + done.stderr, f"{arguments}: {done.stdout}{done.stderr}"
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


# By strategy; what the caller writes names every function, and has no operator.
STATEMENTS = [
    ("one", "select note from orders where tenant_id operator(pg_catalog.=) 3", None),
    ("concatenate", "select note from orders", None),
    ("concatenate", "select note from orders limit 3 offset 1", None),
    ("concatenate", "select note from orders limit %s offset %s", [3, 1]),
    ("merge", "select note, at from orders order by at, n limit 3", None),
    ("merge", "select n, at from orders order by n, at desc offset 2", None),
    ("add", "select pg_catalog.count(*), pg_catalog.max(n), pg_catalog.sum(n) from orders", None),
    ("combine", "select note, pg_catalog.count(*), pg_catalog.sum(n), pg_catalog.avg(n), pg_catalog.avg(ratio), "
     "pg_catalog.max(note), pg_catalog.stddev(total), pg_catalog.variance(small), pg_catalog.bool_or(true), "
     "pg_catalog.sum(total), pg_catalog.avg(total) from orders group by note order by note limit 10", None),
    ("combine", "select pg_catalog.count(distinct note) from orders", None),
    ("combine", "select distinct note from orders order by note", None),
    ("pull", "select q.note, c.name from (select * from orders limit 100) q, countries c, people p", None),
    ("pull", "select note, pg_catalog.row_number() over (order by note) from orders", None),
    ("pull", "select pg_catalog.now(), note from (select * from orders where n operator(pg_catalog.<) %s limit 5) q", [100]),
]  # fmt: skip


@pytest.mark.servers
def test_nothing_of_a_stranger_is_run(trapped: Path) -> None:
    rows = [(tenant, n, f"note {n}") for tenant in range(20) for n in range(3)]
    with Router(trapped) as router:
        router.copy_into("orders", rows, columns=("tenant_id", "n", "note"))
        router.copy_into("people", [("ann", 1), ("bob", 2), ("cid", 3)], columns=("name", "age"))
        router.copy_into("countries", [("de", "Deutschland")], columns=("code", "name"))
        asked = {router.execute(sql, params).plan.strategy for _, sql, params in STATEMENTS}
        assert asked == {name for name, _, _ in STATEMENTS}
        for _, sql, params in STATEMENTS:
            list(router.stream(sql, params))
            router.explain(sql, params)
            router.execute(sql, params, strategy="pull")
        router.execute("insert into orders (tenant_id, n, at) values (1, 10, pg_catalog.now()), (2, 10, default)")
        router.execute("update orders set note = 'x', at = pg_catalog.now()")
        router.execute("insert into countries values ('fr', 'France')")
        router.execute("update countries set name = pg_catalog.upper(name)")
        router.execute("delete from events")
        router.scatter("select note from orders")
        router.map(lambda conn, item: conn.execute("select note from orders"), [1, 2, 3], key=int, keyspace="tenants")
        router.shard("s0").token()
        router.wait(timeout=5)
        router.init()
        report = router.check(rows=True)
        assert "caught" not in repr(report)
        assert router.shards


@pytest.mark.servers
def test_nothing_of_a_stranger_is_run_by_the_command(trapped: Path) -> None:
    folder = trapped.parent / "migrations"
    folder.mkdir()
    (folder / "20260101000000_added.sql").write_text(MIGRATION)
    run(trapped, "init")
    run(trapped, "migrate", "up")
    run(trapped, "migrate", "status")
    run(trapped, "migrate", "verify")
    run(trapped, "migrate", "drift")
    run(trapped, "migrate", "down")
    run(trapped, "topology", "set", "shards.s2.pool.max_size", "20")
    run(trapped, "topology", "pin", "4711", "s2", "--keyspace", "tenants", "--settle", "0")
    run(trapped, "topology", "split", "2030-01-01", "--to", "s2", "--keyspace", "events", "--settle", "0")
    run(trapped, "topology", "enforce", "on")
    with Router(trapped) as router:
        router.execute("insert into orders (tenant_id, n) values (1, 1), (2, 1), (3, 1)")
    run(trapped, "topology", "enforce", "off")
    run(trapped, "topology", "history")
    run(trapped, "check", "--rows")


@pytest.mark.servers
def test_the_traps_are_where_an_open_name_falls_into_them(trapped: Path) -> None:
    with Router(trapped) as router:
        for open_name in ("select length(note) from orders", "select n from orders where n = n", "select '{}'::jsonb"):
            with pytest.raises(psycopg.Error, match=r"caught|trap|invalid input value for enum"):
                router.shard("s0").execute(f"insert into orders values (1, 1, 'x'); {open_name}")
