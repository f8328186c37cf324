"""Routers while rows move under them: no call fails, no row is counted twice or missed, nothing written is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any

import pytest

from shardpool import AsyncRouter, Router

from .fleet import Moves, keys_of

pytestmark = pytest.mark.servers

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash: {buckets: 64, owners: {s0: 0-31, s1: 32-63}}
    tables: {ledger: tenant_id, notes: tenant_id}
"""
SCHEMA = """\
create table ledger (tenant_id bigint primary key, version bigint not null, touched bigint not null default 0);
create table notes (tenant_id bigint, n bigint, primary key (tenant_id, n));
"""
CALM = ["--pause-limit", "20s", "--straggler-seconds", "60"]
TIMEOUT = 60.0


@pytest.fixture
def moves(make_moves: Callable[[str, str], Moves]) -> Moves:
    return make_moves(KEYSPACES, SCHEMA)


@pytest.fixture
def keys(moves: Moves) -> list[int]:
    topology = moves.topology
    found = keys_of(topology, "tenants", range(8), 18) + keys_of(topology, "tenants", range(20, 40), 6)
    with Router(moves.path) as router:
        router.copy_into("ledger", [(key, 0) for key in found], columns=("tenant_id", "version"))
    return found


class Book:
    """What was acknowledged, by key; each key is written by one worker."""

    def __init__(self, keys: list[int]) -> None:
        self.versions = dict.fromkeys(keys, 0)
        self.touches = 0
        self.notes = 0
        self.both = 0
        self.changes = 0
        self.wrong: list[str] = []
        self.calls = 0
        self.lock = Lock()

    def check_read(self, key: int, before: int, rows: list[Any]) -> None:
        self.calls += 1
        if len(rows) != 1 or rows[0][0] < before:
            self.wrong.append(f"key {key}: read {rows} after version {before} was acknowledged")

    def check_count(self, what: str, rows: int) -> None:
        self.calls += 1
        if rows != len(self.versions):
            self.wrong.append(f"{what}: {rows} rows of {len(self.versions)}")


def write_and_read(router: Router, book: Book, mine: list[int], stop: Event) -> None:
    """By key, in each way that there is."""
    sql = "update ledger set version = %s where tenant_id = %s"
    turn = 0
    while not stop.is_set():
        for key in mine:
            turn += 1
            version = book.versions[key] + 1
            route = router.for_key(key)
            match turn % 4:
                case 0:
                    count = router.execute(sql, (version, key), timeout=TIMEOUT).rowcount
                case 1:
                    count = route.execute(sql, (version, key), timeout=TIMEOUT).rowcount
                case 2:
                    with route.transaction(timeout=TIMEOUT) as conn:
                        count = conn.execute(sql, (version, key)).rowcount
                        conn.execute("insert into notes values (%s, %s)", (key, version))
                    with book.lock:
                        book.notes += 1
                case _:
                    values = version, key
                    count = route.run(lambda conn, values=values: conn.execute(sql, values).rowcount, timeout=TIMEOUT)
            if count != 1:
                book.wrong.append(f"key {key}: {count} rows updated")
            book.versions[key] = version
            book.check_read(key, version, route.execute("select version from ledger where tenant_id = %s", (key,)).rows)


def write_both(router: Router, book: Book, pair: tuple[int, int], stop: Event) -> None:
    """A key that moves and one that stays, in one transaction over their shards: on both or on none, and once."""
    turn = 0

    def both(tx: Any) -> None:
        for key in pair:
            tx.execute("insert into notes values (%s, %s)", (key, -turn))

    while not stop.is_set():
        turn += 1
        router.run(both, timeout=TIMEOUT)
        book.both += 1
        stop.wait(0.005)


def change_key(router: Router, book: Book, pair: tuple[int, int], stop: Event) -> None:
    """A row whose key is one that moves, and one that stays, in turn."""
    here, there = pair
    router.execute("insert into notes values (%s, 0)", (here,), timeout=TIMEOUT)
    while not stop.is_set():
        changed = router.execute(
            "update notes set tenant_id = %s where tenant_id = %s and n = 0", (there, here), timeout=TIMEOUT
        )
        if changed.rowcount != 1:
            book.wrong.append(f"{changed.rowcount} rows had key {here}")
        here, there = there, here
        book.changes += 1
        stop.wait(0.005)


