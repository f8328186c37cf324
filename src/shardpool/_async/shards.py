"""The pools of one shard: its primary's, its replicas', and which of them a call gets."""

from __future__ import annotations

from collections import deque
from functools import partial
from time import monotonic
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from .._concurrency import async_run_all
from .._watchdog import AsyncWatchdog
from ..errors import ShardpoolError
from ..topology import Endpoint, Shard, Topology
from .connector import AsyncConnectOptions
from .pools import AsyncEndpointPool, Retired

# Seconds between two measurements of a replica's lag, and the time that one may take.
LAG_PERIOD = 1.0
LAG_TIMEOUT = 1.0


class AsyncShardPools:
    """Everything that is open to one shard."""

    def __init__(
        self,
        topology: Topology,
        shard: Shard,
        options: AsyncConnectOptions,
        watchdog: AsyncWatchdog,
        old: AsyncShardPools | None = None,
    ) -> None:
        self.name = shard.name
        self.shard = shard
        kept = {pool.endpoint.name: pool for pool in old.endpoints} if old is not None else {}

        def pool(endpoint: Endpoint) -> AsyncEndpointPool:
            before = kept.get(endpoint.name)
            if before is not None and before.can_go_on_as(endpoint):
                before.adopt(topology, endpoint)
                return before
            return AsyncEndpointPool(topology, shard.name, endpoint, options, watchdog)

        self.primary = pool(shard.primary)
        self.replicas = tuple(pool(replica) for replica in shard.replicas)
        self.lag = LagGauge(self.replicas)

    @property
    def endpoints(self) -> tuple[AsyncEndpointPool, ...]:
        return (self.primary, *self.replicas)

    async def readonly(self, deadline: float) -> AsyncEndpointPool:
        """The replica within its lag limit that has the fewest calls in flight; the primary when there is none."""
        if not self.replicas:
            return self.primary
        if self.lag.is_due():
            await self.measure_lag(deadline)
        fresh = [replica for replica in self.replicas if self.lag.is_within_limit(replica)]
        return min(fresh, key=lambda replica: replica.in_flight, default=self.primary)

    async def measure_lag(self, deadline: float) -> None:
        """Ask the primary where its WAL ends and each replica how far it has replayed it. Failures count as lag."""
        self.lag.begin()
        until = min(deadline, monotonic() + LAG_TIMEOUT)
        outcomes = await async_run_all([partial(self._lsn, pool, until) for pool in self.endpoints])
        for pool, (lsn, error) in zip(self.endpoints, outcomes, strict=True):
            if error is not None and not isinstance(error, psycopg.Error | ShardpoolError | Retired):
                raise error
            if pool is self.primary:
                self.lag.primary_at(lsn)
            else:
                self.lag.replica_at(pool, lsn)

    async def _lsn(self, pool: AsyncEndpointPool, deadline: float) -> int:
        """Bytes of WAL written (by a primary) or replayed (by a standby)."""
        conn = await pool.take(deadline)
        watch = pool.watchdog.watch(conn, deadline)
        try:
            if not conn.autocommit:
                await conn.set_autocommit(True)
            cursor = conn.cursor(row_factory=tuple_row)
            await cursor.execute(_LSN_QUERY)
            row = await cursor.fetchone()
            return int(row[0]) if row and row[0] is not None else 0
        finally:
            if not pool.watchdog.release(watch):
                await conn.close()
            await pool.give(conn)

    def stats(self) -> dict[str, Any]:
        """The counters of every endpoint by its name; a replica's with its lag in seconds."""
        found = {pool.endpoint.name: pool.stats() for pool in self.endpoints}
        for replica in self.replicas:
            found[replica.endpoint.name] |= self.lag.stats(replica.endpoint)
        return found


# pg_is_in_recovery() decides first: pg_current_wal_lsn() is an error on a standby.
_LSN_QUERY = """
    select case when pg_catalog.pg_is_in_recovery()
                then pg_catalog.pg_last_wal_replay_lsn() - '0/0'::pg_catalog.pg_lsn
                else pg_catalog.pg_current_wal_lsn() - '0/0'::pg_catalog.pg_lsn end
"""


class LagGauge:
    """How far behind each replica is, in seconds, from positions in the WAL.

    A replica that has replayed all that the primary had written at a time t lags at most `now - t`. That needs no
    privilege and no traffic, and a replica cut off from its primary is seen to fall behind, which its own clock would
    not tell: it has replayed all that it has received.
    """

    def __init__(self, replicas: tuple[AsyncEndpointPool, ...]) -> None:
        self._written: deque[tuple[float, int]] = deque(maxlen=600)
        self._current: dict[str, float] = {replica.endpoint.name: float("-inf") for replica in replicas}
        self._measured = float("-inf")
        self._begun = float("-inf")

    def is_due(self) -> bool:
        return monotonic() - self._measured >= LAG_PERIOD

    def begin(self) -> None:
        # Set before the measurement: other callers go on with the last one meanwhile.
        self._begun = self._measured = monotonic()

    def primary_at(self, lsn: int | None) -> None:
        if lsn is not None:
            self._written.append((self._begun, lsn))

    def replica_at(self, replica: AsyncEndpointPool, lsn: int | None) -> None:
        """Remember until when the replica has everything."""
        times = [time for time, written in self._written if lsn is not None and written <= lsn]
        if times:
            name = replica.endpoint.name
            self._current[name] = max(self._current[name], max(times))

    def seconds(self, endpoint: Endpoint) -> float:
        """The lag at most, in seconds; infinite when it was never seen to have everything."""
        return monotonic() - self._current.get(endpoint.name, float("-inf"))

    def is_within_limit(self, replica: AsyncEndpointPool) -> bool:
        limit = replica.endpoint.max_lag
        lag = self.seconds(replica.endpoint)
        return lag != float("inf") and (limit is None or lag <= limit)

    def stats(self, endpoint: Endpoint) -> dict[str, Any]:
        lag = self.seconds(endpoint)
        return {"lag_seconds": None if lag == float("inf") else round(lag, 3), "max_lag": endpoint.max_lag}
