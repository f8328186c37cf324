"""Faults of real servers, each a block at whose end the server is well again.

What is done to processes is done to those that the fleet itself has started, by their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import Any, Literal

import psycopg
from psycopg import sql

from shardpool.local.binaries import find_binaries

from .fleet import DATABASE, MAX_CONNECTIONS, FaultFleet
from .proxy import BlackHole, Cut, Delay, Mode, Pass, Refuse, Reset

Fault = Callable[[FaultFleet, str], AbstractContextManager[None]]


@contextmanager
def killed(fleet: FaultFleet, shard: str) -> Iterator[None]:
    """kill -9 of the server and all its processes; it takes connections again when the block has ended."""
    server = fleet.servers[shard]
    server.kill()
    try:
        yield
    finally:
        server.start(find_binaries())


@contextmanager
def shut_down(fleet: FaultFleet, shard: str, mode: Literal["fast", "immediate"] = "fast") -> Iterator[None]:
    """An ordered end: `fast` tells every session why, `immediate` does not wait for anything."""
    server = fleet.servers[shard]
    server.stop(mode)
    try:
        yield
    finally:
        server.start(find_binaries())


@contextmanager
def crashed(fleet: FaultFleet, shard: str) -> Iterator[None]:
    """An immediate shutdown."""
    with shut_down(fleet, shard, "immediate"):
        yield


@contextmanager
def frozen(fleet: FaultFleet, shard: str) -> Iterator[None]:
    """SIGSTOP to all its processes: the kernel still takes connections, and nobody answers."""
    server = fleet.servers[shard]
    server.pause()
    try:
        yield
    finally:
        server.resume()


@contextmanager
def no_connection_left(fleet: FaultFleet, shard: str) -> Iterator[None]:
    """Others have taken all connections but those reserved for superusers."""
    server = fleet.servers[shard]
    with ExitStack() as stack, server.connect("postgres", DATABASE) as admin:
        for _ in range(3):
            fleet.end_sessions(shard)
            with suppress(psycopg.OperationalError):
                for _ in range(MAX_CONNECTIONS):
                    # Not in the shop's database: sessions that are counted there are the router's.
                    stack.enter_context(psycopg.connect(**{**server.params("app", "postgres"), "connect_timeout": 3}))
        taken = admin.execute("select count(*) from pg_stat_activity where usename = 'app'").fetchone()
        assert taken is not None and taken[0] >= MAX_CONNECTIONS - 15, "others did not get the connections"
        yield


@contextmanager
def another_password(fleet: FaultFleet, shard: str) -> Iterator[None]:
    """The password of the router's role is no longer the one that it has; its sessions are ended."""
    with fleet.servers[shard].connect("postgres", DATABASE) as admin:
        _set_password(admin, "another")
        try:
            fleet.end_sessions(shard)
            yield
        finally:
            _set_password(admin, fleet.servers[shard].passwords["app"])


def _set_password(admin: psycopg.Connection[Any], password: str) -> None:
    admin.execute(sql.SQL("alter role app password {}").format(password))


def network(mode: Mode) -> Fault:
    """What the proxy before a server can do."""

    @contextmanager
    def fault(fleet: FaultFleet, shard: str) -> Iterator[None]:
        fleet.proxies[shard].set(mode)
        try:
            yield
        finally:
            fleet.proxies[shard].set(Pass())

    return fault


FAULTS: dict[str, Fault] = {
    "killed": killed,
    "shut down": shut_down,
    "crashed": crashed,
    "frozen": frozen,
    "no connection left": no_connection_left,
    "another password": another_password,
    "slow": network(Delay(0.03)),
    "black hole": network(BlackHole()),
    "unreachable": network(BlackHole(accepts=False)),
    "reset": network(Reset()),
    "refused": network(Refuse()),
    "cut before commit": network(Cut(b"commit")),
    "cut after commit": network(Cut(b"commit", answer=True)),
    "cut before insert": network(Cut(b"insert")),
    "cut after insert": network(Cut(b"insert", answer=True)),
}
