# Generated from _async/waiting.py by tools/unasync.py: edit that one, then run `make sync`.
"""Wait until the fleet is there."""

from __future__ import annotations

from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from .._concurrency import run_all, sleep
from ..errors import ScatterError, ShardError, ShardUnavailable
from .pools import EndpointPool, Retired

if TYPE_CHECKING:
    from .router import Router

# Seconds between two attempts: at first, and at most.
_PAUSE = 0.1
_PAUSE_MAX = 1.0


def wait(router: Router, timeout: float) -> None:
    """See `Router.wait`."""
    router._check_usable()
    deadline = monotonic() + timeout
    pools = [pool for shard in router._state.pools.values() for pool in shard.endpoints]
    outcomes = run_all([partial(_until_there, router, pool, deadline) for pool in pools])
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


def _until_there(router: Router, pool: EndpointPool, deadline: float) -> None:
    """Try again and again until a connection is made, a reload has taken the endpoint away, or the deadline passed."""
    pause = _PAUSE
    current: EndpointPool | None = pool
    while current is not None:
        try:
            conn = current.take(deadline)
        except Retired:
            if monotonic() >= deadline:
                raise current.overdue("its pool is closed") from None
            sleep(0)
        except ShardUnavailable:
            if monotonic() + pause >= deadline:
                raise
            sleep(pause)
            pause = min(2 * pause, _PAUSE_MAX)
        else:
            current.give(conn)
            return
        router._check_usable()
        current = _same_endpoint(router, pool)


def _same_endpoint(router: Router, pool: EndpointPool) -> EndpointPool | None:
    """The pool that a reload has put in the place of this one, or itself."""
    shard = router._state.pools.get(pool.shard)
    endpoints = shard.endpoints if shard is not None else ()
    return next((other for other in endpoints if other.endpoint.name == pool.endpoint.name), None)
