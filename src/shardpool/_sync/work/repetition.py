# Generated from _async/work/repetition.py by tools/unasync.py: edit that one, then run `make sync`.
"""Transactions that are made again: those that have met others, and those whose keys have gone to another shard."""

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

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

T = TypeVar("T")

_PAUSE, _LONGEST_PAUSE = 0.005, 1.0


def repeated(fleet: Fleet, once: Callable[[], T], until: Deadline, *, follows_keys: bool = True) -> T:
    """What `once()` gives, which is one transaction: again after 40001 and 40P01, if there is time.

    Where it `follows_keys` also when a shard has given them away (RS001), or the router has an older map (`OtherMap`).
    """
    fleet.retries.earn()
    attempt = 0
    while True:
        snapshot = fleet.snapshot
        try:
            return once()
        except (psycopg.errors.SerializationFailure, psycopg.errors.DeadlockDetected):
            pause = pause_before(attempt)
            if monotonic() + pause >= until or not fleet.retries.spend():
                raise
            sleep(pause)
            attempt += 1
        except OtherMap as error:
            if not follows_keys or not redirects.is_worth_again(fleet, snapshot, error, until):
                raise
        except psycopg.DatabaseError as error:
            if not follows_keys or not redirects.followed(fleet, error, until):
                raise


def pause_before(attempt: int) -> float:
    """Seconds before a transaction is made again, the first time with `attempt` 0.

    Full jitter: two that have met once must not meet again.
    """
    return random.uniform(0, min(_LONGEST_PAUSE, _PAUSE * 2**attempt))
