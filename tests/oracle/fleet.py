"""Four shards with rows, and plain databases that hold the same rows: what the router has to be equal to.

`plain` is the one database of the promise; `shuffled` holds the same rows in another order of insertion and plans
otherwise: it proves that a statement and the comparison do not hang on the order in which rows lie or are read.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psycopg

from shardpool import Router
from shardpool.testing import _create, _drop, _prepare, _topology

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    pinned: {17: s3}
    tables: {customers: tenant_id, orders: tenant_id, items: tenant_id}
  authors:
    key: text
    hash:
      function: murmur3
      buckets: 4096
      owners: {s3: 0-1023, s2: 1024-2047, s1: 2048-3071, s0: 3072-4095}
    tables: {notes: author}
  days:
    key: date
    range:
      - {below: 2024-07-01, shard: s0}
      - {below: 2025-01-01, shard: s1}
      - {below: 2025-07-01, shard: s2}
      - {shard: s3}
    tables: {events: day}
reference_tables: [countries, rates, other.orders]
single_tables: {audit: s0, ledger: s2}
"""

# {collate} is the collation of the texts that people read: a linguistic one where the server has any.
SCHEMA = """\
create type grade as enum ('silver', 'bronze', 'void', 'gold');
create schema other;
create table customers (
  tenant_id bigint not null, id int not null, name text {collate}, grade grade, balance numeric(12,2), score float8,
  tags text[], born date, seen timestamptz, flag bool, code char(4), uid uuid, doc jsonb, span interval,
  primary key (tenant_id, id));
create table orders (
  tenant_id bigint not null, id bigint not null, customer_id int, total numeric, qty int, small smallint,
  note text {collate}, placed timestamptz, primary key (tenant_id, id));
create table items (
  tenant_id bigint not null, order_id bigint not null, line int not null, sku text, price numeric, amount real,
  primary key (tenant_id, order_id, line));
create table notes (
  author text not null, n int not null, body text collate "C", stars int, primary key (author, n));
create table events (day date not null, n int not null, kind text, value float8, primary key (day, n));
create table countries (code text primary key, name text {collate}, continent text);
create table rates (code text, year int, rate numeric);
create table other.orders (x int, y text);
"""
# Tables that are on one shard alone, which has the types that they need.
SINGLES = {
    "audit": ("s0", "create table audit (id bigint primary key, what text)"),
    "ledger": ("s2", 'create table ledger (n int, entry text collate "C", grade grade, price numeric(8,2), doc jsonb)'),
}

COLUMNS: dict[str, tuple[str, ...]] = {
    "customers": tuple("tenant_id id name grade balance score tags born seen flag code uid doc span".split()),
    "orders": tuple("tenant_id id customer_id total qty small note placed".split()),
    "items": tuple("tenant_id order_id line sku price amount".split()),
    "notes": tuple("author n body stars".split()),
    "events": tuple("day n kind value".split()),
    "countries": tuple("code name continent".split()),
    "rates": tuple("code year rate".split()),
    "other.orders": ("x", "y"),
    "audit": ("id", "what"),
    "ledger": tuple("n entry grade price doc".split()),
}

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
TENANTS = [0, -1, INT64_MIN, INT64_MAX, 17, 4096, -4096, 2**31, -(2**31), *range(1, 17), *range(100, 116)]
NAMES = [
    *("", "anna", "Anna", "ANNA", "Ärger", "ärger", "Argon", "Zoë", "Zoe", "zoe\u0308", "émile", "E\u0301mile", "Ömer"),
    *("straße", "STRASSE", "strasse", "İstanbul", "ılık", "a b", "a-b", "ab", "a_b", "a%b", "_", "%", "x\\y", "it's"),
    *('"q"', " lead", "trail ", "naïve", "日本", "😀", "null", "NULL", "0", "10", "9", "-1"),
]
AUTHORS = [
    "",
    "ann",
    "Ann",
    "bob",
    "Bob ",
    "bob ",
    "çelik",
    "c\u0327elik",
    "dora",
    "Émile",
    "zed",
    "日本",
    "a,b",
    "it's",
]
NUMBERS = ["1.0", "1.00", "1", "0", "0.00", "-0.5", "10.10", "10.1", "99.999", "1234567.891", "-7", "NaN", "0.000001"]


# What the shuffled server goes without, so that it also comes to its rows in other ways.
OTHER_PLANS = ("hashagg", "hashjoin", "indexscan", "indexonlyscan", "bitmapscan", "incremental_sort", "memoize")


@dataclass(frozen=True)
class Oracle:
    """The router, and DSN parameters of the databases that hold everything."""

    router: Router
    plain: dict[str, Any]
    shuffled: dict[str, Any]
    collation: str | None

    def connect(self, which: str = "plain") -> psycopg.Connection[Any]:
        conn = psycopg.connect(autocommit=True, **getattr(self, which))
        if which == "shuffled":
            conn.execute("; ".join(f"set enable_{way} = off" for way in OTHER_PLANS))
        return conn


