"""The servers and the small shop that the tests of this folder run on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardpool import Router

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    pinned: {17: s3}
    tables: {orders: tenant_id}
  events:
    key: date
    range:
      - {below: 2025-01-01, shard: s0}
      - {below: 2026-01-01, shard: s1}
      - {shard: s2}
    tables: {events: day}
  regions:
    key: text
    list: {s0: [de, fr], s1: [us, ca]}
    tables: {stores: region}
reference_tables: [countries]
single_tables: {audit_log: s0}
"""

SCHEMA = """\
create table orders (tenant_id bigint not null, n int not null, note text, primary key (tenant_id, n));
create table events (day date not null, n int not null, primary key (day, n));
create table stores (region text not null, name text not null, primary key (region, name));
create table countries (code text primary key, name text not null);
"""


@pytest.fixture(autouse=True)
def _quiet_pools(caplog: pytest.LogCaptureFixture) -> None:
    """psycopg_pool warns of every connection that a test breaks on purpose."""
    caplog.set_level(logging.ERROR, logger="psycopg.pool")


@pytest.fixture
def topology_path(shardpool_make_topology: Callable[..., Path]) -> str:
    """The topology file of the shop, on four new databases with its tables."""
    path = shardpool_make_topology(KEYSPACES, SCHEMA)
    with Router(path) as router:
        router.shard("s0").execute("create table audit_log (what text)")
    return str(path)


@pytest.fixture
def router(topology_path: str) -> Iterator[Router]:
    with Router(topology_path) as opened:
        yield opened


@pytest.fixture
def server_dsn(shardpool_database: str) -> str:
    """The DSN of an empty database."""
    return shardpool_database
