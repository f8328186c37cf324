"""The pools of one shard: its primary's, its replicas', and which of them a call gets."""

from __future__ import annotations

import threading
from collections.abc import Collection
from functools import partial
from time import monotonic
from typing import Any

from ..._endpoint.budget import Budget
from ..._endpoint.lag import LagGauge
from ..._endpoint.quantile import RunningQuantile
from ..._endpoint.refusals import Retired
from ..._runtime.deadlines import Deadline
from ..._runtime.tasks import async_sleep
from ..._runtime.watchdog import AsyncWatchdog
from ...errors import DeadlineExceeded, ShardUnavailable
from ...events import PrimaryChanged
from ...topology import Endpoint, Shard, Topology
from .monitor import HealthCheck
from .options import AsyncConnectOptions
from .pools import AsyncEndpointPool

# Seconds that the first caller waits for what the nodes say of themselves.
FIRST_CHECK = 1.0
# Seconds for which a node that says it is the primary waits for looks at the others, when they do not answer.
_DOUBT = 0.75
# Seconds between two checks of a caller who waits for something that the monitors will find.
_PAUSE = 0.01


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
        kept: dict[str, AsyncEndpointPool] = {}
        if old is not None:
            kept = {pool.endpoint.name: pool for pool in old.endpoints}

        def pool(endpoint: Endpoint) -> AsyncEndpointPool:
            before = kept.get(endpoint.name)
            if before is not None and before.can_go_on_as(endpoint):
                before.adopt(topology, endpoint)
                return before
            return AsyncEndpointPool(topology, shard.name, endpoint, options, watchdog)

        self.endpoints: tuple[AsyncEndpointPool, ...] = tuple(pool(endpoint) for endpoint in shard.endpoints)
        self.primary = self.endpoints[0]
        self.finds_primary = shard.finds_primary
        # Whether no node is known to be the primary: calls that need one are held until there is.
        self.leaderless = shard.finds_primary
        # Whether a reload has put others in the place of these: nobody tells them anything any more.
        self.replaced = False
        self.held = 0
        self._max_held = options.max_held
        self.timeline = 0
        self._observe = options.observers.observe
        self._choosing = threading.Lock()
        self.last_checks: dict[str, HealthCheck | None] = {}
        # When the last look at each node began, and since when a node says it is primary while others may be, too.
        self.checked: dict[str, float] = {}
        self._in_doubt_since: float | None = None
        self.lag = LagGauge()
        # Of hedged reads: how long all but one in twenty take, and how many may be asked twice.
        self.usual = RunningQuantile(0.95)
        self.hedges = Budget(0.05)
        if old is not None and old.finds_primary and self.finds_primary and old.primary in self.endpoints:
            self.primary, self.timeline, self.leaderless = old.primary, old.timeline, old.leaderless
        if old is not None and old.endpoints == self.endpoints:
            self.last_checks, self.checked = dict(old.last_checks), dict(old.checked)
            self.lag, self.usual, self.hedges = old.lag, old.usual, old.hedges
        if any(pool.health.monitor.follows for pool in self.endpoints):
            self.follow()

    def start_afresh(self) -> None:
        """For a forked child, whose pools look at nothing yet: what the parent knew of the nodes grows old."""
        self._choosing = threading.Lock()
        self.last_checks = {}
        self.checked = {}
        self._in_doubt_since = None
        self.lag = LagGauge()
        self.held = 0
        self.leaderless = self.finds_primary

    @property
    def replicas(self) -> tuple[AsyncEndpointPool, ...]:
        """All but the primary; a node among them may turn out to be no standby either."""
        return tuple(pool for pool in self.endpoints if pool is not self.primary)

    def follow(self) -> None:
        """Know from now on who is primary and how far behind the replicas are."""
        for pool in self.endpoints:
            pool.health.monitor.follow(partial(self._checked, pool))

    def check_now(self) -> None:
        """Have all endpoints looked at at once."""
        self.follow()
        for pool in self.endpoints:
            pool.health.monitor.wake()

    # -- the primary ---------------------------------------------------------------------------------------------

    async def writable(self, deadline: Deadline) -> AsyncEndpointPool:
        """The primary's pool; waits for one while there is none: see `hold`."""
        if self.leaderless:
            await self.hold(deadline)
        return self.primary

    async def hold(self, deadline: Deadline) -> None:
        """Wait until a node is known to be the primary.

        Raises `ShardUnavailable` at once when too many wait already, `DeadlineExceeded` at the deadline, `Retired`
        after a reload.
        """
        if self.replaced:
            raise Retired
        self.follow()
        if self.held >= self._max_held:
            raise ShardUnavailable(
                f"shard {self.name} has no primary",
                shard=self.name,
                phase="wait",
                detail=self._state_of_nodes(),
                hint="Retry later; max_held bounds how many calls wait for a new primary.",
            )
        self.held += 1
        try:
            while self.leaderless:
                if self.replaced:
                    raise Retired
                if monotonic() >= deadline:
                    raise DeadlineExceeded(
                        f"shard {self.name} had no primary until the deadline",
                        shard=self.name,
                        phase="wait",
                        detail=self._state_of_nodes(),
                    )
                await async_sleep(_PAUSE)
        finally:
            self.held -= 1

    def lost_primary(self, pool: AsyncEndpointPool) -> bool:
        """The primary refuses calls: whether another may be found, so that a call is worth holding."""
        if not self.finds_primary:
            return False
        if pool is self.primary:
            self.leaderless = True
        return True

    def _state_of_nodes(self) -> str:
        return "; ".join(
            f"{pool.endpoint.name} at {pool.endpoint.address}: {self.role(pool)}" for pool in self.endpoints
        )

    def role(self, pool: AsyncEndpointPool) -> str:
        """`primary`, `replica`, or of a node that is neither `unknown`."""
        if not self.finds_primary:
            return pool.endpoint.role
        if pool is self.primary and not self.leaderless:
            return "primary"
        check = self.last_checks.get(pool.endpoint.name)
        return "replica" if check is not None and check.is_standby else "unknown"

    # -- what the monitors tell ----------------------------------------------------------------------------------

    def _checked(self, pool: AsyncEndpointPool, check: HealthCheck | None, begun: float) -> None:
        with self._choosing:
            self.last_checks[pool.endpoint.name] = check
            self.checked[pool.endpoint.name] = begun
            if self.finds_primary:
                self._choose(pool, check)
            if check is not None and check.lsn is not None:
                if pool is self.primary and not check.is_standby:
                    self.lag.primary_at(check.at, check.lsn)
                elif check.is_standby:
                    self.lag.replica_at(pool.endpoint.name, check.lsn)

    def _choose(self, pool: AsyncEndpointPool, check: HealthCheck | None) -> None:
        """Of two that say they are primary it is the one of the later timeline; the other has missed its demotion."""
        if check is None:
            if pool is self.primary and pool.health.breaker.is_open:
                self.leaderless = True
        elif check.is_standby:
            if pool is self.primary and not self.leaderless:
                self.leaderless = True
                pool.discard()
                self._tell(pool.endpoint.name, None)
        elif self.timeline and check.timeline > self.timeline:
            self._elect(pool, check)
        elif pool is self.primary and not self.leaderless and check.timeline < self.timeline:
            self.leaderless = True
        if self.leaderless:
            self._elect_checked()

    def _elect_checked(self) -> None:
        """Find the primary among nodes of which one may have been promoted while another was away.

        One that came back would take writes that the other never gets. So the one that says it is primary is believed
        when all others have been looked at since, which they are at once; or after a while, when they do not answer.
        """
        said = [
            (check.timeline, pool is self.primary, pool)
            for pool in self.endpoints
            if (check := self.last_checks.get(pool.endpoint.name)) is not None and not check.is_standby
        ]
        said = [
            position
            for position in said
            if position[0] >= self.timeline and (position[1] or position[0] > self.timeline)
        ]
        if not said:
            self._in_doubt_since = None
            return
        _, _, best = max(said, key=lambda position: position[:2])
        if self._in_doubt_since is None:
            self._in_doubt_since = monotonic()
        since = self._in_doubt_since
        unsure = [
            pool for pool in self.endpoints if pool is not best and self.checked.get(pool.endpoint.name, 0.0) < since
        ]
        check = self.last_checks[best.endpoint.name]
        assert check is not None
        if unsure and monotonic() < since + _DOUBT:
            for pool in unsure:
                pool.health.monitor.wake()
        else:
            self._elect(best, check)

    def _elect(self, pool: AsyncEndpointPool, check: HealthCheck) -> None:
        before, was_leaderless = self.primary, self.leaderless
        self._in_doubt_since = None
        self.timeline = check.timeline
        self.primary = pool
        self.leaderless = False
        if before is not pool:
            before.discard()
        if before is not pool or was_leaderless:
            self._tell(None if was_leaderless else before.endpoint.name, pool.endpoint.name)

    def _tell(self, before: str | None, now: str | None) -> None:
        self._observe(PrimaryChanged(shard=self.name, before=before, endpoint=now))

    # -- replicas ------------------------------------------------------------------------------------------------

    async def readonly(
        self, deadline: Deadline, after: int | None = None, refused: Collection[AsyncEndpointPool] = ()
    ) -> AsyncEndpointPool:
        """See `replica`; the primary when there is none."""
        return await self.replica(deadline, after, refused) or await self.writable(deadline)

    async def replica(
        self, deadline: Deadline, after: int | None = None, refused: Collection[AsyncEndpointPool] = ()
    ) -> AsyncEndpointPool | None:
        """The replica within its lag limit that has the fewest calls in flight, but none of `refused`.

        With `after`, a position in the WAL in bytes, only one that is known to have replayed all up to there.
        """
        if len(self.endpoints) == 1:
            return None
        if any(pool.endpoint.name not in self.last_checks for pool in self.endpoints):
            await self._first_check(deadline)
        fresh = [
            pool
            for pool in self.endpoints
            if self.is_fresh(pool) and (after is None or self.lsn(pool) >= after) and pool not in refused
        ]
        return min(fresh, key=lambda replica: replica.in_flight, default=None)

    def another(self, pool: AsyncEndpointPool) -> AsyncEndpointPool | None:
        """Another endpoint that may be read from now, rather a replica; None when there is none."""
        fresh = [other for other in self.endpoints if other is not pool and self.is_fresh(other)]
        if not fresh and pool is not self.primary and not self.leaderless and not self.primary.health.breaker.is_open:
            return self.primary
        return min(fresh, key=lambda replica: replica.in_flight, default=None)

    async def _first_check(self, deadline: Deadline) -> None:
        self.follow()
        until = min(deadline, monotonic() + FIRST_CHECK)
        while monotonic() < until and any(pool.endpoint.name not in self.last_checks for pool in self.endpoints):
            await async_sleep(_PAUSE)
        for pool in self.endpoints:
            # Not waited for again: what has not answered by now is not read from until it does.
            self.last_checks.setdefault(pool.endpoint.name, None)

    def is_fresh(self, pool: AsyncEndpointPool) -> bool:
        """Whether it is a replica that may be read from now."""
        check = self.last_checks.get(pool.endpoint.name)
        if pool is self.primary or check is None or not check.is_standby or pool.health.breaker.is_open:
            return False
        return self.lag.is_within(pool.endpoint.name, pool.endpoint.max_lag)

    def lsn(self, pool: AsyncEndpointPool) -> int:
        """The position in the WAL up to which it has last been seen to have replayed."""
        check = self.last_checks.get(pool.endpoint.name)
        return -1 if check is None or check.lsn is None else check.lsn

    def stats(self) -> dict[str, Any]:
        """The counters of every endpoint by its name; a replica's with its lag in seconds."""
        by_endpoint = {pool.endpoint.name: {**pool.stats(), "role": self.role(pool)} for pool in self.endpoints}
        for pool in self.replicas:
            by_endpoint[pool.endpoint.name] |= {
                "lag_seconds": self.lag.rounded(pool.endpoint.name),
                "max_lag": pool.endpoint.max_lag,
            }
        return by_endpoint
