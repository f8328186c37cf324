"""What a write sets off (triggers, rules, foreign keys, functions) is done as by one plain server, or it is refused."""

from __future__ import annotations

from collections import Counter
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
    hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}
    tables: {orders: tenant_id, audit: tenant_id, totals: tenant_id, items: tenant_id, plain: tenant_id, log: tenant_id,
             by_code: code_id, gone: tenant_id}
reference_tables: [counted, countries, codes, shown]
single_tables: {jobs: s1, tasks: s1}
"""
SCHEMA = """
create table plain (tenant_id bigint primary key, n int);
create table counted (id int primary key, n int);
insert into counted values (1, 0);
create table countries (code text primary key, name text);
create view shown as select * from countries;
create table codes (id bigint primary key, name text);
create table undeclared (what text);
create table orders (id int, tenant_id bigint, note text, at timestamptz, primary key (tenant_id, id));
create table items (id int, tenant_id bigint, order_id int, primary key (tenant_id, id),
    foreign key (tenant_id, order_id) references orders (tenant_id, id) on delete cascade);
create table audit (what text, id int, tenant_id bigint not null, note text, at timestamptz);
create table totals (tenant_id bigint primary key, n int not null);
create table log (tenant_id bigint, id int);
create table by_code (code_id bigint not null references codes on update cascade on delete cascade, n int);
create table gone (tenant_id bigint primary key, country text references countries on delete set null);
create table jobs (id int primary key, n int);
create table tasks (id int, job int references jobs on delete cascade);

create function touch() returns trigger language plpgsql as $$
begin -- update counted set n = 1
  new.at := '2026-01-01'; new.note := coalesce(new.note, 'insert into counted');
  insert into undeclared values (new.note);
  return new;
end $$;
create trigger touch before insert or update on orders for each row execute function touch();
create function audited() returns trigger language plpgsql as $$
declare total int;
begin
  if tg_op = 'DELETE' then
    insert into audit select 'DELETE', old.*;
    update totals set n = totals.n - 1 where tenant_id = old.tenant_id;
    return old;
  end if;
  INSERT INTO audit (what, tenant_id, id, note) VALUES (tg_op, NEW."tenant_id", new.id, new.note);
  insert into totals (tenant_id, n) values (new.tenant_id, 1) on conflict (tenant_id) do update set n = totals.n + 1
  returning n into total;
  return new;
