"""A primary that became a standby is noticed, and a standby that was promoted is found."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from threading import Event
from time import monotonic

import psycopg
import pytest

from shardpool import Router, ShardpoolError, ShardUnavailable, Topology, parse_topology
from shardpool.local import LocalFleet
from shardpool.local.reaper import watch
from shardpool.local.server import Server

from .calls import Calls
from .fleet import DATABASE, SCHEMA
from .proxy import Proxy

FOUND_SECONDS = 1.0
INSERT = "insert into ledger values (%s, %s)"
KEY = 7


@dataclass
class Pair:
    """One shard on two servers, each behind a proxy; `by_role` names them, `by_hosts` has the router ask who is who."""

    local: LocalFleet
    primary: Server
    standby: Server
    proxies: tuple[Proxy, Proxy]

    def topology(self, shard: str) -> Topology:
        text = (
            f"version: 1\nfleet: {self.local.name}\nepoch: 1\n"
            "defaults:\n"
            f"  connect: {{dbname: {DATABASE}, user: app, password_file: '{self.local.directory}/password'}}\n"
            "  timeout: 1s\n"
            f"shards:\n  s0: {{{shard}}}\n"
            "keyspaces:\n  tenants:\n    key: bigint\n"
            "    hash: {buckets: 4096, owners: {s0: 0-4095}}\n    tables: {ledger: tenant_id}\n"
        )
        return parse_topology(text, file=str(self.local.directory / "pair.yaml"))

    @property
    def by_role(self) -> Topology:
        return self.topology(f"primary: {{host: 127.0.0.1, port: {self.proxies[0].port}}}")

    @property
    def by_hosts(self) -> Topology:
        hosts = ", ".join(f"{{host: 127.0.0.1, port: {proxy.port}}}" for proxy in self.proxies)
        return self.topology(f"hosts: [{hosts}]")


@pytest.fixture
def pair() -> Iterator[Pair]:
    """A new pair for each test: a promotion is not undone."""
    name = f"pair-{os.getpid()}-{secrets.token_hex(2)}"
    reaper = watch(name)
    local = LocalFleet.up(name, 1, replicas=1, database=DATABASE)
    primary, standby = local.servers
    found = Pair(local, primary, standby, tuple(Proxy(("127.0.0.1", s.port)) for s in (primary, standby)))  # type: ignore[arg-type]
    try:
        with Router(found.by_role) as router:
            router.init()
            router.scatter(SCHEMA)
        _wait_until(lambda: _catches_up(found))
        yield found
    finally:
        for proxy in found.proxies:
            proxy.close()
        local.down()
        reaper.communicate()


def _catches_up(pair: Pair) -> bool:
    with pair.standby.connect("postgres", DATABASE) as conn:
        return conn.execute("select to_regclass('ledger')").fetchone() != (None,)


def _wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = monotonic() + seconds
    while not condition():
        assert monotonic() < end
        Event().wait(0.02)


def _first_success(calls: Calls, seconds: float) -> float | None:
    """Seconds until a write is acknowledged."""
    begun = monotonic()
    while monotonic() - begun < seconds:
        try:
            calls.go(calls.execute(KEY, INSERT, (KEY, 1), timeout=1.0))
        except (ShardpoolError, psycopg.Error):
            Event().wait(0.02)
        else:
            return monotonic() - begun
    return None


def test_an_address_that_leads_to_a_standby_refuses_after_the_first_write(
    pair: Pair, open_pair: Callable[[Topology], Calls]
) -> None:
    calls = open_pair(pair.by_role)
    calls.go(calls.execute(KEY, INSERT, (KEY, 1)))
    pair.proxies[0].point_at(("127.0.0.1", pair.standby.port))
    errors: list[BaseException] = []
    for number in range(20):
        with pytest.raises((ShardpoolError, psycopg.Error)) as raised:
            calls.go(calls.execute(KEY, INSERT, (KEY, 100 + number)))
        errors.append(raised.value)
        Event().wait(0.02)
    read_only = [error for error in errors if isinstance(error, psycopg.errors.ReadOnlySqlTransaction)]
    assert len(read_only) <= 2, f"{len(read_only)} of {len(errors)} writes were sent to a standby"
    assert isinstance(errors[-1], ShardUnavailable)
    pair.standby.promote()
    seconds = _first_success(calls, 5)
    assert seconds is not None and seconds <= FOUND_SECONDS


def test_a_promoted_standby_is_found_within_a_second(pair: Pair, open_pair: Callable[[Topology], Calls]) -> None:
    calls = open_pair(pair.by_hosts)
    calls.go(calls.execute(KEY, INSERT, (KEY, 1)))
    pair.primary.kill()
    with pytest.raises((ShardpoolError, psycopg.Error)):
        calls.go(calls.execute(KEY, INSERT, (KEY, 2)))
    Event().wait(0.5)
    pair.standby.promote()
    seconds = _first_success(calls, 8)
    assert seconds is not None and seconds <= FOUND_SECONDS


def test_a_promoted_standby_is_found_while_the_old_primary_is_frozen(
    pair: Pair, open_pair: Callable[[Topology], Calls]
) -> None:
    calls = open_pair(pair.by_hosts)
    calls.go(calls.execute(KEY, INSERT, (KEY, 1)))
    pair.primary.pause()
    try:
        with pytest.raises((ShardpoolError, psycopg.Error)):
            calls.go(calls.execute(KEY, INSERT, (KEY, 2), timeout=1.0))
        pair.standby.promote()
        seconds = _first_success(calls, 8)
    finally:
        pair.primary.resume()
    assert seconds is not None and seconds <= FOUND_SECONDS


@pytest.fixture
def open_pair(kind: str) -> Iterator[Callable[[Topology], Calls]]:
    from .calls import KINDS

    opened: list[Calls] = []

    def make(topology: Topology) -> Calls:
        calls = KINDS[kind](topology)
        opened.append(calls)
        return calls

    yield make
    for calls in opened:
        calls.stop()
