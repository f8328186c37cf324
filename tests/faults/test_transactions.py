"""A write on several shards is on all of them or on none, whoever is killed at whichever step of its commit."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random
from threading import Event, Thread
from time import monotonic
from typing import Any, NamedTuple

import psycopg
import pytest

from shardpool import CommitUnknown, Router, ScatterError, ShardError
from shardpool.local.binaries import find_binaries

from .fleet import FaultFleet
from .proxy import Cut, Pass

HOME, *OTHERS = "s0", "s1", "s2", "s3"
RECORD, PREPARE, DECIDE, FINISH = (
    b"insert into shardpool.tx",
    b"prepare transaction",
    b"pg_advisory_xact_lock_shared",
    b"commit prepared",
)


class Point(NamedTuple):
    """Where a commit is stopped: on these shards, at a statement, before the server gets it or when it has done it."""

    shards: tuple[str, ...]
    marker: bytes
    done: bool

    def __str__(self) -> str:
        return f"{'after' if self.done else 'before'} {self.marker.decode()} on {'+'.join(self.shards)}"

    @property
    def is_decided(self) -> bool:
        return self.marker == FINISH or (self.marker == DECIDE and self.done)


POINTS = [
    Point((HOME,), RECORD, False),
    Point((HOME,), RECORD, True),
    Point(("s1",), PREPARE, False),
    Point(("s3",), PREPARE, True),
    Point(("s1", "s2"), PREPARE, False),
    Point(("s1", "s2", "s3"), PREPARE, False),
    Point(("s1", "s2", "s3"), PREPARE, True),
    Point((HOME,), DECIDE, False),
    Point((HOME,), DECIDE, True),
    Point(("s1",), FINISH, False),
    Point(("s3",), FINISH, True),
    Point(("s1", "s2", "s3"), FINISH, False),
    Point(("s1", "s2", "s3"), FINISH, True),
]
_CLIENT = """
import sys
from shardpool import Router
with Router(sys.argv[1]) as router:
    router.wait(20)
    router.explain(sys.argv[2])
    print("ready", flush=True)
    sys.stdin.readline()
    router.execute(sys.argv[2])
    print("done", flush=True)
"""
_SECONDS = 20.0
# For a client whose server is killed meanwhile: long enough to come to the point, and not much longer.
_PATIENCE = 4.0


def insert(keys: dict[str, list[int]]) -> str:
    return "insert into ledger values " + ", ".join(f"({owned[0]}, 1)" for owned in keys.values())


def stop_at(fleet: FaultFleet, point: Point) -> None:
    for name in point.shards:
        fleet.proxies[name].set(Cut(point.marker, answer=point.done, times=1, silent=True))


def wait_until_stopped(fleet: FaultFleet, point: Point) -> None:
    """Return when the statement has come to each shard; and was done there, where that is meant."""
    limit = monotonic() + _SECONDS
    while any(fleet.proxies[name].cuts < 1 for name in point.shards):
        assert monotonic() < limit, f"nobody came to {point}"
        Event().wait(0.01)
    if point.done:
        for name in point.shards:
            wait_until_idle(fleet, name, limit)


def wait_until_idle(fleet: FaultFleet, name: str, limit: float) -> None:
    with fleet.connect(name) as conn:
        while any(state == "active" for _, state, _ in fleet.sessions(name)):
            assert monotonic() < limit
            Event().wait(0.01)
        assert conn.execute("select 1").fetchone()


def pass_all(fleet: FaultFleet) -> None:
    for proxy in fleet.proxies.values():
        proxy.set(Pass())
        proxy.reset_dead()


def prepared(fleet: FaultFleet) -> dict[str, list[str]]:
    found = {}
    for name in fleet.servers:
        with fleet.connect(name) as conn:
            found[name] = [gid for (gid,) in conn.execute("select gid from pg_prepared_xacts order by 1").fetchall()]
    return found


def recovered(fleet: FaultFleet) -> None:
    """Recovery by a router that knows of nothing, until nothing is prepared any more."""
    limit = monotonic() + _SECONDS
    with Router(fleet.topology(timeout=10)) as router:
        while any(prepared(fleet).values()):
            assert monotonic() < limit, router.in_doubt()
            router.recover()


@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_client_that_is_killed_leaves_all_or_nothing(point: Point, fleet: FaultFleet, tmp_path: Path) -> None:
    kill_client_at(point, insert(fleet.keys(1)), fleet, tmp_path)
    assert {sum(rows.values()) for rows in fleet.rows().values()} == {1 if point.is_decided else 0}


def kill_client_at(point: Point, statement: str, fleet: FaultFleet, folder: Path) -> None:
    """A client with the statement is killed at that point, and what it has left is ended by others."""
    file = folder / "topology.yaml"
    file.write_text(fleet.text(timeout=60))
    client = subprocess.Popen(
        [sys.executable, "-c", _CLIENT, str(file), statement],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert client.stdout is not None and client.stdout.readline() == "ready\n"
        stop_at(fleet, point)
        client.communicate("go\n", timeout=0.01) if client.stdin is None else (
            client.stdin.write("go\n"),
            client.stdin.flush(),
        )
        wait_until_stopped(fleet, point)
    finally:
        client.kill()
        client.wait()
    pass_all(fleet)
    recovered(fleet)


@pytest.mark.parametrize(
    "point",
    [
        Point((HOME,), RECORD, True),
        Point(("s1",), PREPARE, True),
        Point((HOME,), DECIDE, False),
        Point((HOME,), DECIDE, True),
    ],
    ids=str,
)
def test_a_row_that_follows_its_key_is_there_once_whoever_is_killed(
    point: Point, fleet: FaultFleet, tmp_path: Path
) -> None:
    # Home is the shard that certainly writes: the one on which the row is inserted.
    old, new = (fleet.keys(1)[name][0] for name in ("s1", HOME))
    with Router(fleet.topology(timeout=60)) as router:
        router.execute("insert into ledger values (%s, 1)", (old,))
    kill_client_at(point, f"update ledger set tenant_id = {new} where tenant_id = {old}", fleet, tmp_path)
    rows = [row for found in fleet.rows().values() for row in found.elements()]
    assert rows == [(new if point.is_decided else old, 1)]


_MOVER = """
import random, sys
from shardpool import Router
keys = [int(key) for key in sys.argv[2:]]

