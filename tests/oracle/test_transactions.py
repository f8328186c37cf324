"""Random transactions over shards do what they do on one server: answers, errors, savepoints, and what is left."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import psycopg
import pytest

from shardpool import FleetTransaction, LoadError, Router

KEYSPACES = """\
defaults: {timeout: 60s}
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    tables: {accounts: id, entries: account}
reference_tables: [countries]
"""
SCHEMA = """\
create table accounts (id bigint primary key, v int not null check (v >= 0), kind text);
create table entries (
  account bigint not null, n int not null, v int, primary key (account, n),
  foreign key (account) references accounts deferrable initially deferred);
create table countries (code text primary key, name text not null);
"""
TABLES = {"accounts": ("id", "v", "kind"), "entries": ("account", "n", "v"), "countries": ("code", "name")}
KEYS = 16
COUNT = int(os.environ.get("SHARDPOOL_ORACLE_TRANSACTIONS", "200"))
SEED = int(os.environ.get("SHARDPOOL_ORACLE_SEED", "1"))


class Step(NamedTuple):
    """Something done in a transaction: how, a text or a table, and its parameters or rows.

    An error that is not `caught` ends the block that it is in. `steps` are those of a savepoint's block, which ends
    with an error of its own when it `fails`.
    """

    how: str
    what: str = ""
    values: Any = ()
    caught: bool = False
    steps: tuple[Step, ...] = ()
    fails: bool = False


class Undone(Exception):
    """The caller's own error, which undoes a block."""


# -- what is done ------------------------------------------------------------------------------------------------------


