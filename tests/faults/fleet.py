"""Four real servers, each behind a proxy, and the databases of one shop on them; well again after each test."""

from __future__ import annotations

import os
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import psycopg

from shardpool import Router, Topology, parse_topology
from shardpool.local import LocalFleet
from shardpool.local.binaries import find_binaries
from shardpool.local.reaper import watch
from shardpool.local.server import Server
from shardpool.local.topology_file import owners

from .proxy import Pass, Proxy

DATABASE = "shop"
MAX_CONNECTIONS = 60
# No key is unique: a write that was made twice is seen twice.
SCHEMA = """\
create table ledger (tenant_id bigint not null, id bigint not null);
create index on ledger (tenant_id, id);
"""
_KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash: {{function: murmur3, buckets: 4096, owners: {owners}}}
    tables: {{ledger: tenant_id}}
"""
# How long what a client left behind may go on before it counts as stuck.
_SETTLE_SECONDS = 5.0


class FaultFleet:
    """Servers `s0` to `s3`, and `proxies` by shard."""

    def __init__(self) -> None:
        name = f"faults-{os.getpid()}-{secrets.token_hex(2)}"
        self._reaper = watch(name)
        settings = {"max_connections": str(MAX_CONNECTIONS), "autovacuum": "off"}
        self.local = LocalFleet.up(name, 4, database=DATABASE, settings=settings)
        self.servers: dict[str, Server] = {server.name: server for server in self.local.servers}
        self.proxies = {name: Proxy(("127.0.0.1", server.port)) for name, server in self.servers.items()}
        self.prepare()

    def prepare(self) -> None:
        with Router(self.topology()) as router:
            router.init(timeout=20)
            router.scatter(SCHEMA, timeout=20)

    def close(self) -> None:
        for proxy in self.proxies.values():
            proxy.close()
        self.local.down()
        self._reaper.communicate()

    # -- topologies ----------------------------------------------------------------------------------------------

    def text(
        self,
        *,
        pool: str = "{max_size: 8}",
        timeout: float = 1.0,
        epoch: int = 1,
        direct: tuple[str, ...] = (),
        connect: str = "",
        more: str = "",
        sick_pool: str | None = None,
    ) -> str:
        """A topology file's text; shards named in `direct` are reached without their proxy, the others by `sick_pool`
        if that is given."""
        lines = [
            "version: 1",
            f"fleet: {self.local.name}",
            f"epoch: {epoch}",
            "defaults:",
            f"  connect: {{dbname: {DATABASE}, user: app, password_file: '{self.password_file}'{connect}}}",
            f"  pool: {pool}",
            f"  timeout: {timeout}s",
            "shards:",
        ]
        for name, server in self.servers.items():
            port = server.port if name in direct else self.proxies[name].port
            own = f", pool: {sick_pool}" if sick_pool and name not in direct else ""
            lines.append(f"  {name}: {{primary: {{host: 127.0.0.1, port: {port}{own}}}}}")
        return "\n".join(lines) + "\n" + _KEYSPACES.format(owners=owners(list(self.servers))) + more

    def topology(self, **options: Any) -> Topology:
        return parse_topology(self.text(**options), file=str(self.local.directory / "faults.yaml"))

    @property
    def password_file(self) -> Path:
        return self.local.directory / "password"

    # -- what is on the servers, without a router ----------------------------------------------------------------

    def keys(self, count: int) -> dict[str, list[int]]:
        """So many keys of each shard."""
        topology = self.topology()
        found: dict[str, list[int]] = {name: [] for name in self.servers}
        key = 0
        while any(len(keys) < count for keys in found.values()):
            owned = found[owner(topology, key)]
            if len(owned) < count:
                owned.append(key)
            key += 1
        return found

    def connect(self, name: str) -> psycopg.Connection[Any]:
        return self.servers[name].connect("postgres", DATABASE)

    def rows(self) -> dict[str, Counter[tuple[int, int]]]:
        """How often each (key, id) of the ledger is on each shard, when nothing works there any more."""
        found = {}
        for name, proxy in self.proxies.items():
            proxy.reset_dead()
            self.settle(name)
            with self.connect(name) as conn:
                found[name] = Counter(conn.execute("select tenant_id, id from ledger").fetchall())
        return found

    def settle(self, name: str) -> None:
        """Return when no session of the router runs a statement, or is in a transaction."""
        limit = monotonic() + _SETTLE_SECONDS
        with self.connect(name) as conn:
            while left := conn.execute(_BUSY).fetchall():
                if monotonic() >= limit:
                    raise AssertionError(f"sessions on {name} go on: {left}")
                Event().wait(0.02)

    def sessions(self, name: str) -> list[tuple[int, str, str]]:
        """(pid, state, statement) of the sessions of routers."""
        with self.connect(name) as conn:
            return conn.execute(_SESSIONS).fetchall()

    def end_sessions(self, name: str) -> None:
        with self.connect(name) as conn:
            conn.execute(f"select pg_terminate_backend(pid) from ({_SESSIONS}) as them")

    @contextmanager
    def apart(self, name: str) -> Iterator[None]:
        """Routers that connect now cannot have this shard take part in a transaction over several."""
        with self.connect(name) as conn:
            conn.execute("revoke insert on shardpool.tx from app")
            try:
                yield
            finally:
                conn.execute("grant insert on shardpool.tx to app")

    # -- well again ----------------------------------------------------------------------------------------------

    def heal(self) -> None:
        """Whatever was done to it: all servers run, all proxies pass, nobody is connected, the ledger is empty."""
        binaries = find_binaries()
        for proxy in self.proxies.values():
            proxy.set(Pass())
            proxy.reset_all()
        for name, server in self.servers.items():
            if server.is_running:
                server.resume()
            else:
                server.start(binaries)
            proxy = self.proxies[name]
            if proxy.target != ("127.0.0.1", server.port):
                proxy.point_at(("127.0.0.1", server.port))
            with self.connect(name) as conn:
                conn.execute(f"select pg_terminate_backend(pid, 2000) from ({_SESSIONS}) as them")
                conn.execute("set lock_timeout = '5s'")
                for (part,) in conn.execute("select gid from pg_prepared_xacts where database = 'shop'").fetchall():
                    conn.execute(f"rollback prepared '{part}'")
                conn.execute("truncate ledger")


_SESSIONS = """
    select pid, state, left(query, 80) from pg_stat_activity
    where datname = 'shop' and usename = 'app' and pid <> pg_backend_pid() and backend_type = 'client backend'
"""
_BUSY = f"{_SESSIONS} and state <> 'idle'"


def owner(topology: Topology, key: int) -> str:
    """The shard that the topology says, without a router."""
    keyspace = topology.keyspaces["tenants"]
    return keyspace.shard_by_bucket[keyspace.partitioning.bucket(key)]
