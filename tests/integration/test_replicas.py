"""Reads from a replica: one's own writes, slow and lost ones, and what is asked twice."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from typing import Any

import pytest

from shardpool import AsyncRouter, CommitUnknown, Router, RouterMisuse, Token
from shardpool.events import Event, Retried
from shardpool.local import LocalFleet
from tests.timing import not_after

IS_STANDBY = "select pg_is_in_recovery()"
# Slow on a replica, at once on a primary.
SLOW_ON_REPLICAS = "select pg_is_in_recovery() from pg_sleep(case when pg_is_in_recovery() then 1.5 else 0 end)"

pytestmark = pytest.mark.xdist_group("replicas")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalFleet]:
    patch = pytest.MonkeyPatch()
    patch.setenv("SHARDPOOL_HOME", str(tmp_path_factory.mktemp("home")))
    made = LocalFleet.up("reads", shards=1, replicas=1)
    try:
        with Router(str(made.topology_path)) as router:
            router.init()
            router.scatter("create table seen (id int primary key)")
        yield made
    finally:
        made.down()
        patch.undo()


class Told:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def observe(self, event: Event) -> None:
        self.events.append(event)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def router(fleet: LocalFleet, told: Told) -> Iterator[Router]:
    with Router(str(fleet.topology_path), observers=[told]) as opened:
        until(lambda: opened.shard("s0").execute(IS_STANDBY, readonly=True).rows == [(True,)])
        yield opened


def until(is_so: Callable[[], bool], seconds: float = 10.0) -> None:
    end = monotonic() + seconds
    while not is_so():
        not_after(end, "it did not come about")
        sleep(0.02)


@contextmanager
def standing_still(fleet: LocalFleet) -> Iterator[None]:
    """The replica receives what is written, and does not show it."""
    with fleet.server("s0-replica-1").connect(database="postgres") as conn:
        conn.execute("select pg_wal_replay_pause()")
        try:
            yield
        finally:
            conn.execute("select pg_wal_replay_resume()")


def test_a_read_after_a_token_sees_what_was_written_before(fleet: LocalFleet, router: Router) -> None:
    shard = router.shard("s0")
    with standing_still(fleet):
        shard.execute("insert into seen values (1)")
        token = shard.token()
        assert shard.execute("select count(*) from seen where id = 1", readonly=True).rows == [(0,)]
        assert shard.execute("select count(*) from seen where id = 1", readonly=True, after=token).rows == [(1,)]
        with shard.connection(readonly=True, after=Token.parse(str(token))) as conn:
            assert conn.execute(IS_STANDBY).fetchone() == (False,)
    until(lambda: shard.execute(IS_STANDBY, readonly=True, after=token).rows == [(True,)])
    assert shard.execute("select count(*) from seen where id = 1", readonly=True, after=token).rows == [(1,)]


def test_a_token_is_of_one_shard(router: Router) -> None:
    with pytest.raises(RouterMisuse, match="the token is of shard s7"):
        router.shard("s0").execute("select 1", readonly=True, after=Token("s7", 1))


def test_a_read_that_takes_long_is_asked_of_another_node_within_a_budget(router: Router) -> None:
    shard = router.shard("s0")
    for _ in range(25):
        shard.execute("select 1", readonly=True, hedge=True)
    assert shard.execute(SLOW_ON_REPLICAS, readonly=True, hedge=True).one() == (False,)
    assert shard.execute(SLOW_ON_REPLICAS, readonly=True).one() == (True,)
    hedges = router._fleet.snapshot.shards["s0"].hedges
    while hedges.spend():
        pass
    assert shard.execute(SLOW_ON_REPLICAS, readonly=True, hedge=True).one() == (True,)


def test_a_hedged_read_in_tasks(fleet: LocalFleet) -> None:
    async def main() -> tuple[bool]:
        async with AsyncRouter(str(fleet.topology_path)) as router:
            shard = router.shard("s0")
            for _ in range(25):
                await shard.execute("select 1", readonly=True, hedge=True)
            return (await shard.execute(SLOW_ON_REPLICAS, readonly=True, hedge=True)).one()

    assert asyncio.run(main()) == (False,)


@contextmanager
def ended_soon(fleet: LocalFleet, server: str) -> Iterator[None]:
    """The session that sleeps on that server loses its connection once."""

    def end() -> None:
        with fleet.server(server).connect(database="shop") as conn:
            query = "select pg_terminate_backend(pid) from pg_stat_activity where wait_event = 'PgSleep'"
            until(lambda: bool(conn.execute(query).fetchall()))

    ending = threading.Thread(target=end)
    ending.start()
    try:
        yield
    finally:
        ending.join()


@pytest.mark.parametrize("readonly", [True, False])
def test_a_read_that_loses_its_connection_is_run_once_more(
    fleet: LocalFleet, router: Router, told: Told, readonly: bool
) -> None:
    with ended_soon(fleet, "s0-replica-1" if readonly else "s0"):
        result: Any = router.shard("s0").execute("select 7, pg_sleep(0.5)", readonly=readonly)
    assert result.rows[0][0] == 7
    assert [type(event) for event in told.events if isinstance(event, Retried)] == [Retried]


def test_a_write_that_loses_its_connection_is_not(fleet: LocalFleet, router: Router, told: Told) -> None:
    with ended_soon(fleet, "s0"), pytest.raises(CommitUnknown):
        router.shard("s0").execute("insert into seen select 100 from pg_sleep(0.5)")
    assert not [event for event in told.events if isinstance(event, Retried)]
    assert router.shard("s0").execute("select count(*) from seen where id = 100").rows == [(0,)]


def test_the_server_stops_working_for_a_call_that_was_cut(fleet: LocalFleet, router: Router) -> None:
    with pytest.raises(Exception, match="deadline"):
        router.shard("s0").execute("select pg_sleep(30)", timeout=0.2)
    with fleet.server("s0").connect(database="shop") as conn:
        query = "select count(*) from pg_stat_activity where wait_event = 'PgSleep'"
        until(lambda: conn.execute(query).fetchone() == (0,), 20.0)


def test_without_its_replica_reads_are_the_primarys(fleet: LocalFleet, router: Router) -> None:
    replica = fleet.server("s0-replica-1")
    shard = router.shard("s0")
    replica.pause()
    try:
        answers = []
        end = monotonic() + 3
        while monotonic() < end:
            try:
                answers.append(shard.execute(IS_STANDBY, readonly=True, timeout=1.0).rows)
            except Exception as error:
                answers.append(type(error).__name__)
        assert answers[-1] == [(False,)]
        assert len([answer for answer in answers if isinstance(answer, str)]) <= 3
    finally:
        replica.resume()
    until(lambda: shard.execute(IS_STANDBY, readonly=True).rows == [(True,)])
