"""Wait until the fleet is there."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from ..._endpoint.refusals import Retired
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.tasks import async_run_all, async_sleep
from ...errors import ScatterError, ShardError, ShardUnavailable
from ..fleet.pools import AsyncEndpointPool

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

# Seconds between two attempts: at first, and at most.
_PAUSE = 0.1
_PAUSE_MAX = 1.0


async def wait(fleet: AsyncFleet, timeout: float) -> None:
    """See `AsyncRouter.wait`."""
    fleet.check_usable()
    deadline = deadline_after(timeout)
    pools = [pool for shard in fleet.snapshot.shards.values() for pool in shard.endpoints]
    outcomes = await async_run_all([partial(_until_there, fleet, pool, deadline) for pool in pools])
    failures: dict[str, BaseException] = {}
    for pool, (_, error) in zip(pools, outcomes, strict=True):
        if error is not None and not isinstance(error, ShardError):
            raise error
        if error is not None:
            failures[f"{pool.shard}/{pool.endpoint.name}"] = error
    if failures:
        raise ScatterError(
            f"{len(failures)} of {len(pools)} endpoints were not ready within {timeout:g} s", failures=failures
        )


async def _until_there(fleet: AsyncFleet, pool: AsyncEndpointPool, deadline: Deadline) -> None:
    """Try again and again until a connection is made, a reload has taken the endpoint away, or the deadline passed."""
    pause = _PAUSE
    current: AsyncEndpointPool | None = pool
    while current is not None:
        try:
            conn = await current.take(deadline)
        except Retired:
            if monotonic() >= deadline:
                raise current.overdue("its pool is closed") from None
            await async_sleep(0)
        except ShardUnavailable:
            if monotonic() + pause >= deadline:
                raise
            await async_sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX)
        else:
            await current.give(conn)
            return
        fleet.check_usable()
        current = _same_endpoint(fleet, pool)


def _same_endpoint(fleet: AsyncFleet, pool: AsyncEndpointPool) -> AsyncEndpointPool | None:
    """The pool that a reload has put in the place of this one, or itself."""
    shard = fleet.snapshot.shards.get(pool.shard)
    endpoints = shard.endpoints if shard is not None else ()
    return next((other for other in endpoints if other.endpoint.name == pool.endpoint.name), None)