@contextmanager
def made(servers: Sequence[dict[str, Any]], folder: Path, keyspaces: str = KEYSPACES) -> Iterator[Oracle]:
    """All databases with their rows; they are dropped at the end."""
    token = secrets.token_hex(5)
    rows = all_rows()
    with ExitStack() as stack:
        collation = linguistic(servers[0])
        schema = SCHEMA.replace("{collate}", f'collate "{collation}"' if collation else "")
        shards = [_new(stack, server, f"oracle_{token}_{number}") for number, server in enumerate(servers)]
        path = folder / f"oracle-{token}.yaml"
        path.write_text(_topology(folder, token, shards, keyspaces), encoding="utf-8")
        _prepare(path, schema, init=True)
        with Router(path) as router:
            for shard, ddl in SINGLES.values():
                router.shard(shard).execute(ddl)
            for table, lines in rows.items():
                _load_shards(router, table, lines)
            router.scatter("analyze")
        plain = _new(stack, servers[-1], f"oracle_{token}_plain")
        shuffled = _new(stack, servers[0], f"oracle_{token}_shuffled")
        for params, order in ((plain, None), (shuffled, random.Random(7))):
            with psycopg.connect(autocommit=True, **params) as conn:
                conn.execute(schema + ";".join(ddl for _, ddl in SINGLES.values()))
                _load_plain(conn, rows, order)
        with Router(path) as router:
            yield Oracle(router, plain, shuffled, collation)


def linguistic(server: dict[str, Any]) -> str | None:
    """A collation that is not the order of code points, when the server has one."""
    with psycopg.connect(autocommit=True, **server) as conn:
        names = {row[0] for row in conn.execute("select collname from pg_collation where collisdeterministic")}
    return next((name for name in ("en_US.utf8", "en_US", "en-US-x-icu", "en-x-icu") if name in names), None)


def _new(stack: ExitStack, server: dict[str, Any], name: str) -> dict[str, Any]:
    _create(server, name)
    stack.callback(_drop, server, name)
    with psycopg.connect(autocommit=True, **server) as conn:
        conn.execute(f'alter database "{name}" set jit = off')
        if conn.info.server_version >= 180000:
            # It orders GROUP BY CUBE (a.x, b.x) wrongly where it makes one table of a and b.
            conn.execute(f'alter database "{name}" set enable_self_join_elimination = off')
    return {**server, "dbname": name}


def _load_shards(router: Router, table: str, rows: list[tuple[Any, ...]]) -> None:
    if table in SINGLES:
        for row in rows:
            places = ", ".join(["%s"] * len(row))
            router.shard(SINGLES[table][0]).execute(f"insert into {table} values ({places})", row)
    elif table == "other.orders":
        for row in rows:
            router.scatter("insert into other.orders values (%s, %s)", row)
    else:
        router.copy_into(table, rows, columns=COLUMNS[table], binary=False)


def _load_plain(conn: psycopg.Connection[Any], rows: dict[str, list[Any]], order: random.Random | None) -> None:
    for table, lines in rows.items():
        if order is not None:
            lines = order.sample(lines, len(lines))
        with conn.cursor() as cursor, cursor.copy(f"copy {table} ({', '.join(COLUMNS[table])}) from stdin") as copy:
            for line in lines:
                copy.write_row(line)
    conn.execute("analyze")


# -- rows: values are Python's for keys, else the text that PostgreSQL reads ---------------


def all_rows(seed: int = 20250) -> dict[str, list[tuple[Any, ...]]]:
    """The same rows on every call."""
    rng = random.Random(seed)
    customers = [_customer(rng, tenant, id) for tenant in TENANTS for id in range(1, rng.randint(2, 13))]
    orders: list[tuple[Any, ...]] = []
    items: list[tuple[Any, ...]] = []
    for tenant in [*TENANTS, 555, 556]:  # the last have orders and no customers
        for id in range(101, 101 + rng.choice((0, 3, 12, 24, 40, 55))):
            orders.append(_order(rng, tenant, id))
            items += [_item(rng, tenant, id, line) for line in range(1, 1 + rng.choice((0, 1, 2, 2, 3, 5)))]
    items += [_item(rng, tenant, 999, 1) for tenant in (1, 2, 777)]  # of no order
    return {
        "customers": customers,
        "orders": orders,
        "items": items,
        "notes": [
            (author, n, _maybe(rng, rng.choice(NAMES)), _maybe(rng, rng.randint(-1, 5)))
            for author in AUTHORS
            for n in range(rng.randint(0, 14))
        ],
        "events": [_event(rng, number) for number in range(200)],
        "countries": COUNTRIES,
        "rates": RATES,
        "other.orders": [(1, "one"), (2, None), (None, "none"), (3, "drei"), (3, "drei")],
        "audit": [(id, _maybe(rng, rng.choice(NAMES))) for id in (-5, 0, 1, 2, 3, 10, 101, INT64_MAX)],
        "ledger": [
            (n, _maybe(rng, rng.choice(NAMES)), _maybe(rng, rng.choice(("void", "gold"))), f"{n}.5", rng.choice(DOCS))
            for n in range(8)
        ],
    }


def _maybe(rng: random.Random, value: Any, null: float = 0.12) -> Any:
    return None if rng.random() < null else value


