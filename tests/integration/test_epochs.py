"""Sessions say which epoch of the topology they work by, so that a shard knows who works by an older one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, Router, StaleTopology, load_topology
from shardpool.control.own_sql import EPOCH_LOCK_CLASS
from shardpool.topology import Topology
from tests.integration.test_reload_file import until

DECLARED = f"""
    select l.objid::bigint from pg_locks as l join pg_stat_activity as a using (pid)
    where l.locktype = 'advisory' and l.classid = {EPOCH_LOCK_CLASS} and l.objsubid = 2 and l.granted
      and a.datname = current_database() and a.pid <> pg_backend_pid() and l.objid::bigint < 1000 order by 1
"""
MINE = f"""
    select array(select objid::int from pg_locks where pid = pg_backend_pid() and classid = {EPOCH_LOCK_CLASS}
        and locktype = 'advisory'), current_setting('shardpool.epoch', true)
"""


@pytest.fixture
def watcher(topology_path: str, shard_params: Callable[[str], dict[str, Any]]) -> Any:
    with psycopg.connect(autocommit=True, **shard_params("s0")) as conn:
        yield conn


@pytest.fixture
def shard_params(topology_path: str) -> Callable[[str], dict[str, Any]]:
    topology = load_topology(topology_path)

    def params(shard: str) -> dict[str, Any]:
        endpoint = topology.shards[shard].primary
        password = endpoint.password.reveal() if endpoint.password is not None else None
        if endpoint.password_file is not None:
            password = Path(endpoint.password_file).read_text(encoding="utf-8").strip()
        return {**dict(endpoint.params), "password": password}

    return params


def later(topology: Topology, epochs: int = 1) -> Topology:
    """The same map, as of a later epoch."""
    return replace(topology, epoch=topology.epoch + epochs)


def told(watcher: psycopg.Connection[Any]) -> list[int]:
    return [epoch for (epoch,) in watcher.execute(DECLARED)]


def test_a_session_says_its_epoch_and_follows_a_reload(topology_path: str, watcher: psycopg.Connection[Any]) -> None:
    with Router(topology_path) as router:
        assert router.shard("s0").execute(MINE).one() == ([5], "5")
        router.reload(later(router.topology))
        assert router.shard("s0").execute(MINE).one() == ([6], "6")
        router.scatter("select 1")
        assert set(told(watcher)) == {6}


def test_idle_sessions_and_those_that_come_back_say_it_without_being_used(
    topology_path: str, watcher: psycopg.Connection[Any]
) -> None:
    with Router(topology_path) as router:
        held = threading.Barrier(4)
        go = threading.Event()

        def hold() -> None:
            with router.shard("s0").transaction() as conn:
                conn.execute("select 1")
                held.wait(10)
                go.wait(10)

        threads = [threading.Thread(target=hold) for _ in range(3)]
        for thread in threads:
            thread.start()
        held.wait(10)
        with router.shard("s0").connection():
            pass
        assert told(watcher) == [5, 5, 5, 5]
        router.reload(later(router.topology))
        until(lambda: told(watcher) == [5, 5, 5, 6])
        go.set()
        for thread in threads:
            thread.join()
        until(lambda: told(watcher) == [6, 6, 6, 6])


def test_a_transaction_that_was_routed_before_keeps_its_epoch_to_its_end(
    topology_path: str, watcher: psycopg.Connection[Any]
) -> None:
    with Router(topology_path) as router:
        with router.shard("s0").transaction() as conn:
            router.reload(later(router.topology))
            assert conn.execute(MINE).fetchone() == ([5], "5")
        until(lambda: told(watcher) == [6])


@pytest.mark.parametrize("left", ["select pg_advisory_unlock_all()", "discard all", "reset all"])
def test_what_a_caller_throws_away_is_said_again(topology_path: str, left: str) -> None:
    with Router(topology_path) as router:
        with router.shard("s0").connection() as conn:
            conn.autocommit = True
            conn.execute(left)
        assert router.shard("s0").execute(MINE).one() == ([5], "5")


def test_who_works_by_an_epoch_that_is_not_good_any_more_is_turned_away(
    topology_path: str, watcher: psycopg.Connection[Any]
) -> None:
    watcher.execute("update shardpool.meta set min_epoch = 7")
    with Router(topology_path) as router, pytest.raises(StaleTopology, match="newer epoch"):
        router.shard("s0").execute("select 1")
    with Router(later(load_topology(topology_path), 2)) as router:
        assert router.shard("s0").execute(MINE).one() == ([7], "7")


def test_a_schema_without_it_is_worked_with_as_before(topology_path: str, watcher: psycopg.Connection[Any]) -> None:
    with Router(topology_path) as router:
        for name in router.shards:
            router.shard(name).execute("drop function shardpool.declare(bigint)")
    with Router(topology_path) as router:
        assert router.shard("s0").execute(MINE).one() in (([], None), ([], ""))
        router.reload(later(router.topology))
        assert len(router.scatter("select 1")) == 4


async def test_tasks_follow_too(topology_path: str) -> None:
    async with AsyncRouter(topology_path) as router:
        await router.shard("s0").execute("select 1")
        await router.reload(later(router.topology))
        assert (await router.shard("s0").execute(MINE)).one() == ([6], "6")
