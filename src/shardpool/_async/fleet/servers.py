"""Connections of no pool to several shards: pools may be full of callers who wait for what is done on these."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any, Protocol

import psycopg
from psycopg import AsyncConnection

from ..._endpoint.refusals import Retired
from ..._runtime.deadlines import Deadline
from ..._runtime.tasks import async_run_all
from ..._runtime.watchdog import AsyncWatchdog
from ...errors import ShardError, ShardpoolError
from ...topology import Topology
from .snapshot import AsyncSnapshot

Conn = AsyncConnection[Any]


class AsyncServers(Protocol):
    """Whose servers they are: the fleet."""

    snapshot: AsyncSnapshot
    watchdog: AsyncWatchdog

    @property
    def topology(self) -> Topology: ...


@asynccontextmanager
async def connected(
    fleet: AsyncServers, names: Iterable[str], until: Deadline, connect_seconds: float
) -> AsyncIterator[tuple[dict[str, Conn], dict[str, Exception]]]:
    """Connections to those of the shards' primaries that can be reached, and why the others cannot.

    They are cut at `until` (monotonic seconds); a server has `connect_seconds` to let us in.
    """
    wanted = list(names)
    watches = []
    conns: dict[str, Conn] = {}

    async def connect(name: str) -> None:
        pool = await fleet.snapshot.shards[name].writable(until)
        conns[name] = await pool.apart(min(connect_seconds, max(0.1, until - monotonic())))

    try:
        known = [name for name in wanted if name in fleet.snapshot.shards]
        outcomes = await async_run_all([partial(connect, name) for name in known])
        failed = {name: error for name, (_, error) in zip(known, outcomes, strict=True) if error is not None}
        missing: dict[str, Exception] = {}
        for name, error in failed.items():
            if not isinstance(error, (ShardError, psycopg.Error, Retired)):
                raise error
            missing[name] = error
        for name in set(wanted) - set(known):
            missing[name] = ShardpoolError(f"shard {name} is not in the topology")
        watches = [fleet.watchdog.watch(conn, until) for conn in conns.values()]
        yield conns, missing
    finally:
        for watch in watches:
            fleet.watchdog.release(watch)
        for conn in conns.values():
            await conn.close()
