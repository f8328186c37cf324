"""Four PostgreSQL servers, each a host of its own: a container with an address on a network that is only theirs."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from random import SystemRandom

import psycopg

from shardpool import Router, Topology, parse_topology
from shardpool.local.topology_file import owners

from .engine import by_engine, docker, run, wait_until

SHARDS = ["s0", "s1", "s2", "s3"]
_SCHEMA = "create table ledger (tenant_id bigint not null, id bigint not null)"
_TEXT = """\
version: 1
fleet: hosts
epoch: 1
defaults:
  connect: {{dbname: shop, user: app, password: {password}, sslmode: disable}}
  pool: {{max_size: 8}}
  timeout: 5s
plain_passwords: allow
shards:
{shards}
keyspaces:
  tenants:
    key: bigint
    hash: {{buckets: 4096, owners: {owners}}}
    tables: {{ledger: tenant_id}}
"""


class Hosts:
    """The containers by the shard that is on each; close it to have them removed."""

    def __init__(self) -> None:
        self.password = secrets.token_hex(8)
        token = secrets.token_hex(3)
        self.network = f"shardpool-hosts-{token}"
        self._containers = {shard: f"shardpool-host-{token}-{shard}" for shard in SHARDS}
        with ExitStack() as stack:
            # A container keeps its address over a fault only on a network whose range was chosen.
            prefix = f"10.{SystemRandom().randrange(64, 224)}.{SystemRandom().randrange(256)}"
            docker("network", "create", f"--subnet={prefix}.0/24", self.network)
            stack.callback(run, "docker", "network", "rm", self.network)
            self.addresses = {shard: f"{prefix}.{number + 10}" for number, shard in enumerate(SHARDS)}
            stack.callback(run, "docker", "rm", "--force", "--volumes", *self._containers.values())
            for shard in SHARDS:
                self._start(shard)
            for shard in SHARDS:
                self.wait_for(shard)
            with Router(self.topology()) as router:
                router.init(timeout=60)
                router.scatter(_SCHEMA, timeout=60)
            self._stack = stack.pop_all()

    def _start(self, shard: str) -> None:
        docker(
            *("run", "--detach", f"--name={self._containers[shard]}"),
            *(f"--network={self.network}", f"--ip={self.addresses[shard]}"),
            *("--env=POSTGRES_USER=app", f"--env=POSTGRES_PASSWORD={self.password}", "--env=POSTGRES_DB=shop"),
            *("postgres:18", "postgres", "-cfsync=off", "-cwal_level=logical", "-cmax_prepared_transactions=20"),
        )

    def close(self) -> None:
        self._stack.close()

    def text(self) -> str:
        """The topology file."""
        lines = [f"  {shard}: {{primary: {{host: {address}}}}}" for shard, address in self.addresses.items()]
        return _TEXT.format(password=self.password, shards="\n".join(lines), owners=owners(SHARDS))

    def topology(self) -> Topology:
        return parse_topology(self.text())

    def connect(self, shard: str) -> psycopg.Connection[tuple[int, int]]:
        return psycopg.connect(
            host=self.addresses[shard],
            user="app",
            password=self.password,
            dbname="shop",
            connect_timeout=3,
            autocommit=True,
        )

    def wait_for(self, shard: str) -> None:
        """Return when the server takes connections from here; a server that is being set up does not."""

        def answers() -> bool:
            with suppress(psycopg.OperationalError):
                self.connect(shard).close()
                return True
            return False

        with by_engine():
            wait_until(answers, 120, f"{shard} does not answer")

    def rows(self, shard: str) -> Counter[tuple[int, int]]:
        """How often each (key, id) of the ledger is there."""
        with self.connect(shard) as conn:
            return Counter(conn.execute("select tenant_id, id from ledger").fetchall())

    # -- faults, each a block at whose end the host is well again --------------------------------------------------

    @contextmanager
    def paused(self, shard: str) -> Iterator[None]:
        """All processes of the host are frozen; its kernel goes on."""
        docker("pause", self._containers[shard])
        try:
            yield
        finally:
            docker("unpause", self._containers[shard])

    @contextmanager
    def killed(self, shard: str) -> Iterator[None]:
        """kill -9 of everything on the host, whose address is gone with it."""
        docker("kill", self._containers[shard])
        try:
            yield
        finally:
            docker("start", self._containers[shard])
            self.wait_for(shard)

    @contextmanager
    def disconnected(self, shard: str) -> Iterator[None]:
        """The cable is pulled: nothing arrives, and nothing says so."""
        docker("network", "disconnect", self.network, self._containers[shard])
        try:
            yield
        finally:
            docker("network", "connect", f"--ip={self.addresses[shard]}", self.network, self._containers[shard])
            self.wait_for(shard)


FAULTS: dict[str, Callable[[Hosts, str], AbstractContextManager[None]]] = {
    "paused": Hosts.paused,
    "killed": Hosts.killed,
    "disconnected": Hosts.disconnected,
}
