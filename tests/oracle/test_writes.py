"""Writes give what they give on one plain server: the same rows, counts and RETURNING; or are refused whole."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shardpool import Router, UnsupportedQuery
from shardpool.errors import InvalidKey

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    tables: {orders: tenant_id, items: tenant_id}
  places:
    key: [text, bigint]
    hash:
      function: murmur3
      buckets: 64
      owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}
    tables: {places: [region, id]}
reference_tables: [countries]
single_tables: {audit: s1}
"""
TABLES = {
    "orders": "tenant_id bigint not null, id int not null, total numeric, note text default 'new', "
    "primary key (tenant_id, id)",
    "items": "tenant_id bigint not null, order_id int not null, line int not null, qty int check (qty < 100), "
    "primary key (tenant_id, order_id, line)",
    "places": "region text not null, id bigint not null, name text, primary key (region, id)",
    "countries": "code text primary key, name text not null",
    "audit": "id int primary key, what text",
}
HANDWRITTEN: list[Any] = [
    "insert into orders values (1, 1, 5.5), (2, 1, 7), (3, 1, null, 'x'), (4, 1, 1)",
    "insert into orders values (1, 1, 5.5), (2, 1, 7), (3, 1, null), (4, 1, 1)",
    ("insert into orders (id, tenant_id, total) values (%s, %s, %s), (%s, %s, 2)", [2, 1, 3, 2, 9]),
    "insert into orders (tenant_id, id) values (11, 1), (12, default + 1)",
    "insert into orders (tenant_id, id) values (11, 1), (12, 1), (13, 1) returning id, tenant_id, note",
    "insert into orders (tenant_id, id) values (21, 1), (1, 1), (22, 1)",
    "insert into orders (tenant_id, id) values (1, 1), (31, 1) on conflict do nothing",
    "insert into orders (tenant_id, id, total) values (1, 1, 100), (32, 1, 1) "
    "on conflict (tenant_id, id) do update set total = orders.total + excluded.total returning total",
    "insert into orders (id) values (1)",
    "insert into orders (tenant_id, id) values (null, 1), (2, 77)",
    "insert into orders default values",
    "insert into orders (tenant_id, id) select tenant_id, id + 100 from orders",
    "insert into items select o.tenant_id, o.id, 1, 3 from orders o where o.total > 2",
    "insert into items (tenant_id, order_id, line) select tenant_id + 1, id, 9 from orders",
    ("insert into orders (tenant_id, id, note) select %s, 500, name from countries", [7]),
    "update orders set total = total * 2",
    "update orders set note = 'b' || note where tenant_id in (1, 2, 3) returning *",
    ("update orders set total = %s where tenant_id = %s", ["8.5", 2]),
    "update orders o set total = i.qty from items i where i.tenant_id = o.tenant_id and i.order_id = o.id",
    "update orders set note = (select max(name) from countries)",
    "update orders o set note = (select count(*)::text from items i where i.tenant_id = o.tenant_id)",
    "update orders set note = (select count(*)::text from items)",
    "update orders set tenant_id = 5 where tenant_id = 1",
    "update orders set tenant_id = 1, note = 'same' where tenant_id = 1",
    "update orders set tenant_id = tenant_id + 1000 returning *",
    "update orders set tenant_id = tenant_id - 1000",
    "update items set qty = qty + 98",
    "update orders set note = random()::text",
    "update orders set note = now()::text where tenant_id = 3 and false",
    "delete from items where qty is null",
    "delete from orders where total < 3 returning tenant_id",
    "delete from orders o using items i where i.tenant_id = o.tenant_id and i.order_id = o.id and i.qty > 1000",
    "delete from orders where exists (select from items i where i.tenant_id = orders.tenant_id and i.line = 77)",
    "delete from orders where id in (select line from items)",
    "delete from orders using countries where countries.name = orders.note",
    "insert into places values ('eu', 1, 'a'), ('eu', 2, 'b'), ('us', 1, 'c')",
    ("update places set name = upper(name) where region = %s and id = %s", ["eu", 1]),
    "update places set name = name || '!' where (region, id) in (('eu', 2), ('us', 1))",
    "delete from places where region = 'eu'",
    "insert into countries values ('de', 'Germany'), ('fr', 'France')",
    "insert into countries values ('it', 'Italy') returning code, name",
    "update countries set name = upper(name) where code < 'e'",
    "update countries set name = left(clock_timestamp()::text, 2)",
    "delete from countries where code = 'fr'",
    "insert into countries select note, note from orders",
    "insert into countries values ('de', 'again')",
    "insert into countries values ('de', 'again') on conflict (code) do update set name = excluded.name",
    "insert into audit values (1, 'x'), (2, 'y')",
    "insert into audit select 3, name from countries where code = 'de'",
    "update audit set what = 'z' where id = 1",
    "delete from audit where id in (select id from orders)",
    "with gone as (delete from orders where tenant_id = 2 returning id) select count(*) from gone",
    "with gone as (delete from orders returning id) select count(*) from gone",
    "with new as (select 3::bigint as k) update orders set note = 'cte' from new where orders.tenant_id = new.k",
    "merge into orders o using (values (3, 1)) v (k, id) on o.tenant_id = 3 and o.id = v.id "
    "when matched then update set note = 'merged'",
    "merge into orders o using items i on o.tenant_id = i.tenant_id when matched then delete",
    "delete from orders where ctid = '(0,1)'",
    "insert into orders (tenant_id, id) values (1.0, 900), ('2', 901)",
    "insert into orders (tenant_id, id, total) values (40, 1, 1/0), (41, 1, 1)",
    "update orders set total = 1 / (id - id)",
    ("insert into orders (tenant_id, id) select %s, 902", [Decimal("7.4")]),
    ("insert into orders (tenant_id, id) select %s, 903", [7.0]),
    "insert into orders (tenant_id, id) values (7.4, 906) limit 1",
    "with x as (select 1) insert into orders (tenant_id, id) values (7.4, 910)",
    "with x as (insert into orders (tenant_id, id) values (7.4, 908) returning *) select tenant_id from x",
    "merge into orders o using (values (1)) v(id) on o.tenant_id = 3 and o.id = v.id "
    "when not matched then insert (tenant_id, id) values (7.4, 999)",
    "insert into orders (tenant_id, id) select 7, 911",
]


