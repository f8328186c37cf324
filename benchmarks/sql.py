"""SQL over all shards against one plain PostgreSQL with the same rows, on the same machine."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from time import perf_counter
from typing import Any, LiteralString, cast

import psycopg

from shardpool import Router, Topology
from shardpool.query.plans.planner import completed
from shardpool.query.plans.planner import plan as make_plan

from .fleet import Database, Fleet
from .growth import Growth
from .harness import Effort, Measured, joined, measure, repeat
from .query import AUTOCOMMIT, KEY, QUERY
from .rows import Row, Target, alone, compare, compare_rates

_ROWS = 1_000_000
_TENANTS = 1000
_MAKE = """
    drop table if exists facts;
    create unlogged table facts (
        tenant_id bigint not null, id bigint not null, amount int not null, price numeric not null, kind text not null,
        at timestamptz not null, primary key (tenant_id, id))
"""
_FILL = """
    insert into facts select i % {tenants}, i, i % 97, (i % 1000) / 10.0, 'kind ' || i % 20,
                             timestamptz '2024-01-01 00:00+00' + i * interval '1 second'
    from generate_series(1, {rows}) i
"""
_PLAIN = "plain PostgreSQL"
_AGGREGATES = {
    "count, sum, 1 row": "select count(*), sum(amount), max(amount) from facts",
    "group by text": "select kind, count(*), sum(amount), avg(price) from facts group by kind order by 2 desc, 1",
    "group by key": "select tenant_id, count(*), sum(price) from facts group by tenant_id order by 3 desc, 1 limit 10",
}
_TOP = {
    "top 10 by time": "select * from facts order by at desc limit 10",
    "top 10 by numeric": "select * from facts order by price desc, id limit 10",
}
_STREAM = "select tenant_id, id, amount, price, kind, at from facts order by at"
_BY_KEY = "select tenant_id, id, amount, price, kind, at from facts order by tenant_id, id"


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    databases = fleet.databases[:4]
    rows = effort.pick(_ROWS, _ROWS // 20)
    topology = _with_facts(fleet.topology(4))
    plain = databases[0]
    with Router(topology, kwargs=AUTOCOMMIT) as router:
        yield from _overhead(effort, router)
        yield from _planning(effort, router)
        yield from _fan_out(effort, router)
        yield _many_rows(effort, router, plain)
        with _one_server(plain, databases, rows) as conn:
            yield from _against_one(effort, router, conn, {**_AGGREGATES, **_TOP})
            yield from _streamed(effort, router, conn, rows)


def _with_facts(topology: Topology) -> Topology:
    keyspace = topology.keyspaces["items"]
    tables = {**keyspace.tables, "public.facts": ("tenant_id",)}
    return replace(topology, keyspaces={"items": replace(keyspace, tables=tables)})


class _one_server:
    """The table on the four shards, and whole in a database of its own on the first one's server."""

    def __init__(self, plain: Database, shards: tuple[Database, ...], rows: int) -> None:
        self._shards = shards
        self._params = {**plain.params, "dbname": "shardpool_bench_whole"}
        self._rows = rows
        self._admin = plain.conninfo

    def __enter__(self) -> psycopg.Connection[Any]:
        with psycopg.connect(self._admin, autocommit=True) as conn:
            conn.execute("drop database if exists shardpool_bench_whole with (force)")
            conn.execute("create database shardpool_bench_whole")
        self._conn = psycopg.connect("", autocommit=True, **self._params)  # type: ignore[arg-type]
        self._conn.execute(_MAKE)
        self._conn.execute(_FILL.format(tenants=_TENANTS, rows=self._rows))
        self._conn.execute("vacuum analyze facts")
        shards = [psycopg.connect(database.conninfo, autocommit=True) for database in self._shards]
        for conn in shards:
            conn.execute(_MAKE)
        keyspace = "select tenant_id, id, amount, price, kind, at from facts"
        topology = Fleet(self._shards).topology(4).keyspaces["items"]
        owner = {tenant: topology.shard_by_bucket[topology.partitioning.bucket(tenant)] for tenant in range(_TENANTS)}
        for database, conn in zip(self._shards, shards, strict=True):
            keys = [tenant for tenant, name in owner.items() if name == database.name]
            copy = f"copy ({keyspace} where tenant_id in ({', '.join(map(str, keys))})) to stdout"
            with self._conn.cursor().copy(copy) as out, conn.cursor().copy("copy facts from stdin") as into:
                for data in out:
                    into.write(data)
            conn.execute("vacuum analyze facts")
            conn.close()
        return self._conn

    def __exit__(self, *error: object) -> None:
        self._conn.close()


