"""Where it is measured: databases b00, b01, … on four servers in turns, each with the same small tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import conninfo, sql

from shardpool import Topology
from shardpool.partitioning import Hash
from shardpool.topology import Endpoint, Keyspace, OwnerRange, PoolSettings, Secret, Shard

BUCKETS = 4096
ITEMS = 1000

_SCHEMA = f"""
    create table items (id bigint primary key, name text not null);
    insert into items select i, 'item ' || i from generate_series(0, {ITEMS - 1}) i;
    create table loaded (id bigint not null, amount int, price float8, note text, at timestamptz);
    create table counters (id bigint primary key, hits bigint not null);
    insert into counters select i, 0 from generate_series(0, {ITEMS - 1}) i;
    analyze;
"""


@dataclass(frozen=True, slots=True)
class Database:
    """One shard to be: its name and libpq's parameters."""

    name: str
    params: dict[str, str]

    @property
    def conninfo(self) -> str:
        return conninfo.make_conninfo("", **self.params)


@dataclass(frozen=True, slots=True)
class Fleet:
    """The databases, server by server in turns: the first four are on four servers."""

    databases: tuple[Database, ...]

    def topology(self, count: int = 4, *, connections: int = 1) -> Topology:
        """The first `count` databases as shards of one hashed keyspace, with pools of so many connections."""
        shards = {database.name: _shard(database, connections) for database in self.databases[:count]}
        tables = {f"public.{table}": ("id",) for table in ("items", "loaded", "counters")}
        keyspace = Keyspace("items", Hash(("bigint",), "murmur3", BUCKETS), _owners(list(shards)), tables)
        return Topology("bench", 1, shards, {"items": keyspace}, control="none", timeout=60.0)


def _shard(database: Database, connections: int) -> Shard:
    params = {keyword: value for keyword, value in database.params.items() if keyword != "password"}
    password = database.params.get("password")
    primary = Endpoint(
        "primary",
        "primary",
        tuple(sorted(params.items())),
        Secret(password) if password else None,
        pool=PoolSettings(connections, connections),
    )
    return Shard(database.name, primary)


def _owners(shards: Sequence[str]) -> tuple[OwnerRange, ...]:
    ends = [BUCKETS * number // len(shards) for number in range(len(shards) + 1)]
    return tuple(OwnerRange(ends[at], ends[at + 1] - 1, name, 1) for at, name in enumerate(shards))


def make_fleet(servers: Sequence[str], count: int) -> Fleet:
    """A fleet of `count` new databases on the servers (conninfo of a role that may create databases)."""
    databases = []
    for number in range(count):
        server = servers[number % len(servers)]
        name = f"shardpool_bench_{number:02}"
        if number < len(servers):
            _make_template(server)
        with psycopg.connect(server, autocommit=True) as conn:
            conn.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))
            conn.execute(
                sql.SQL("create database {} template shardpool_bench strategy file_copy").format(sql.Identifier(name))
                if conn.info.server_version >= 150000
                else sql.SQL("create database {} template shardpool_bench").format(sql.Identifier(name))
            )
        params = {key: str(value) for key, value in conninfo.conninfo_to_dict(server, dbname=name).items()}
        databases.append(Database(f"b{number:02}", params))
    return Fleet(tuple(databases))


def _make_template(server: str) -> None:
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute("drop database if exists shardpool_bench with (force)")
        conn.execute("create database shardpool_bench")
    with psycopg.connect(conninfo.make_conninfo(server, dbname="shardpool_bench"), autocommit=True) as conn:
        conn.execute(_SCHEMA)
