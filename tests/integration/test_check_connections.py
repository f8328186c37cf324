"""`check` counts the connections of all processes against what each server gives: servers with few connections."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, Router, ScatterError, Topology
from shardpool.local import LocalFleet, find_binaries
from shardpool.topology import Endpoint, PoolSettings, Secret, Shard
from tests.commands import run

SETTINGS = {"max_connections": "20", "superuser_reserved_connections": "3", "reserved_connections": "2"}
# Before 16 there are none for anybody but superusers.
SETTINGS_BEFORE_16 = {"max_connections": "20", "superuser_reserved_connections": "5"}

pytestmark = pytest.mark.xdist_group("check_connections")


@pytest.fixture(scope="module")
def small() -> Iterator[LocalFleet]:
    """Two servers that give 15 connections to an ordinary role, of which one has two databases."""
    settings = SETTINGS if find_binaries().version >= 16 else SETTINGS_BEFORE_16
    fleet = LocalFleet.up(f"small-{os.getpid()}", shards=2, settings=settings)
    try:
        with fleet.servers[0].connect() as conn:
            conn.execute("create database second owner app")
        yield fleet
    finally:
        fleet.down()


def topology(small: LocalFleet, max_size: int) -> Topology:
    """s0 and s2 on the first server, s1 on the second."""

    def shard(name: str, server: Any, database: str | None = None) -> Shard:
        params = {key: str(value) for key, value in server.params("app", database).items()}
        password = Secret(params.pop("password"))
        pool = PoolSettings(max_size=max_size)
        return Shard(name, Endpoint("primary", "primary", tuple(sorted(params.items())), password, pool=pool))

    first, second = small.servers
    shards = [shard("s0", first), shard("s1", second), shard("s2", first, "second")]
    return Topology("small", 1, {shard.name: shard for shard in shards}, control="none")


def told(router: Router, processes: int) -> list[tuple[str, str]]:
    findings = router.check(processes=processes).findings
    return [(finding.level, finding.message) for finding in findings if finding.subject.startswith("server ")]


def test_two_shards_on_one_server_share_what_it_gives(small: LocalFleet) -> None:
    with Router(topology(small, 3)) as router:
        report = router.check(processes=2)
        servers = {server.shards: server for server in report.servers}
        assert {shards: (server.needed, server.available) for shards, server in servers.items()} == {
            ("s0", "s2"): (12, 15),
            ("s1",): (6, 15),
        }
        assert all(server.in_use >= 1 for server in report.servers)
        levels = [level for level, _ in told(router, 2)]
        assert levels == ["warning", "ok"]
        assert "no room for one process more" in told(router, 2)[0][1]
        assert [level for level, _ in told(router, 1)] == ["ok", "ok"]


def test_what_does_not_fit_is_an_error_that_says_what_to_set(small: LocalFleet) -> None:
    with Router(topology(small, 3)) as router:
        report = router.check(processes=4)
    (error,) = report.errors
    port = small.servers[0].port
    assert error.subject == f"server 127.0.0.1:{port}"
    assert error.message.startswith("4 processes of 6 connections for s0, s2 need 24 of 15; ")
    assert error.hint == (
        "Set pool.max_size to 1, or run at most 2 processes, or set max_connections to 29 or more on the server."
    )


def test_the_number_that_is_told_to_fit_does_fit(small: LocalFleet) -> None:
    """Every connection that the check allows can be made at once, and one more server-wide cannot."""
    with Router(topology(small, 7)) as router:
        assert [level for level, _ in told(router, 1)] == ["warning", "ok"]
        held = [router.shard(name).getconn() for name in ("s0", "s2") for _ in range(7)]
        params = {**dict(router.topology.shards["s0"].primary.params), "password": small.servers[0].passwords["app"]}
        extra = psycopg.connect(**params)
        with pytest.raises(psycopg.OperationalError, match="remaining connection slots are reserved"):
            psycopg.connect(**params)
        extra.close()
        for number, conn in enumerate(held):
            router.shard("s0" if number < 7 else "s2").putconn(conn)


@pytest.mark.parametrize(
    "statement, undo, who",
    [
        ("alter role app connection limit 4", "alter role app connection limit -1", "role app may have 4"),
        (
            "alter database second connection limit 2",
            "alter database second connection limit -1",
            "database second may have 2",
        ),
    ],
    ids=["role", "database"],
)
def test_a_limit_of_the_role_or_the_database_counts(small: LocalFleet, statement: str, undo: str, who: str) -> None:
    with small.servers[0].connect() as conn:
        conn.execute(statement.encode())
        try:
            with Router(topology(small, 3)) as router:
                (error,) = router.check(processes=1).errors
        finally:
            conn.execute(undo.encode())
    assert who in error.message
    assert error.hint is not None and "CONNECTION LIMIT" in error.hint


def test_servers_are_told_apart_by_their_addresses_where_the_role_may_not_ask_more(small: LocalFleet) -> None:
    revoke = "revoke execute on function pg_catalog.pg_control_system() from public"
    with psycopg.connect(**small.servers[0].params("postgres", "second"), autocommit=True) as conn:
        conn.execute(revoke.encode())
        try:
            with Router(topology(small, 3)) as router:
                assert [level for level, _ in told(router, 4)] == ["ok", "ok", "ok"]
        finally:
            conn.execute(b"grant execute on function pg_catalog.pg_control_system() to public")


async def test_a_check_of_tasks_counts_too(small: LocalFleet) -> None:
    async with AsyncRouter(topology(small, 3)) as router:
        report = await router.check(processes=4)
    assert [error.subject for error in report.errors] == [f"server 127.0.0.1:{small.servers[0].port}"]


def test_what_stands_behind_a_pooler_is_not_counted(small: LocalFleet) -> None:
    found = topology(small, 3)
    behind = replace(found.shards["s0"], primary=replace(found.shards["s0"].primary, pooler="transaction"))
    with Router(replace(found, shards={**found.shards, "s0": behind})) as router:
        assert {server.shards for server in router.check().servers} == {("s1",), ("s2",)}


def test_the_command_takes_the_number_of_processes(shardpool_make_topology: Callable[..., Any]) -> None:
    path = shardpool_make_topology()
    variables = {**os.environ, "SHARDPOOL_TOPOLOGY": str(path)}
    done = run(["check", "--processes", "1000", "--json"], env=variables)
    printed = json.loads(done.stdout)
    assert done.returncode == 1 and not printed["ok"]
    assert all(server["needed"] % 10_000 == 0 and server["available"] > 0 for server in printed["servers"])


def test_configure_reaches_connections_of_no_pool_and_its_settings_hold_for_callers(topology_path: str) -> None:
    configured: list[int] = []

    def configure(conn: psycopg.Connection[Any]) -> None:
        configured.append(conn.info.backend_pid)
        conn.execute("set default_transaction_read_only = on")
        conn.commit()

    with Router(topology_path, configure=configure) as router:
        router.init()
        assert len(configured) == len(router.topology.shards)
        assert router.check().ok
        with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            router.shard(next(iter(router.topology.shards))).execute("create table t (id int)")


def test_a_configure_that_fails_is_a_finding_and_its_text_is_not_told(topology_path: str) -> None:
    def configure(conn: psycopg.Connection[Any]) -> None:
        raise LookupError("of the caller's own")

    with Router(topology_path, configure=configure) as router:
        errors = router.check().errors
        with pytest.raises(ScatterError) as failed:
            router.init()
    assert errors and all("its connection cannot be configured" in error.message for error in errors)
    details = [str(error) for error in failed.value.failures.values()]
    assert all("configure() raised LookupError" in told and "caller's own" not in told for told in details)
