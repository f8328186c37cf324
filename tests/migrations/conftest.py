"""Eight shards on four real servers, a folder of migrations, and the command as a person calls it."""

from __future__ import annotations

import json
import logging
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shardpool.schema.files import checksum
from shardpool.schema.sums import FILE, sum_text
from shardpool.testing import Fleet, _create, _drop
from tests.commands import run

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash: {buckets: 4096, owners: {owners}}
    tables: {orders: tenant_id}
reference_tables: [countries]
single_tables: {audit_log: s0}
"""

ORDERS = """\
-- migrate:up
create table orders (tenant_id bigint not null, id int not null, total numeric, primary key (tenant_id, id));
create table countries (code text primary key, name text not null);
-- migrate:down
drop table countries;
drop table orders;
"""

ADD = """\
-- migrate:up
alter table orders add column status text;
-- migrate:down
alter table orders drop column status;
"""


class Fleet8:
    """The topology file of the shards, and a connection to each for whoever looks from outside."""

    def __init__(self, path: Path, params: dict[str, dict[str, Any]], folder: Path) -> None:
        self.path = path
        self.params = params
        self.folder = folder
        self.migrations = folder / "migrations"
        self.migrations.mkdir()
        self.stderr = ""

    @property
    def shards(self) -> list[str]:
        return list(self.params)

    def connect(self, shard: str, **more: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(**{**self.params[shard], "autocommit": True, "connect_timeout": 5, **more})

    def ask(self, shard: str, query: str, *params: Any) -> list[Any]:
        with self.connect(shard) as conn:
            return conn.execute(query, params or None).fetchall()

    def do(self, shard: str, statement: str) -> None:
        with self.connect(shard) as conn:
            conn.execute(statement)

    def write(self, name: str, text: str, version: int = 0) -> str:
        """A migration; its version follows the last one."""
        number = version or 20260101000000 + len(list(self.migrations.glob("*.sql"))) + 1
        file = self.migrations / f"{number}_{name}.sql"
        file.write_text(text, encoding="utf-8")
        return str(number)

    def write_sum(self) -> None:
        files = {file.name: checksum(file.read_text(encoding="utf-8")) for file in self.migrations.glob("*.sql")}
        (self.migrations / FILE).write_text(sum_text(files), encoding="utf-8")

    def applied(self, shard: str) -> list[str]:
        """The versions that are applied, as the shard itself says."""
        query = "select version from shardpool.migrations where status in ('applied', 'baseline') order by 1"
        return [row[0] for row in self.ask(shard, query)]

    def running(self, shard: str, beginning: str) -> int:
        """How many sessions of the shard run a statement that begins so."""
        query = """select count(*) from pg_stat_activity where state = 'active' and starts_with(query, %s)
                   and datname = current_database()"""
        return int(self.ask(shard, query, beginning)[0][0])

    def lock_holders(self, shard: str) -> list[int]:
        """The pids of the sessions that hold the locks of a runner, the lock of its own connection first."""
        query = """select pid from pg_locks where locktype = 'advisory' and objsubid = 2 and granted
                   and objid::bigint > 4294967000
                   and database = (select oid from pg_database where datname = current_database())
                   order by objid::bigint desc"""
        return [row[0] for row in self.ask(shard, query)]

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SHARDPOOL_TOPOLOGY": str(self.path), "NO_COLOR": "1", "COLUMNS": "200"}

    def popen(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "shardpool", "migrate", *arguments]
        return subprocess.Popen(
            command,
            env=self.environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0, text: str | None = None) -> str:
        done = run(["migrate", *arguments], env=self.environment, cwd=self.folder, text=text)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        self.stderr = done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int = 0) -> Any:
        told = json.loads(self(arguments[0], "--json", *arguments[1:], code=code))
        assert told.pop("format_version") == 1
        return told


@pytest.fixture(autouse=True)
def _quiet_pools(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, logger="psycopg.pool")


def _made(servers: list[dict[str, Any]], count: int, folder: Path) -> tuple[Path, dict[str, dict[str, Any]]]:
    from shardpool import Router
    from shardpool.testing import _topology

    token = secrets.token_hex(5)
    databases = [{**servers[n % len(servers)], "dbname": f"test_{token}_{n}"} for n in range(count)]
    for database in databases:
        _create(
            servers[0] | {k: database[k] for k in database if k != "dbname"} | {"dbname": "postgres"},
            database["dbname"],
        )
    path = folder / f"topology-{token}.yaml"
    path.write_text(_topology(folder, token, databases, KEYSPACES), encoding="utf-8")
    with Router(path) as router:
        router.init()
    return path, {f"s{n}": database for n, database in enumerate(databases)}


def _fleet(shardpool_fleet: Fleet, tmp_path: Path, count: int) -> Iterator[Fleet8]:
    servers = shardpool_fleet.servers()
    path, params = _made(servers, count, tmp_path)
    yield Fleet8(path, params, tmp_path)
    for number, database in enumerate(params.values()):
        _drop(servers[number % len(servers)], database["dbname"])


@pytest.fixture
def fleet(shardpool_fleet: Fleet, tmp_path: Path) -> Iterator[Fleet8]:
    """Three shards."""
    yield from _fleet(shardpool_fleet, tmp_path, 3)


@pytest.fixture
def eight(shardpool_fleet: Fleet, tmp_path: Path) -> Iterator[Fleet8]:
    """Eight shards, two on each server."""
    yield from _fleet(shardpool_fleet, tmp_path, 8)