end $$;
create trigger audited after insert or update or delete on orders for each row execute function audited();
create function worked() returns trigger language plpgsql as $$
begin insert into tasks values (100, new.id); return null; end $$;
create trigger worked after insert on jobs for each row execute function worked();
"""
# What one after the other is done to plain, and what is refused then.
REFUSED = {
    "each row": "create function f() returns trigger language plpgsql as $$begin update counted set n = n + 1;"
    " return null; end$$; create trigger t after insert on plain for each row execute function f()",
    "each statement": "create function f() returns trigger language plpgsql as $$begin"
    " update only public.counted set n = n + (select count(*) from new_rows); return null; end$$; create trigger t"
    " after insert on plain referencing new table as new_rows for each statement execute function f()",
    "in WITH": "create function f() returns trigger language plpgsql as $$begin"
    " perform 1; with x as (update counted set n = 1 returning n) insert into undeclared select n from x;"
    " return null; end$$; create trigger t after insert on plain for each row execute function f()",
    "in a loop": "create function f() returns trigger language plpgsql as $$declare r record; begin"
    " for r in delete from counted returning * loop null; end loop;"
    " return null; end$$; create trigger t after insert on plain for each row execute function f()",
    "EXECUTE": "create function f() returns trigger language plpgsql as $$begin"
    " execute format('update %I set n = n + 1', 'counted'); return null; end$$;"
    " create trigger t after insert on plain for each row execute function f()",
    "in a function that it calls": "create function g(n int) returns int language sql as $$"
    " update public.counted set n = n + 1; select 1$$; create function f() returns trigger language plpgsql as $$begin"
    " perform g(new.n); return null; end$$;"
    " create trigger t after insert on plain for each row execute function f()",
    "in a body that is parsed": "create function g(n int) returns int begin atomic update counted set n = n + 1;"
    " select 1; end; create function f() returns trigger language plpgsql as $$begin"
    " new.n := g(new.n); return new; end$$;"
    " create trigger t before insert on plain for each row execute function f()",
    "another key": "create function f() returns trigger language plpgsql as $$begin"
    " update totals set n = n + 1 where tenant_id = new.n; return null; end$$;"
    " create trigger t after insert on plain for each row execute function f()",
    "any key": "create function f() returns trigger language plpgsql as $$begin delete from totals; return null; end$$;"
    " create trigger t after insert on plain for each row execute function f()",
    "a key that was changed": "create function f() returns trigger language plpgsql as $$begin"
    " new.tenant_id := 1; insert into log values (new.tenant_id, 1); return null; end$$;"
    " create trigger t after insert on plain for each row execute function f()",
    "a single table": "create function f() returns trigger language plpgsql as $$begin"
    " insert into tasks values (1, new.n); return null; end$$;"
    " create trigger t after insert on plain for each row execute function f()",
    "by the table that it writes": "create function f() returns trigger language plpgsql as $$begin"
    " insert into log values (new.tenant_id, 1); return null; end$$;"
    " create trigger t after insert on plain for each row execute function f();"
    " create function h() returns trigger language plpgsql as $$begin truncate table countries, counted;"
    " return null; end$$; create trigger t after insert on log for each row execute function h()",
    "a default": "create function f() returns int language sql as 'update counted set n = n + 1 returning n';"
    " alter table plain alter n set default f()",
    "a rule": "create rule r as on insert to plain do also update counted set n = n + 1",
}
FUNCTIONS = """
create function next_number(bigint) returns int language sql as 'update counted set n = n + 1 returning n';
create function looked_up(bigint) returns int language sql stable as 'select n from counted';
"""


@pytest.fixture
def both(shardpool_make_topology: Callable[..., Path], shardpool_database: str) -> Iterator[tuple[Router, Any]]:
    """The router, and one plain server with the same tables."""
    with (
        Router(shardpool_make_topology(KEYSPACES, SCHEMA + FUNCTIONS)) as router,
        psycopg.connect(shardpool_database, autocommit=True) as plain,
    ):
        plain.execute(SCHEMA + FUNCTIONS)  # type: ignore[call-overload]
        yield router, plain


def assert_alike(router: Router, plain: Any, *tables: str) -> None:
    for table in tables:
        ours, theirs = router.execute(f"select * from {table}"), plain.execute(f"select * from {table}")
        assert Counter(map(repr, ours.rows)) == Counter(map(repr, theirs.fetchall())), table


def test_what_stays_with_its_key_is_done_as_by_one_server(both: tuple[Router, Any]) -> None:
    for engine in both:
        for sql in (
            "insert into orders (id, tenant_id) values (1, 1), (2, 1), (1, 2), (1, 3), (1, 4)",
            "insert into orders values (9, 5, 'one', null) on conflict do nothing",
            "update orders set note = 'x'",
            "insert into items values (1, 1, 1), (2, 1, 1), (3, 2, 1)",
            "delete from orders where id = 1",
            "insert into countries values ('de', 'Germany'), ('fr', 'France')",
            "insert into gone values (1, 'de'), (2, 'de'), (3, 'fr')",
            "delete from countries where code = 'de'",
            "insert into codes values (1, 'a'), (2, 'b')",
            "insert into by_code values (1, 1), (2, 2)",
            "update codes set name = 'c'",
            "delete from codes where id = 2",
            "insert into jobs values (1, 1), (2, 2)",
            "delete from jobs where id = 1",
            "insert into plain values (3, looked_up(3))",
            "select looked_up(tenant_id) from plain where tenant_id = 3",
        ):
            engine.execute(sql)
    tables = "orders items audit totals countries gone codes by_code jobs tasks plain".split()
    assert_alike(*both, *tables)
    router, _ = both
    assert len({tuple(result.rows) for result in router.scatter("table countries").values()}) == 1


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_write_sets_off_elsewhere_refuses_it(both: tuple[Router, Any], what: str) -> None:
    router, _ = both
    router.execute("insert into plain values (1, 1), (2, 2)")
    router.scatter(REFUSED[what])
    assert [found.subject for found in router.check().findings if "counted" in found.message or found.hint] != []
    with pytest.raises(UnsupportedQuery):
        router.execute("insert into plain (tenant_id) values (3), (4)")
    with pytest.raises(UnsupportedQuery):
        router.execute("insert into plain (tenant_id) values (3)")
    with pytest.raises(UnsupportedQuery):
        router.copy_into("plain", [(3,), (4,)], columns=["tenant_id"])
    assert router.execute("select count(*), min(n) from plain").one() == (2, 1)
    assert router.execute("delete from plain where tenant_id = 1").rowcount == 1


def test_foreign_keys_that_change_rows_elsewhere_refuse_a_write(both: tuple[Router, Any]) -> None:
    router, _ = both
    router.execute("insert into codes values (1, 'a')")
    router.execute("insert into by_code values (1, 1)")
    router.scatter("alter table countries add owner bigint references plain on delete cascade on update set null")
    router.execute("insert into plain values (1, 1), (2, 2)")
    router.execute("update plain set n = 3")
    for sql in (
        "delete from plain where tenant_id = 1",
        "delete from plain",
        "merge into plain p using (values (1)) v(v) on p.tenant_id = 1 when matched then delete",
        "with gone as (delete from plain where tenant_id = 1 returning *) select * from gone",
        "update codes set id = id + 1",
        "insert into shown values ('it', 'Italy')",
    ):
        with pytest.raises(UnsupportedQuery, match=r"the foreign key of (countries|by_code) changes it with|is a view"):
            router.execute(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "select next_number(tenant_id) from plain where tenant_id = 1",
        "update plain set n = next_number(1) where tenant_id = 1",
        "insert into plain values (7, next_number(1))",
        "insert into plain values (7, next_number(1)), (8, 1)",
        "insert into counted values (2, next_number(1))",
        "update counted set n = next_number(1)",
    ],
)
def test_a_function_that_writes_on_one_shard_only_is_refused(both: tuple[Router, Any], sql: str) -> None:
    router, _ = both
    router.execute("insert into plain values (1, 1)")
    with pytest.raises(UnsupportedQuery, match=r"next_number\(\)"):
        router.execute(sql)
    assert {tuple(result.rows) for result in router.scatter("table counted").values()} == {((1, 0),)}


def test_a_single_table_may_set_off_what_stays_on_its_shard(both: tuple[Router, Any]) -> None:
    router, plain = both
    for engine in both:
        engine.execute("insert into jobs values (5, 1)")
    assert_alike(router, plain, "jobs", "tasks")
    body = "begin update counted set n = n + 1; return null; end"
    router.scatter(f"create or replace function worked() returns trigger language plpgsql as $${body}$$")
    with pytest.raises(UnsupportedQuery, match="trigger worked of jobs writes counted"):
        router.execute("insert into jobs values (6, 1)")
    with pytest.raises(UnsupportedQuery, match="trigger worked of jobs writes counted"):
        router.copy_into("jobs", [(6, 1)], columns=["id", "n"])
    assert router.shard("s1").execute("insert into jobs values (6, 1)").rowcount == 1