def _float(rng: random.Random) -> str:
    if rng.random() < 0.12:
        return rng.choice(("NaN", "Infinity", "-Infinity", "-0", "0"))
    return repr(rng.choice((rng.uniform(-100, 100), float(rng.randint(-5, 5)), rng.uniform(-1, 1) * 1e-3, 1e3 / 3)))


def _time(rng: random.Random) -> str:
    if rng.random() < 0.06:
        return rng.choice(("infinity", "-infinity"))
    zone = rng.choice(("+00", "+02", "-08"))
    clock = rng.choice(("00:00:00", "12:34:56.789", "23:59:59.999999"))
    return f"{date(2024, 1, 1) + timedelta(rng.randrange(700))} {clock}{zone}"


def _customer(rng: random.Random, tenant: int, id: int) -> tuple[Any, ...]:
    born = rng.choice(("infinity", "-infinity")) if rng.random() < 0.05 else str(date(1950 + id, 1 + id % 12, 28))
    tags = rng.choice(("{}", "{a}", "{b,a}", "{a,NULL}", '{"",x}', "{NULL}", "{a,b,c}", "{Ä,a}"))
    return (
        tenant,
        id,
        _maybe(rng, rng.choice(NAMES)),
        _maybe(rng, rng.choice(("silver", "bronze", "void", "gold"))),
        _maybe(rng, rng.choice(("1.0", "1.00", "0", "-12.5", "NaN", "99.99", "100", f"{rng.uniform(-500, 500):.2f}"))),
        _maybe(rng, _float(rng)),
        _maybe(rng, tags),
        _maybe(rng, born),
        _maybe(rng, _time(rng)),
        _maybe(rng, rng.choice(("t", "f"))),
        _maybe(rng, rng.choice(("de", "fr", "us", "DE", "d e", "", "abcd", "at"))),
        _maybe(rng, f"0000000{rng.randrange(10)}-0000-4000-8000-00000000000{rng.randrange(10)}"),
        _maybe(rng, rng.choice(DOCS)),
        _maybe(
            rng, rng.choice(("1 day", "24:00:00", "1 mon", "30 days", "-1 day 02:00", "0", "1 year 2 mons", "10:30"))
        ),
    )


def _order(rng: random.Random, tenant: int, id: int) -> tuple[Any, ...]:
    total = rng.choice(("NaN", "Infinity", "-Infinity")) if rng.random() < 0.03 else rng.choice(NUMBERS)
    if rng.random() < 0.5:
        total = f"{rng.uniform(-50, 950):.{rng.randint(0, 4)}f}"
    return (
        tenant,
        id,
        _maybe(rng, rng.randint(1, 14)),
        _maybe(rng, total),
        _maybe(rng, rng.choice((0, 1, 2, 3, 5, 10, -1, 2**31 - 1) if rng.random() < 0.1 else (0, 1, 2, 3, 5, 10, -1))),
        _maybe(rng, rng.choice((-32768, 32767, 0, 1, 2, 7))),
        _maybe(rng, rng.choice(NAMES), 0.3),
        _maybe(rng, _time(rng)),
    )


def _item(rng: random.Random, tenant: int, order_id: int, line: int) -> tuple[Any, ...]:
    amount = rng.choice(("NaN", "Infinity", "-0")) if rng.random() < 0.02 else repr(rng.randint(-400, 4000) / 4)
    return (
        tenant,
        order_id,
        line,
        _maybe(rng, f"sku-{rng.randint(1, 25)}"),
        _maybe(rng, rng.choice((*NUMBERS, f"{rng.uniform(0, 90):.2f}", f"{rng.uniform(0, 90):.2f}"))),
        _maybe(rng, amount),
    )


def _event(rng: random.Random, number: int) -> tuple[Any, ...]:
    day = date(2024, 1, 1) + timedelta((number // 2) * 8)
    return (
        rng.choice((date(1, 1, 1), date(9999, 12, 31))) if number in (5, 6) else day,
        number,
        _maybe(rng, rng.choice(("click", "Click", "view", "", "öffnen"))),
        _maybe(rng, _float(rng)),
    )


DOCS = [
    *("{}", "[]", "null", "1", '"text"', "true", '{"a": 1}', '{"a": 1.5, "b": [1, 2, 3]}', '{"a": null}'),
    *('{"a": {"b": "x"}}', "[1, 2, {}]", '{"a": "1", "ä": "ö"}', '{"b": [], "a": 2}'),
]
COUNTRIES = [
    *(
        ("de", "Deutschland", "europe"),
        ("fr", "France", "europe"),
        ("us", "USA", "america"),
        ("at", "Österreich", None),
    ),
    *(("jp", "日本", "asia"), ("xx", None, None), ("DE", "shouting", "europe"), ("", "empty", "")),
]
RATES = [
    *(("de", 2024, "1.0"), ("de", 2025, "1.10"), ("fr", 2024, "1.00"), ("us", 2024, "0.91"), ("us", 2025, None)),
    *((None, 2024, "7"), ("jp", None, "NaN"), ("us", 2024, "0.91"), ("zz", 2020, "-3.5")),
]
