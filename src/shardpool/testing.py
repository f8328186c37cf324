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
containers of the image that `SHARDPOOL_TEST_IMAGE` names, `postgres:18` if it does not, by testcontainers, which needs
a container engine), or `dsns` (`SHARDPOOL_TEST_DSNS`: comma-separated DSNs of running servers with a role that may
create databases; fewer than four serve several shards each).
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from threading import Event
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import pytest

if TYPE_CHECKING:
    from shardpool.local import LocalFleet

SHARDS = 4
BACKEND_VARIABLE = "SHARDPOOL_TEST_BACKEND"
DSNS_VARIABLE = "SHARDPOOL_TEST_DSNS"
IMAGE_VARIABLE = "SHARDPOOL_TEST_IMAGE"
_START_SECONDS = 120.0

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
        try:
            from testcontainers.core.container import DockerContainer
        except ImportError:
            raise pytest.UsageError(
                f"{BACKEND_VARIABLE}=docker needs testcontainers: pip install testcontainers"
            ) from None
        self._password = secrets.token_hex(8)
        settings = "postgres -c wal_level=logical -c max_prepared_transactions=100 -c fsync=off"
        with ExitStack() as stack:
            self._containers = [
                stack.enter_context(
                    DockerContainer(os.environ.get(IMAGE_VARIABLE, "postgres:18"))
                    .with_env("POSTGRES_PASSWORD", self._password)
                    .with_exposed_ports(5432)
                    .with_command(settings)
                )
                for _ in range(SHARDS)
            ]
            for server in self._as("postgres"):
                self._make_app(server)
            self._stack = stack.pop_all()

    def servers(self) -> list[Params]:
        return self._as("app")

    def _make_app(self, server: Params) -> None:
        """Wait for the server, and make the role that the servers have which are started here."""
        import psycopg

        from shardpool.local.server import make_app

        _wait_for(server)
        with psycopg.connect(autocommit=True, **server) as conn:
            make_app(conn, conn.info.server_version // 10000, self._password)

    def _as(self, role: str) -> list[Params]:
        return [
            {
                "host": container.get_container_host_ip(),
                "port": int(container.get_exposed_port(5432)),
                "user": role,
                "password": self._password,
                "dbname": "postgres",
                # The image has no certificate, and seen from another container its address is not loopback.
                "sslmode": "disable",
                "connect_timeout": 5,
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


class _Template:
    """A topology's databases, one on each server, and the file's text without what is of one test only."""

    def __init__(self, servers: list[Params], keyspaces: str | None, fleet: str) -> None:
        self.token = secrets.token_hex(5)
        self.fleet = fleet
        self.keyspaces = keyspaces
        self.servers = servers
        self.databases = [{**server, "dbname": f"test_{self.token}_{n}"} for n, server in enumerate(servers)]
        self.created: list[tuple[Params, str]] = []

    def create(self, like: _Template | None = None) -> None:
        """Create the databases, empty or as copies of those of `like`."""
        for number, (server, database) in enumerate(zip(self.servers, self.databases, strict=True)):
            _create(server, database["dbname"], like.databases[number]["dbname"] if like else None)
            self.created.append((server, database["dbname"]))

    def write(self, folder: Path) -> Path:
        """Write the topology file into the folder."""
        path = folder / f"topology-{self.token}.yaml"
        path.write_text(_topology(folder, self.token, self.databases, self.keyspaces, self.fleet), encoding="utf-8")
        return path

    def drop(self) -> None:
        for server, name in self.created:
            _drop(server, name)


class _Templates:
    """Prepared databases to copy, which takes a quarter of the time of preparing; for what is asked for again."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self._fleet = fleet
        self._folder = folder
        self._made: dict[tuple[str | None, str], _Template | None] = {}

    def get(self, keyspaces: str | None, schema: str) -> _Template | None:
        """Databases with the `shardpool` schema and the DDL, or None the first time that they are asked for."""
        key = (keyspaces, schema)
        if key not in self._made:
            self._made[key] = None
        elif self._made[key] is None:
            made = self._made[key] = _Template(self._fleet.servers(), keyspaces, f"test-{secrets.token_hex(5)}")
            made.create()
            _prepare(made.write(self._folder), schema, True)
        return self._made[key]

    def drop(self) -> None:
        for made in self._made.values():
            if made is not None:
                made.drop()


@pytest.fixture(scope="session")
def _shardpool_templates(shardpool_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Templates]:
    templates = _Templates(shardpool_fleet, tmp_path_factory.mktemp("templates"))
    try:
        yield templates
    finally:
        templates.drop()


@pytest.fixture
def shardpool_make_topology(
    shardpool_fleet: Fleet, _shardpool_templates: _Templates, tmp_path: Path
) -> Iterator[Callable[..., Path]]:
    """`make(keyspaces=…, schema="", init=True) -> Path` of a topology file on new databases."""
    all_made: list[_Template] = []

    def make(keyspaces: str | None = None, schema: str = "", init: bool = True) -> Path:
        # What a test makes after its first is a fleet of another name.
        template = _shardpool_templates.get(keyspaces, schema) if init and not all_made else None
        fleet = template.fleet if template else f"test-{secrets.token_hex(5)}"
        made = _Template(shardpool_fleet.servers(), keyspaces, fleet)
        all_made.append(made)
        made.create(like=template)
        path = made.write(tmp_path)
        if template is None:
            _prepare(path, schema, init)
        return path

    yield make
    for made in all_made:
        made.drop()


@pytest.fixture
def shardpool_topology(shardpool_make_topology: Callable[..., Path]) -> Path:
    """The path of a topology file with one hash keyspace `tenants` (bigint) on four new databases."""
    return shardpool_make_topology()


def _topology(
    folder: Path, token: str, databases: list[Params], keyspaces: str | None, fleet: str | None = None
) -> str:
    """The text of the file; `{owners}` in the keyspaces stands for 4096 buckets dealt out evenly."""
    from shardpool.local.topology_file import DEFAULT_KEYSPACES, owners

    lines = ["version: 1", f"fleet: {fleet or 'test-' + token}", "epoch: 5", "shards:"]
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


def _wait_for(server: Params) -> None:
    """Return when a server that has been started takes connections from here."""
    import psycopg

    end = monotonic() + _START_SECONDS
    while True:
        try:
            psycopg.connect(**{"connect_timeout": 3, **server}).close()
            return
        except psycopg.OperationalError:
            if monotonic() >= end:
                raise
            Event().wait(0.1)


def _create(server: Params, name: str, template: str | None = None) -> None:
    """Create a database, empty or as a copy of another, which nobody may be connected to."""
    import psycopg

    with psycopg.connect(autocommit=True, **server) as conn:
        # Where nothing has to be durable, files are copied in half the time that it takes to write them as WAL.
        how = " strategy file_copy" if conn.info.server_version >= 150000 else ""
        source = f' template "{template}"' if template else ""
        conn.execute(f'create database "{name}"{source}{how}')


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