def move(tx):
    source, target = random.sample(keys, 2)
    found = tx.execute("select id from ledger where tenant_id = %s limit 1 for update skip locked", (source,)).rows
    for row in found:
        if random.random() < 0.5:
            tx.execute("update ledger set tenant_id = %s where id = %s", (target, row[0]))
            continue
        tx.execute("delete from ledger where tenant_id = %s and id = %s", (source, row[0]))
        tx.execute("insert into ledger values (%s, %s)", (target, row[0]))

with Router(sys.argv[1]) as router:
    print("ready", flush=True)
    while True:
        router.run(move, timeout=60)
"""
_MOVERS = 10


def test_rows_that_are_moved_by_those_who_are_killed_are_there_once(fleet: FaultFleet, tmp_path: Path) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(fleet.text(timeout=60))
    keys = [owned[0] for owned in fleet.keys(1).values()]
    with Router(fleet.topology(timeout=60)) as router:
        router.copy_into("ledger", [(keys[number % 4], number) for number in range(40)], columns=["tenant_id", "id"])
        chance, ended = Random(7), 0
        for _ in range(_MOVERS):
            command = [sys.executable, "-c", _MOVER, str(file), *map(str, keys)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as mover:
                try:
                    assert mover.stdout is not None and mover.stdout.readline() == "ready\n"
                    # Recovery runs beside it, and is not to end what it is about.
                    until = monotonic() + chance.uniform(0.2, 1.0)
                    while monotonic() < until:
                        ended += sum(one.ended for one in router.recover())
                finally:
                    mover.kill()
    recovered(fleet)
    found: Counter[int] = Counter()
    for rows in fleet.rows().values():
        for (_, number), times in rows.items():
            found[number] += times
    assert found == dict.fromkeys(range(40), 1)


@pytest.mark.parametrize("victim", [HOME, "s1"])
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_a_server_that_is_killed_leaves_all_or_nothing(point: Point, victim: str, fleet: FaultFleet) -> None:
    with Router(fleet.topology(timeout=60)) as router:
        router.wait(20)
        statement = insert(fleet.keys(1))
        router.explain(statement)
        stop_at(fleet, point)
        outcome: list[Any] = []
        ended = Event()

        def write() -> None:
            try:
                outcome.append(router.execute(statement, timeout=_PATIENCE))
            except (ScatterError, ShardError, psycopg.Error) as error:
                outcome.append(error)
            finally:
                ended.set()

        Thread(target=write, daemon=True).start()
        wait_until_stopped(fleet, point)
        fleet.servers[victim].kill()
        pass_all(fleet)
        fleet.servers[victim].start(find_binaries())
        assert ended.wait(_SECONDS)
        recovered(fleet)
        rows = {sum(found.values()) for found in fleet.rows().values()}
        assert len(rows) == 1, f"on some shards only: {outcome}"
        is_there = rows == {1}
        match outcome[0]:
            case CommitUnknown() as error:
                assert error.transaction_id is not None
                assert router.transaction_state(error.transaction_id) == ("committed" if is_there else "aborted")
            case BaseException() as error:
                assert not is_there, error
            case _:
                assert is_there
