"""One shard on a primary and its standby, each behind a proxy."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event
from time import monotonic

from shardpool import Router, Topology, parse_topology
from shardpool.local import LocalFleet
from shardpool.local.reaper import watch
from shardpool.local.server import Server
from tests.timing import not_after

from .fleet import DATABASE, SCHEMA
from .proxy import Proxy


@dataclass
class Pair:
    """One shard on two servers, each behind a proxy; `by_role` names them, `by_hosts` has the router ask who is who."""

    local: LocalFleet
    primary: Server
    standby: Server
    proxies: tuple[Proxy, Proxy]

    def topology(self, shard: str, *, epoch: int = 1, connect: str = "") -> Topology:
        text = (
            f"version: 1\nfleet: {self.local.name}\nepoch: {epoch}\n"
            "defaults:\n"
            f"  connect: {{dbname: {DATABASE}, user: app, password_file: '{self.local.directory}/password'{connect}}}\n"
            "  timeout: 1s\n"
            f"shards:\n  s0: {{{shard}}}\n"
            "keyspaces:\n  tenants:\n    key: bigint\n"
            "    hash: {buckets: 4096, owners: {s0: 0-4095}}\n    tables: {ledger: tenant_id}\n"
        )
        return parse_topology(text, file=str(self.local.directory / "pair.yaml"))

    @property
    def with_replica(self) -> Topology:
        first, second = (f"{{host: 127.0.0.1, port: {proxy.port}}}" for proxy in self.proxies)
        return self.topology(f"primary: {first}, replicas: [{second}]")

    @property
    def by_role(self) -> Topology:
        return self.topology(f"primary: {{host: 127.0.0.1, port: {self.proxies[0].port}}}")

    @property
    def by_hosts(self) -> Topology:
        hosts = ", ".join(f"{{host: 127.0.0.1, port: {proxy.port}}}" for proxy in self.proxies)
        return self.topology(f"hosts: [{hosts}]")


@contextmanager
def running_pair() -> Iterator[Pair]:
    """A new pair, with an empty ledger on both."""
    name = f"pair-{os.getpid()}-{secrets.token_hex(2)}"
    reaper = watch(name)
    local = LocalFleet.up(name, 1, replicas=1, database=DATABASE)
    primary, standby = local.servers
    found = Pair(local, primary, standby, tuple(Proxy(("127.0.0.1", s.port)) for s in (primary, standby)))  # type: ignore[arg-type]
    try:
        with Router(found.by_role) as router:
            router.init()
            router.scatter(SCHEMA)
        wait_until(lambda: _catches_up(found))
        yield found
    finally:
        for proxy in found.proxies:
            proxy.close()
        local.down()
        reaper.communicate()


def _catches_up(pair: Pair) -> bool:
    with pair.standby.connect("postgres", DATABASE) as conn:
        return conn.execute("select to_regclass('ledger')").fetchone() != (None,)


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    end = monotonic() + seconds
    while not condition():
        not_after(end)
        Event().wait(0.02)
