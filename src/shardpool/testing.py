"""pytest fixtures for projects that use shardpool: real servers, and fresh databases for every test.

They are there as soon as shardpool is installed beside pytest:

`shardpool_fleet`
    Four servers for the whole session.
`shardpool_make_topology`
    `make(keyspaces, schema=…)` gives the path of a topology file whose four shards are new, empty databases with the
    `shardpool` schema installed and the given DDL run on each; they are dropped after the test.
`shardpool_topology`
    Such a path, with one hash keyspace `tenants` (bigint) that has no tables yet.
`shardpool_database`
    The DSN of one new, empty database.

`SHARDPOOL_TEST_BACKEND` says where the servers come from: `embedded` (the default: started here), `docker` (four
containers by testcontainers, which needs a container engine), or `dsns` (`SHARDPOOL_TEST_DSNS`: comma-separated DSNs of
running servers with a role that may create databases; fewer than four serve several shards each).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from shardpool.local import LocalFleet

SHARDS = 4
BACKEND_VARIABLE = "SHARDPOOL_TEST_BACKEND"
DSNS_VARIABLE = "SHARDPOOL_TEST_DSNS"

Params = dict[str, Any]


class Fleet(Protocol):
    """Servers to test on: connection parameters of each, for a role that may create databases."""

    def servers(self) -> list[Params]: ...

    def close(self) -> None: ...


class EmbeddedFleet:
    """Servers started on this machine; they are taken down even when the test process is killed."""

    def __init__(self) -> None:
        from shardpool.local import LocalFleet
        from shardpool.local.reaper import watch

        name = f"test-{os.getpid()}-{secrets.token_hex(2)}"
        self._reaper = watch(name)
        self.fleet: LocalFleet = LocalFleet.up(name, SHARDS)

    def servers(self) -> list[Params]:
        return [server.params("app", "postgres") for server in self.fleet.servers]

    def close(self) -> None:
        self.fleet.down()
        self._reaper.communicate()


class DockerFleet:
    """Four containers of PostgreSQL. Needs testcontainers and a container engine, and says so when there is none."""

    def __init__(self) -> None:
        from testcontainers.postgres import PostgresContainer

        self._stack = ExitStack()
        command = "postgres -c wal_level=logical -c max_prepared_transactions=100 -c fsync=off"
        self._containers = [
            self._stack.enter_context(PostgresContainer("postgres:18", driver=None).with_command(command))
            for _ in range(SHARDS)
        ]

    def servers(self) -> list[Params]:
        return [
            {
                "host": container.get_container_host_ip(),
                "port": int(container.get_exposed_port(5432)),
                "user": container.username,
                "password": container.password,
                "dbname": container.dbname,
            }
            for container in self._containers
        ]

    def close(self) -> None:
        self._stack.close()


class GivenFleet:
    """Servers that are running already, named by their DSNs."""

    def __init__(self) -> None:
        self._dsns = [dsn.strip() for dsn in os.environ.get(DSNS_VARIABLE, "").split(",") if dsn.strip()]
        if not self._dsns:
            raise pytest.UsageError(f"{BACKEND_VARIABLE}=dsns needs {DSNS_VARIABLE}: comma-separated DSNs")

    def servers(self) -> list[Params]:
        from psycopg.conninfo import conninfo_to_dict

        return [dict(conninfo_to_dict(self._dsns[number % len(self._dsns)])) for number in range(SHARDS)]

    def close(self) -> None:
        """Nothing was started."""


_BACKENDS: dict[str, Callable[[], Fleet]] = {"embedded": EmbeddedFleet, "docker": DockerFleet, "dsns": GivenFleet}


@pytest.fixture(scope="session")
def shardpool_fleet() -> Iterator[Fleet]:
    """Four servers for the session; see the module's text."""
    backend = os.environ.get(BACKEND_VARIABLE, "embedded")
    if backend not in _BACKENDS:
        raise pytest.UsageError(f"{BACKEND_VARIABLE}={backend}: it is one of {', '.join(_BACKENDS)}")
    fleet = _BACKENDS[backend]()
    try:
        yield fleet
    finally:
        fleet.close()


@pytest.fixture
def shardpool_database(shardpool_fleet: Fleet) -> Iterator[str]:
    """The DSN of one new, empty database on the first server."""
    from psycopg.conninfo import make_conninfo

    name = f"test_{secrets.token_hex(5)}"
    server = shardpool_fleet.servers()[0]
    _create(server, name)
    try:
        yield make_conninfo("", **{**server, "dbname": name})
    finally:
        _drop(server, name)


@pytest.fixture
def shardpool_make_topology(shardpool_fleet: Fleet, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """`make(keyspaces=…, schema="", init=True) -> Path` of a topology file on new databases."""
    made: list[tuple[Params, str]] = []

    def make(keyspaces: str | None = None, schema: str = "", init: bool = True) -> Path:
        token = secrets.token_hex(5)
        servers = shardpool_fleet.servers()
        databases = [{**server, "dbname": f"test_{token}_{number}"} for number, server in enumerate(servers)]
        for server, database in zip(servers, databases, strict=True):
            _create(server, database["dbname"])
            made.append((server, database["dbname"]))
        path = tmp_path / f"topology-{token}.yaml"
        path.write_text(_topology(tmp_path, token, databases, keyspaces), encoding="utf-8")
        _prepare(path, schema, init)
        return path

    yield make
    for server, name in made:
        _drop(server, name)


@pytest.fixture
def shardpool_topology(shardpool_make_topology: Callable[..., Path]) -> Path:
    """The path of a topology file with one hash keyspace `tenants` (bigint) on four new databases."""
    return shardpool_make_topology()


def _topology(folder: Path, token: str, databases: list[Params], keyspaces: str | None) -> str:
    """The text of the file; `{owners}` in the keyspaces stands for 4096 buckets dealt out evenly."""
    from shardpool.local.topology_file import DEFAULT_KEYSPACES, owners

    lines = ["version: 1", f"fleet: test-{token}", "epoch: 5", "shards:"]
    for number, database in enumerate(databases):
        params = {key: value for key, value in database.items() if key != "password"}
        if database.get("password"):
            params["password_file"] = folder / f"password-{token}-{number}"
            params["password_file"].touch(mode=0o600)
            params["password_file"].write_text(str(database["password"]), encoding="utf-8")
        given = ", ".join(f"{key}: '{value}'" for key, value in params.items() if value is not None)
        lines += [f"  s{number}:", f"    primary: {{{given}}}"]
    text = (keyspaces or DEFAULT_KEYSPACES).replace("{owners}", owners([f"s{n}" for n in range(len(databases))]))
    return "\n".join(lines) + "\n" + text


def _prepare(path: Path, schema: str, init: bool) -> None:
    from shardpool import Router

    with Router(path) as router:
        if init:
            router.init()
        if init and schema:
            router.scatter(schema)


def _create(server: Params, name: str) -> None:
    import psycopg

    with psycopg.connect(autocommit=True, **server) as conn:
        conn.execute(f'create database "{name}"')


def _drop(server: Params, name: str) -> None:
    import psycopg

    with psycopg.connect(autocommit=True, **server) as conn:
        for attempt in range(5):
            try:
                conn.execute(f'drop database if exists "{name}" with (force)')
                return
            except (psycopg.errors.InsufficientPrivilege, psycopg.errors.ObjectInUse):
                # A superuser's process, such as autovacuum, is in it for a moment: only it can end itself.
                if attempt == 4:
                    raise
                Event().wait(0.3)