def write(chance: Random, reference: bool) -> Step:
    key, other, amount = chance.randrange(KEYS), chance.randrange(KEYS), chance.randint(-60, 60)
    kind = chance.choice(["a", "b", None])
    texts: list[tuple[str, Any]] = [
        ("update accounts set v = v + %s where id = %s", (amount, key)),
        ("update accounts set v = v + %s where id = any (%s)", (amount, [key, other])),
        ("update accounts set v = v + 1, kind = %s", (kind,)),
        ("update accounts set v = v - %s where kind = %s returning id, v", (abs(amount) // 4, kind)),
        ("insert into accounts values (%s, %s, %s)", (key, abs(amount), kind)),
        ("insert into accounts values (%s, 1, 'a'), (%s, %s, 'b') returning id", (key, other, amount)),
        ("insert into accounts values (%s, 5, %s) on conflict (id) do update set v = accounts.v + 5", (key, kind)),
        ("update accounts set id = %s, v = v + 1 where id = %s", (other, key)),
        ("update accounts set id = id + 100 where id < 50 and v > %s returning *", (amount,)),
        ("update accounts set id = id - 100 where id >= 100 and kind = %s", (kind,)),
        ("update entries set account = %s where account = %s returning n", (other, key)),
        ("update entries set account = %s, n = n + %s where v = %s", (key, 10 + amount % 5, amount)),
        ("delete from accounts where id = %s", (key,)),
        ("delete from accounts where v < %s returning id", (chance.randint(0, 20),)),
        ("insert into entries values (%s, %s, %s)", (key, chance.randrange(4), amount)),
        ("delete from entries where n = %s", (chance.randrange(4),)),
        ("delete from entries where account = %s", (key,)),
    ]
    if reference:
        code = chance.choice("xyz")
        texts += [
            ("insert into countries values (%s, %s)", (code, kind)),
            ("update countries set name = name || %s", (code,)),
            ("delete from countries where code = %s", (code,)),
        ]
    return Step("execute", *chance.choice(texts), caught=chance.random() < 0.2)


def read(chance: Random) -> Step:
    key = chance.randrange(KEYS)
    texts: list[tuple[str, Any]] = [
        ("select * from accounts where id = %s", (key,)),
        ("select * from accounts where id = %s for update", (key,)),
        ("select id, v from accounts where v > %s", (key * 5,)),
        ("select sum(v), count(*) from accounts", None),
        ("select id, v, kind from accounts order by v desc, id limit 7", None),
        ("select kind, count(distinct v) from accounts group by kind", None),
        ("select id, rank() over (order by v) from accounts", None),
        ("select a.id, e.n from accounts a join entries e on e.account = a.id", None),
        ("select a.id, c.name from accounts a join countries c on c.code = 'x'", None),
        ("select count(*) from countries", None),
        ("select 1 / (v - %s) from accounts where id = %s", (chance.randint(0, 50), key)),
    ]
    return Step(chance.choice(["execute", "execute", "stream"]), *chance.choice(texts), caught=chance.random() < 0.2)


def load(chance: Random) -> Step:
    rows = [(chance.randrange(KEYS + 8), chance.randint(-1, 40), "c") for _ in range(chance.randint(0, 4))]
    return Step("copy", "accounts", rows, caught=chance.random() < 0.2)


def lent(chance: Random) -> Step:
    key = chance.randrange(KEYS)
    return Step("lent", "update accounts set v = v + %s where id = %s", (chance.randint(-40, 40), key))


def steps(chance: Random, depth: int, reference: bool) -> tuple[Step, ...]:
    found = []
    for _ in range(chance.randint(1, 5)):
        kind = chance.random()
        if kind < 0.45:
            found.append(write(chance, reference))
        elif kind < 0.75:
            found.append(read(chance))
        elif kind < 0.80:
            found.append(load(chance))
        elif kind < 0.85:
            found.append(lent(chance))
        elif depth < 3:
            inner = steps(chance, depth + 1, reference)
            found.append(Step("savepoint", steps=inner, fails=chance.random() < 0.25))
    return tuple(found)


# -- on one server, and on the fleet -----------------------------------------------------------------------------------


class Plain:
    """One server."""

    def __init__(self, conn: psycopg.Connection[Any]) -> None:
        self._conn = conn

    @contextmanager
    def transaction(self, isolation: str) -> Iterator[Plain]:
        self._conn.execute(f"begin isolation level {isolation}")
        try:
            yield self
            if self._conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                raise psycopg.errors.InFailedSqlTransaction
            self._conn.execute("commit")
        except BaseException:
            self._conn.execute("rollback")
            raise

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        self._conn.execute("savepoint s")
        try:
            yield
            if self._conn.info.transaction_status == psycopg.pq.TransactionStatus.INERROR:
                raise psycopg.errors.InFailedSqlTransaction
        except BaseException:
            self._conn.execute("rollback to savepoint s; release savepoint s")
            raise
        self._conn.execute("release savepoint s")

    def done(self, step: Step) -> Any:
        if step.how == "copy":
            with self._conn.cursor().copy(f"copy {step.what} ({', '.join(TABLES[step.what])}) from stdin") as copy:
                for row in step.values:
                    copy.write_row(row)
            return len(step.values)
        cursor = self._conn.execute(step.what, step.values)
        return answer(step, cursor.fetchall() if cursor.description else [], cursor.rowcount)


class Fleet:
    """The shards."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._tx: FleetTransaction

    @contextmanager
    def transaction(self, isolation: Any) -> Iterator[Fleet]:
        with self._router.transaction(isolation=isolation) as self._tx:
            yield self

    def savepoint(self) -> Any:
        return self._tx.savepoint()

    def done(self, step: Step) -> Any:
        match step.how:
            case "copy":
                return sum(self._tx.copy_into(step.what, step.values, columns=TABLES[step.what]).values())
            case "stream":
                rows = list(self._tx.stream(step.what, step.values, size=3))
                return answer(step, rows, len(rows))
            case "lent":
                cursor = self._tx.connection(step.values[1]).execute(step.what, step.values)
                return answer(step, [], cursor.rowcount)
            case _:
                result = self._tx.execute(step.what, step.values)
                return answer(step, result.rows, result.rowcount)


def answer(step: Step, rows: list[Any], count: int) -> Any:
    return rows if " order by " in step.what and "over" not in step.what else sorted(rows, key=repr), count


def state(error: BaseException) -> str:
    """What went wrong, as both sides say it: of two rows that violate two constraints shards may tell of either."""
    if isinstance(error, LoadError):
        error = next(iter(error.failures.values()))
    found = str(error.sqlstate) if isinstance(error, psycopg.Error) else type(error).__name__
    return "23" if found.startswith("23") else found


def run(side: Any, program: tuple[Step, ...], told: list[Any]) -> None:
    for step in program:
        try:
            if step.how == "savepoint":
                with suppress(Undone), side.savepoint():
                    run(side, step.steps, told)
                    if step.fails:
                        raise Undone
                told.append("released or undone")
            else:
                told.append(side.done(step))
        except (psycopg.Error, LoadError) as error:
            told.append(state(error))
            if not step.caught and step.how != "savepoint":
                raise


def outcome(side: Any, isolation: str, program: tuple[Step, ...], fails: bool) -> list[Any]:
    told: list[Any] = []
    try:
        with side.transaction(isolation):
            run(side, program, told)
            if fails:
                raise Undone
        told.append("committed")
    except (psycopg.Error, LoadError, Undone) as error:
        told.append(state(error))
    return told


@pytest.fixture
def sides(shardpool_make_topology: Callable[..., Path], shardpool_fleet: Any) -> Iterator[tuple[Plain, Router]]:
    path = shardpool_make_topology(KEYSPACES, SCHEMA)
    server = shardpool_fleet.servers()[0]
    name = f"plain_{secrets.token_hex(5)}"
    with psycopg.connect(**server, autocommit=True) as conn:
        conn.execute(f"create database {name}")
        try:
            with psycopg.connect(**{**server, "dbname": name}, autocommit=True) as plain, Router(path) as router:
                plain.execute(SCHEMA)
                yield Plain(plain), router
        finally:
            conn.execute(f"drop database {name} with (force)")


def test_random_transactions_do_what_they_do_on_one_server(sides: tuple[Plain, Router]) -> None:
    plain, router = sides
    fleet = Fleet(router)
    ends: dict[str, int] = {}
    for number in range(COUNT):
        chance = Random(f"{SEED} {number}")
        isolation = chance.choice(["read committed", "read committed", "repeatable read"])
        program = steps(chance, 0, isolation == "read committed")
        fails = chance.random() < 0.1
        expected = outcome(plain, isolation, program, fails)
        found = outcome(fleet, isolation, program, fails)
        assert found == expected, f"seed {SEED}, transaction {number}: {program}"
        ends[expected[-1]] = ends.get(expected[-1], 0) + 1
        for table, columns in TABLES.items():
            query = f"select * from {table} order by {', '.join(columns[:2])}"
            rows = plain._conn.execute(query).fetchall()
            assert router.execute(query).rows == rows, f"seed {SEED}, after transaction {number}: {program}"
        if number % 10 == 0:
            copies = router.scatter("select * from countries order by code")
            assert all(result.rows == rows for result in copies.values())
    assert not router.in_doubt()
    assert ends["committed"] > COUNT // 4 and len(ends) >= 3, ends
    assert router.stats()["transactions"]["several_shards"] > COUNT // 20
    assert router.stats()["statements"]["rekey"] > COUNT // 20
