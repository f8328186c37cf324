# Generated from _async/fleet/dialer.py by tools/unasync.py: edit that one, then run `make sync`.
"""Connections of no pool: for what looks after the fleet, and takes longer than a pool can spare one of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import psycopg
from psycopg import Connection

from ..._runtime.deadlines import Deadline
from ..._runtime.watchdog import Watchdog
from ...errors import ShardError, ShardUnavailable, first_line
from ...topology import Endpoint, Topology
from .connector import Connector
from .options import ConnectOptions

# Some of these connections wait for an answer as long as it takes, and a host that is gone says nothing: they end when
# its system, too, has been silent for half a minute. What the topology says of this holds instead.
_NOTICING = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "4", "tcp_user_timeout": "30000"}


class Dialer:
    """Makes them with the options that a router was given, and cuts off what is not done by its deadline.

    Deadlines are in monotonic seconds. Where no endpoint is named, the one is meant at which the shard takes writes.
    """

    def __init__(self, options: ConnectOptions, watchdog: Watchdog) -> None:
        self._options = options
        self._watchdog = watchdog

    def parameters(self, topology: Topology, shard: str) -> dict[str, Any]:
        """What libpq is given for a connection to the shard, its password too."""
        return self._connector(topology, shard).parameters()

    def dial(
        self, topology: Topology, shard: str, deadline: Deadline, endpoint: Endpoint | None = None
    ) -> Connection[Any]:
        """A connection in autocommit to whatever server is there, for shardpool's own queries.

        It is not asked who it is: that may be what is to be found out. Raises `ShardUnavailable`.
        """
        connector = self._connector(topology, shard, endpoint)
        try:
            return connector.connect_unchecked(deadline)
        except ShardError:
            raise
        except psycopg.Error as error:
            raise _unreachable(connector, error) from error

    def dial_checked(self, topology: Topology, shard: str, application_name: str | None = None) -> Connection[Any]:
        """A connection in autocommit to the shard as the pools make theirs. Raises `ShardError`."""
        connector = self._connector(topology, shard, application_name=application_name)
        try:
            conn = connector.connect()
        except ShardError:
            raise
        except psycopg.Error as error:
            raise _unreachable(connector, error) from error
        conn.set_autocommit(True)
        return conn

    @contextmanager
    def dialed(
        self, topology: Topology, shard: str, deadline: Deadline, endpoint: Endpoint | None = None
    ) -> Iterator[Connection[Any]]:
        """`dial`, for a block; what is not done by the deadline is cut off."""
        with self.until(self.dial(topology, shard, deadline, endpoint), deadline) as conn:
            yield conn

    @contextmanager
    def until(self, conn: Connection[Any], deadline: Deadline) -> Iterator[Connection[Any]]:
        """A connection for a block, which is cut off at the deadline, and closed behind it."""
        watch = self._watchdog.watch(conn, deadline)
        try:
            yield conn
        finally:
            self._watchdog.release(watch)
            conn.close()

    def _connector(
        self, topology: Topology, shard: str, endpoint: Endpoint | None = None, application_name: str | None = None
    ) -> Connector:
        endpoint = endpoint or topology.shard(shard).writable
        named = {} if application_name is None else {"application_name": application_name}
        noticing = {name: value for name, value in _NOTICING.items() if name not in dict(endpoint.params)}
        options = replace(self._options, kwargs={**noticing, **self._options.kwargs, **named})
        return Connector(topology, shard, endpoint, options, self._watchdog)


def _unreachable(connector: Connector, error: psycopg.Error) -> ShardUnavailable:
    return ShardUnavailable(
        f"shard {connector.shard} cannot be reached",
        shard=connector.shard,
        endpoint=connector.endpoint.name,
        phase="connect",
        detail=f"{connector.endpoint.address}: {first_line(error)}",
    )