@pytest.fixture
def both(shardpool_make_topology: Callable[..., Path], shardpool_database: str) -> Iterator[tuple[Router, Any]]:
    """The router, and one plain server with the same tables."""
    everywhere = ";".join(f"create table {name} ({columns})" for name, columns in TABLES.items() if name != "audit")
    with (
        Router(shardpool_make_topology(KEYSPACES, everywhere)) as router,
        psycopg.connect(shardpool_database, autocommit=True) as plain,
    ):
        router.shard("s1").execute(f"create table audit ({TABLES['audit']})")
        for name, columns in TABLES.items():
            plain.execute(f"create table {name} ({columns})")
        yield router, plain


def _contents(run: Callable[[str], Any]) -> dict[str, Counter[str]]:
    return {name: Counter(map(repr, run(f"select * from {name}"))) for name in TABLES}


def _both_contents(router: Router, plain: Any) -> tuple[Any, Any]:
    return (
        _contents(lambda sql: router.execute(sql).rows),
        _contents(lambda sql: plain.execute(sql).fetchall()),
    )


def _apply(router: Router, plain: Any, sql: str, params: Any = None) -> str:
    """Run a write on both; `same`, `refused` or `error`. What the router refuses is not run on the plain server."""
    try:
        result = router.execute(sql, params)
    except (UnsupportedQuery, InvalidKey):
        return "refused"
    except psycopg.Error as error:
        with pytest.raises(psycopg.Error) as raised:
            plain.execute(sql, params)
        assert raised.value.sqlstate == error.sqlstate, sql
        return "error"
    cursor = plain.execute(sql, params)
    assert result.rowcount == cursor.rowcount, sql
    if cursor.description:
        assert result.columns == tuple(column.name for column in cursor.description), sql
        assert Counter(map(repr, result.rows)) == Counter(map(repr, cursor.fetchall())), sql
    return "same"


def test_writes_by_hand(both: tuple[Router, Any]) -> None:
    router, plain = both
    outcomes = Counter()
    for case in HANDWRITTEN:
        sql, params = case if isinstance(case, tuple) else (case, None)
        outcomes[_apply(router, plain, sql, params)] += 1
        ours, theirs = _both_contents(router, plain)
        assert ours == theirs, sql
    assert router.check().ok
    assert outcomes["same"] >= 35, outcomes


def _random_write(rng: random.Random) -> tuple[str, list[Any]]:
    key, other = rng.randrange(12), rng.randrange(12)
    rows = [(rng.randrange(12), rng.randrange(6), rng.randrange(90)) for _ in range(rng.randrange(1, 6))]
    where = rng.choice(
        [
            ("tenant_id = %s", [key]),
            ("tenant_id in (%s, %s)", [key, other]),
            ("tenant_id = any(%s)", [[key, other]]),
            ("total > %s", [rng.randrange(100)]),
            ("(tenant_id = %s or tenant_id = %s) and id < 3", [key, other]),
            ("tenant_id between %s and %s", [key, other]),
            ("exists (select from items i where i.tenant_id = orders.tenant_id and i.order_id = orders.id)", []),
            ("not exists (select from items i where i.tenant_id = orders.tenant_id and i.line = %s)", [other]),
            ("tenant_id in (select tenant_id from items where qty > %s)", [rng.randrange(90)]),
        ]
    )
    values = ", ".join(["(%s, %s, %s)"] * len(rows))
    flat = [value for row in rows for value in row]
    return rng.choice(
        [
            (f"insert into orders (tenant_id, id, total) values {values}", flat),
            (f"insert into orders (tenant_id, id, total) values {values} on conflict do nothing returning *", flat),
            (
                f"insert into orders (tenant_id, id, total) values {', '.join(['(%s, %s, %s)'])} "
                "on conflict (tenant_id, id) do update set total = excluded.total, note = 'again'",
                flat[:3],
            ),
            (
                "insert into items select tenant_id, id, %s, 1 from orders on conflict do nothing",
                [rng.randrange(8)],
            ),
            (f"update orders set total = total + 1, note = %s where {where[0]}", ["n", *where[1]]),
            (f"update orders set total = id where {where[0]} returning tenant_id, id", where[1]),
            (f"delete from orders where {where[0]} and id = %s", [*where[1], rng.randrange(6)]),
            ("update items set qty = least(qty + %s, 99) where order_id = %s", [rng.randrange(60), rng.randrange(6)]),
            (
                "update items i set qty = o.id from orders o where o.tenant_id = i.tenant_id and o.id = i.order_id "
                "and o.tenant_id <> %s",
                [key],
            ),
        ]
    )


@pytest.mark.parametrize("seed", range(4))
def test_random_writes(both: tuple[Router, Any], seed: int) -> None:
    router, plain = both
    rng = random.Random(seed)
    outcomes = Counter()
    for number in range(150):
        sql, params = _random_write(rng)
        outcomes[_apply(router, plain, sql, params)] += 1
        if number % 10 == 9:
            ours, theirs = _both_contents(router, plain)
            assert ours == theirs, sql
    assert router.check().ok
    assert outcomes["refused"] == 0, outcomes
    assert outcomes["same"] > 75, outcomes
