# Generated from _async/sql/repeated.py by tools/unasync.py: edit that one, then run `make sync`.
"""`router.run()`: a function in a transaction over the shards that it comes to, again when that has met others."""

from __future__ import annotations

import random
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

import psycopg

from ..._runtime.deadlines import Deadline
from ..._runtime.tasks import sleep
from ...errors import OtherMap
from ..fleet import redirects
from .transaction import FleetTransaction

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

T = TypeVar("T")

_RETRY_PAUSE = 0.005


def repeated(
    fleet: Fleet,
    begin: Callable[[], FleetTransaction],
    function: Callable[[FleetTransaction], T],
    until: Deadline,
) -> T:
    """What `function(tx)` gives in a transaction that is begun again after 40001, 40P01, RS001 and `OtherMap`."""
    fleet.retries.earn()
    attempt = 0
    while True:
        snapshot = fleet.snapshot
        try:
            with begin() as transaction:
                return function(transaction)
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            # Full jitter: two transactions that met once must not meet again.
            pause = random.uniform(0, min(1.0, _RETRY_PAUSE * 2**attempt))
            if monotonic() + pause >= until or not fleet.retries.spend():
                raise
            sleep(pause)
            attempt += 1
        except OtherMap as error:
            if not redirects.is_worth_again(fleet, snapshot, error, until):
                raise
        except psycopg.DatabaseError as error:
            if not redirects.followed(fleet, error, until):
                raise