def count_all(router: Router, book: Book, stop: Event) -> None:
    """All shards at once, in each strategy."""
    while not stop.is_set():
        book.check_count("add", router.execute("select count(*) from ledger", timeout=TIMEOUT).one()[0])
        ids = router.execute("select tenant_id from ledger order by tenant_id", timeout=TIMEOUT).rows
        book.check_count("merge", len(ids))
        book.check_count("distinct", len(set(ids)))
        pulled = router.execute("select count(*) from ledger", timeout=TIMEOUT, strategy="pull").one()[0]
        book.check_count("pull", pulled)
        groups = router.execute("select version >= 0, count(*) from ledger group by 1", timeout=TIMEOUT).rows
        book.check_count("combine", groups[0][1])
        book.check_count("stream", sum(1 for _ in router.stream("select tenant_id from ledger", timeout=TIMEOUT)))
        book.check_count("write", router.execute("update ledger set touched = touched + 1", timeout=TIMEOUT).rowcount)
        book.touches += 1


async def in_tasks(path: Path, book: Book, mine: list[int], stop: Event) -> None:
    async with AsyncRouter(path, reload_interval=0.1) as router:

        async def one(key: int) -> None:
            while not stop.is_set():
                version = book.versions[key] + 1
                write = "update ledger set version = %s where tenant_id = %s returning version"
                result = await router.for_key(key).execute(write, (version, key), timeout=TIMEOUT)
                if result.rows != [(version,)]:
                    book.wrong.append(f"key {key}: {result.rows} was written for {version}")
                book.versions[key] = version
                read = await router.execute("select version from ledger where tenant_id = %s", (key,), timeout=TIMEOUT)
                book.check_read(key, version, read.rows)
                await asyncio.sleep(random.uniform(0, 0.01))

        await asyncio.gather(*map(one, mine))


@contextmanager
def working(path: Path, keys: list[int]) -> Iterator[Book]:
    """Threads and tasks at work; what they meet is raised at the end."""
    book, stop, failures = Book(keys), Event(), []

    def guarded(work: Callable[[], Any]) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)
            stop.set()

    with Router(path, reload_interval=0.1) as router:
        work = [
            lambda: write_and_read(router, book, keys[0:6], stop),
            lambda: write_and_read(router, book, keys[6:12], stop),
            lambda: write_both(router, book, (keys[0], keys[-1]), stop),
            lambda: change_key(router, book, (keys[1], keys[-2]), stop),
            lambda: count_all(router, book, stop),
            lambda: asyncio.run(in_tasks(path, book, keys[12:], stop)),
        ]
        threads = [Thread(target=guarded, args=(one,), daemon=True) for one in work]
        for thread in threads:
            thread.start()
        try:
            yield book
        finally:
            stop.set()
            for thread in threads:
                thread.join(2 * TIMEOUT)
        assert not any(thread.is_alive() for thread in threads)
        if failures:
            raise failures[0]
        assert not book.wrong, book.wrong[:10]
        assert book.calls > 100
        rows = dict(router.execute("select tenant_id, version from ledger").rows)
        assert rows == book.versions
        assert router.execute("select count(*), min(touched), max(touched) from ledger").one() == (
            len(keys),
            book.touches,
            book.touches,
        )
        assert router.execute("select count(*) from notes where n > 0").one() == (book.notes,)
        changed = keys[1] if book.changes % 2 == 0 else keys[-2]
        assert router.execute("select tenant_id from notes where n = 0").rows == [(changed,)] and book.changes > 0
        both = router.execute("select tenant_id, array_agg(n order by n desc) from notes where n < 0 group by 1").rows
        numbers = [-turn for turn in range(1, book.both + 1)]
        assert dict(both) == {keys[0]: numbers, keys[-1]: numbers} and book.both > 0


def test_buckets_move_there_and_back_under_routers(moves: Moves, keys: list[int]) -> None:
    with working(moves.path, keys):
        moves("move", "tenants", "--buckets", "0-7", "--to", "s1", *CALM)
        moves("move", "rollback", "1", *CALM)
        moves("move", "finish", "1", *CALM)
        moves("move", "tenants", "--buckets", "0-7", "--to", "s1", *CALM)
        moves("move", "finish", "2", *CALM)
    assert moves.topology.keyspaces["tenants"].shard_by_bucket[0] == "s1"
    assert moves.left("s0") == moves.left("s1") == {}