def _overhead(effort: Effort, router: Router) -> Iterator[Row]:
    """A statement that finds its shard by itself, against the pool of that shard."""

    def once() -> dict[str, Measured]:
        route = router.for_key(KEY)
        route.execute(QUERY, (KEY,))
        router.execute(QUERY, (KEY,))
        pool: Any = router._fleet.snapshot.shards[route.shard].primary._inner.current

        def bare() -> Any:
            with pool.connection() as conn:
                return conn.execute(QUERY, (KEY,)).fetchall()

        texts = (f"select id, name from items where id = {KEY} and name <> '{number}'" for number in itertools.count())

        def bare_text() -> Any:
            with pool.connection() as conn:
                return conn.execute(cast(LiteralString, next(texts))).fetchall()

        operations: dict[str, Callable[[], Any]] = {
            "execute(text)": lambda: router.execute(next(texts)).rows,
            "pool, text": bare_text,
            "execute(sql)": lambda: router.execute(QUERY, (KEY,)).rows,
            "for_key().execute(sql)": lambda: router.for_key(KEY).execute(QUERY, (KEY,)).rows,
            "pool": bare,
        }
        samples = {name: repeat(operation, 10) for name, operation in operations.items()}
        return measure(samples, effort, rounds=300, seconds=5)

    found = joined(once() for _ in range(effort.pick(3, 1)))
    yield compare("sql", "one shard, found in the SQL", found["execute(sql)"], found["pool"], "pool", Target(most=1.05))
    yield compare(
        "sql",
        "values in the text",
        found["execute(text)"],
        found["pool, text"],
        "pool, the same texts",
        Target(most=1.5),
    )
    ours, routed = found["execute(sql)"], found["for_key().execute(sql)"]
    added = Measured(tuple(a - b for a, b in zip(ours.seconds, routed.seconds, strict=True)))
    yield alone("sql", "added to for_key().execute() by a cached plan", Measured((max(added.median, 0.0),)), 3e-6)


def _planning(effort: Effort, router: Router) -> Iterator[Row]:
    """What a statement costs that was not met before, in all."""
    router.execute(QUERY, (KEY,))
    catalog = router._planner.schema.catalog
    assert catalog is not None
    topology = router.topology
    by_key = (
        "select i.id, i.name, l.amount from items i join loaded l on l.id = i.id where i.id = $1 and l.amount > $2 "
        "order by l.at desc limit 10"
    )
    groups = "select name, count(*), avg(id) from items group by name order by 2 desc, 1 limit 10"

    def over_shards() -> Any:
        return make_plan(groups, topology, catalog), completed(groups, topology, catalog)

    samples = {
        "by key": repeat(lambda: make_plan(by_key, topology, catalog), 20),
        "over shards": repeat(over_shards, 10),
    }
    found = measure(samples, effort, rounds=30, seconds=4)
    yield alone("sql", "planning a new statement: a join by key", found["by key"], 0.5e-3)
    yield alone("sql", "planning a new statement: GROUP BY over shards", found["over shards"], 1.5e-3)


def _many_rows(effort: Effort, router: Router, plain: Database) -> Row:
    """An INSERT of many rows by VALUES, planned each time, against one server that takes them all."""
    count = effort.pick(8000, 1000)
    texts = (_insert(count, number) for number in itertools.count())
    params = [value for key in range(count) for value in (key, key % 97, "a note")]
    with psycopg.connect(plain.conninfo, autocommit=True) as conn:
        operations: dict[str, Callable[[], Any]] = {
            "ours": lambda: router.execute(next(texts), params),
            "plain": lambda: conn.execute(next(texts), params),
        }
        samples = {name: repeat(operation, 1) for name, operation in operations.items()}
        found = measure(samples, effort, rounds=15, seconds=15)
    router.scatter("truncate loaded")
    return compare("sql", f"INSERT of {count} rows by VALUES", found["ours"], found["plain"], _PLAIN, Target(most=3.0))


