"""`router.run()`: a function in a transaction over the shards that it comes to, again when that has met others."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import psycopg

from ..._runtime.deadlines import Deadline
from ..._runtime.tasks import async_sleep
from ...errors import OtherMap
from ..fleet import redirects
from .transaction import AsyncFleetTransaction

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

T = TypeVar("T")

_RETRY_PAUSE = 0.005


async def repeated(
    fleet: AsyncFleet,
    begin: Callable[[], AsyncFleetTransaction],
    function: Callable[[AsyncFleetTransaction], Awaitable[T]],
    until: Deadline,
) -> T:
    """What `function(tx)` gives in a transaction that is begun again after 40001, 40P01, RS001 and `OtherMap`."""
    fleet.retries.earn()
    attempt = 0
    while True:
        snapshot = fleet.snapshot
        try:
            async with begin() as transaction:
                return await function(transaction)
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            # Full jitter: two transactions that met once must not meet again.
            pause = random.uniform(0, min(1.0, _RETRY_PAUSE * 2**attempt))
            if monotonic() + pause >= until or not fleet.retries.spend():
                raise
            await async_sleep(pause)
            attempt += 1
        except OtherMap as error:
            if not await redirects.is_worth_again(fleet, snapshot, error, until):
                raise
        except psycopg.DatabaseError as error:
            if not await redirects.followed(fleet, error, until):
                raise
