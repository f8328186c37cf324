"""`copy_into` four shards against one plain binary COPY into one server, and against executemany."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import IPv4Address
from itertools import cycle, islice
from time import perf_counter, process_time
from typing import Any

import psycopg

from shardpool import AsyncRouter, Router

from .fleet import Database, Fleet
from .growth import Growth
from .harness import Effort, Loop, Sample, measure
from .rows import Row, Target, compare, compare_rates

COLUMNS = ["id", "amount", "price", "note", "at"]
_TYPES = ["int8", "int4", "float8", "text", "timestamptz"]
_COPY = f"copy loaded ({', '.join(COLUMNS)}) from stdin (format binary)"
_INSERT = f"insert into loaded ({', '.join(COLUMNS)}) values (%s, %s, %s, %s, %s)"
_OURS = "copy_into()"
_OURS_AT_HAND = "copy_into(), rows at hand"
_ASYNC = "async copy_into()"
_ASYNC_ROWS = "async copy_into(), async rows"
_BARE = "binary COPY, one server"
_BARE_AT_HAND = "binary COPY, rows at hand"
_TARGET = Target(least=0.8)
_PLAIN = "odd_plain"
# By table the type of its column price, and what makes its values.
_ODD: dict[str, tuple[str, Callable[[int], Any]]] = {
    _PLAIN: ("float8", lambda number: number * 0.25),
    "odd_real": ("real", lambda number: number * 0.25),
    "odd_jsonb": ("jsonb", lambda number: '{"a": 1}'),
    "odd_inet": ("inet", IPv4Address),
    "odd_array": ("integer[]", lambda number: [number, 2, 3]),
}
_START = datetime(2025, 1, 1, tzinfo=UTC)


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    rows, few = effort.pick(1_000_000, 50_000), effort.pick(20_000, 2_000)
    executemany = f"executemany, one server, of {few} rows"
    growth = Growth()
    with Router(fleet.topology()) as router, Loop() as loop:
        async_router = loop.open(AsyncRouter(fleet.topology()))

        def copy_into(made: Iterable[Any]) -> object:
            return router.copy_into("loaded", made, columns=COLUMNS)

        def copy_into_async(made: Iterable[Any] | AsyncIterable[Any]) -> object:
            return loop.run(async_router.copy_into("loaded", made, columns=COLUMNS))

        server = fleet.databases[0]
        loads: dict[str, Callable[[], object]] = {
            _OURS: lambda: copy_into(make_rows(rows)),
            _ASYNC: lambda: copy_into_async(make_rows(rows)),
            _ASYNC_ROWS: lambda: copy_into_async(_make_async_rows(rows)),
            _BARE: lambda: _copy(server, make_rows(rows)),
            _OURS_AT_HAND: lambda: copy_into(_rows_at_hand(rows)),
            _BARE_AT_HAND: lambda: _copy(server, _rows_at_hand(rows)),
            executemany: lambda: _insert(server, make_rows(few)),
        }
        samples = {
            name: _sample(fleet, growth.of(name), load, few if name == executemany else rows)
            for name, load in loads.items()
        }
        found = measure(samples, effort, rounds=5, seconds=75, least=2)
    for name in (_OURS, _ASYNC, _ASYNC_ROWS):
        yield compare_rates("copy_into", f"{name}, {rows} rows", found[name], found[_BARE], _BARE, _TARGET)
    yield from _of_types(effort, fleet)
    yield compare_rates("copy_into", _OURS_AT_HAND, found[_OURS_AT_HAND], found[_BARE_AT_HAND], _BARE_AT_HAND)
    yield compare_rates("copy_into", f"{_OURS}, {rows} rows", found[_OURS], found[executemany], executemany)
    for name in (_OURS, _ASYNC, _ASYNC_ROWS, _BARE):
        yield Row("copy_into", f"memory, {name}", f"+{growth.by_name[name] / 2**20:.1f} MiB at most")


def _of_types(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    """A column of another type in place of float8, against float8 in the same table."""
    count = effort.pick(200_000, 10_000)
    topology = fleet.topology()
    keyspace = topology.keyspaces["items"]
    tables = {**keyspace.tables, **{f"public.{table}": ("id",) for table in _ODD}}
    with Router(replace(topology, keyspaces={"items": replace(keyspace, tables=tables)})) as router:
        rows_by_table = {table: list(_rows_of(make, count)) for table, (_, make) in _ODD.items()}
        for table, (name, _) in _ODD.items():
            router.scatter(
                f"drop table if exists {table};"
                f"create table {table} (id bigint not null, amount int, price {name}, note text, at timestamptz)"
            )

        def sample(table: str) -> float:
            router.scatter(f"truncate {table}")
            begun = process_time()
            router.copy_into(table, rows_by_table[table], columns=COLUMNS)
            return (process_time() - begun) / count

        found = measure({table: partial(sample, table) for table in _ODD}, effort, rounds=7, seconds=30)
    for table, (name, _) in _ODD.items():
        if table != _PLAIN:
            case = f"CPU of the client, a column of {name}"
            yield compare("copy_into", case, found[table], found[_PLAIN], "float8", Target(most=1.3))


def _rows_of(make: Callable[[int], Any], count: int) -> Iterator[tuple[Any, ...]]:
    for number, (key, amount, _, note, at) in enumerate(_rows_at_hand(count)):
        yield key + number, amount, make(number), note, at


def make_rows(count: int) -> Iterator[tuple[Any, ...]]:
    """Rows as a service would have them, one at a time."""
    for number in range(count):
        yield number, number % 1000, number * 0.25, f"note {number:012}", _START + timedelta(seconds=number)


def _rows_at_hand(count: int) -> Iterator[tuple[Any, ...]]:
    """The same without the making of them, which in `make_rows` is half of the time of a plain COPY."""
    return islice(cycle(list(make_rows(1000))), count)


async def _make_async_rows(count: int) -> AsyncIterator[tuple[Any, ...]]:
    for row in make_rows(count):
        yield row


def _sample(fleet: Fleet, watched: Callable[[], Any], load: Callable[[], object], count: int) -> Sample:
    def sample() -> float:
        for database in fleet.databases[:4]:
            with psycopg.connect(database.conninfo, autocommit=True) as conn:
                conn.execute("truncate loaded")
                conn.execute("checkpoint")
        with watched():
            begun = perf_counter()
            load()
            return (perf_counter() - begun) / count

    return sample


def _copy(database: Database, rows: Iterable[Any]) -> None:
    with psycopg.connect(database.conninfo) as conn, conn.cursor() as cursor, cursor.copy(_COPY) as copy:
        copy.set_types(_TYPES)
        for row in rows:
            copy.write_row(row)


def _insert(database: Database, rows: Iterable[Any]) -> None:
    with psycopg.connect(database.conninfo) as conn, conn.cursor() as cursor:
        cursor.executemany(_INSERT, rows)