def _insert(count: int, number: int) -> LiteralString:
    """A text that is another one each time."""
    rows = ", ".join(["(%s, %s, %s)"] * count)
    text = f"insert into loaded (id, amount, note) values {rows} -- {number}"
    return cast("LiteralString", text)


def _fan_out(effort: Effort, router: Router) -> Iterator[Row]:
    """One row from four shards, and ten keys, against one key."""
    keys = _ten_keys(router)
    many = "select id, name from items where id = any(%s)"
    operations: dict[str, Callable[[], Any]] = {
        "one key": lambda: router.execute(QUERY, (KEY,)).rows,
        "count(*) on 4 shards": lambda: router.execute("select count(*) from items where id < %s", (10,)).rows,
        "ten keys on 4 shards": lambda: router.execute(many, (keys,)).rows,
    }
    samples = {name: repeat(operation, 5) for name, operation in operations.items()}
    found = joined(measure(samples, effort, rounds=200, seconds=4) for _ in range(effort.pick(3, 1)))
    one = found["one key"]
    yield compare("sql", "count(*) on 4 shards", found["count(*) on 4 shards"], one, "one key", Target(most=2.5))
    yield compare("sql", "ten keys on 4 shards", found["ten keys on 4 shards"], one, "one key", Target(most=3.0))


def _ten_keys(router: Router) -> list[int]:
    """Ten keys that lie on all shards."""
    keys = list(range(10))
    assert len(router.for_keys(keys, table="items")) == 4
    return keys


def _against_one(
    effort: Effort, router: Router, conn: psycopg.Connection[Any], statements: dict[str, str]
) -> Iterator[Row]:
    for name, sql in statements.items():
        assert sorted(map(repr, router.execute(sql).rows)) == sorted(map(repr, conn.execute(sql).fetchall())), name
        operations: dict[str, Callable[[], Any]] = {
            "ours": lambda sql=sql: router.execute(sql).rows,  # type: ignore[misc]
            _PLAIN: lambda sql=sql: conn.execute(sql).fetchall(),  # type: ignore[misc]
        }
        samples = {case: repeat(operation, 1) for case, operation in operations.items()}
        found = measure(samples, effort, rounds=15, seconds=6)
        yield compare("sql", f"{name}, 1M rows", found["ours"], found[_PLAIN], _PLAIN, Target(most=1.2))


def _streamed(effort: Effort, router: Router, conn: psycopg.Connection[Any], rows: int) -> Iterator[Row]:
    """All rows merged in order, against a plain `cursor.stream` of the same statement."""
    firsts: list[float] = []
    growth = Growth()

    def ours() -> float:
        with growth.of("ours")():
            begun = perf_counter()
            stream = iter(router.stream(_STREAM))
            next(stream)
            firsts.append(perf_counter() - begun)
            assert 1 + sum(1 for _ in stream) == rows
            return (perf_counter() - begun) / rows

    def read(open_stream: Callable[[], Iterable[Any]]) -> float:
        begun = perf_counter()
        assert sum(1 for _ in open_stream()) == rows
        return (perf_counter() - begun) / rows

    samples = {
        "by time": ours,
        "plain, by time": partial(read, lambda: conn.cursor().stream(_STREAM, size=1000)),
        "by key": partial(read, lambda: router.stream(_BY_KEY)),
        "plain, by key": partial(read, lambda: conn.cursor().stream(_BY_KEY, size=1000)),
    }
    found = measure(samples, effort, rounds=5, seconds=90, least=3)
    for name, target in (("by time", Target(least=0.7)), ("by key", Target(least=0.8))):
        case = f"stream, merged in order {name}"
        yield compare_rates("sql", case, found[name], found[f"plain, {name}"], "cursor.stream", target)
    yield Row("sql", "stream, memory", f"+{growth.by_name['ours'] / 2**20:.1f} MiB at most", target="≤ 32 MB")
    yield alone("sql", "stream, first row (by an index)", Measured(tuple(_firsts(router, _BY_KEY))), 20e-3)
    yield alone("sql", "stream, first row (a sort of 1M rows)", Measured(tuple(firsts)))


def _firsts(router: Router, sql: str) -> Iterator[float]:
    for _ in range(9):
        begun = perf_counter()
        stream = router.stream(sql)
        next(iter(stream))
        yield perf_counter() - begun
        stream.close()  # type: ignore[attr-defined]
