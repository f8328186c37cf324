"""A transaction that has come to several shards, as one that may wait in a circle with others."""

from __future__ import annotations

import random
from collections.abc import Mapping
from time import time
from typing import TYPE_CHECKING

import psycopg
from psycopg.pq import TransactionStatus

from ..._runtime.deadlines import Deadline
from ...control import deadlocks
from ...errors import DistributedDeadlock
from .checkout import AsyncCheckout

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

# Looks of the watchdog, a tenth of a second from each other, that find a session at work before it is looked closer:
# about PostgreSQL's own deadlock_timeout.
_CHECKS = 9


class AsyncWaiting:
    """What is known of a transaction's sessions; `deadlock` is why one was cancelled."""

    def __init__(self, fleet: AsyncFleet, checkouts: Mapping[str, AsyncCheckout]) -> None:
        self._fleet = fleet
        self._checkouts = checkouts
        self.number = 0
        # Its sessions are another's by now, or will be.
        self.is_over = False
        self.deadlock: DistributedDeadlock | None = None

    @property
    def pids(self) -> dict[str, int]:
        """The server processes of its sessions, by shard; behind a pooler of transactions they are not known."""
        if self.is_over:
            return {}
        return {
            name: checkout.conn.pgconn.backend_pid
            for name, checkout in [*self._checkouts.items()]
            if checkout.pool.endpoint.pooler != "transaction"
        }

    @property
    def is_waiting(self) -> bool:
        """Whether a session is at work, and may wait for a lock."""
        return not self.is_over and any(is_at_work(checkout) for checkout in [*self._checkouts.values()])

    def watched(self, checkout: AsyncCheckout, until: Deadline) -> None:
        """Watch a session of it until then (monotonic seconds)."""
        checkout.watch(until).health = _Suspect(self, checkout)

    def may_wait(self) -> None:
        """A session has been at work for long."""
        if len(self.pids) > 1:
            self.number = self.number or deadlocks.new_number(time(), random.random())
            self._fleet.deadlocks.take_up(self)

    def meant(self, error: BaseException) -> BaseException:
        """The deadlock, when it was for that that the statement was cancelled."""
        if self.deadlock is None or not isinstance(error, psycopg.errors.QueryCanceled):
            return error
        deadlock, self.deadlock = self.deadlock, None
        self._fleet.recovery.counts.add("deadlock")
        deadlock.__cause__ = error
        return deadlock


class _Suspect:
    """What the watchdog tells, now and then, that a session has not ended what it does."""

    __slots__ = ("_at_work", "_checkout", "_waiting")

    def __init__(self, waiting: AsyncWaiting, checkout: AsyncCheckout) -> None:
        self._waiting = waiting
        self._checkout = checkout
        self._at_work = 0

    def suspect(self) -> None:
        self._checkout.pool.health.suspect()
        self._at_work = self._at_work + 1 if is_at_work(self._checkout) else 0
        if self._at_work >= _CHECKS:
            self._waiting.may_wait()


def is_at_work(checkout: AsyncCheckout) -> bool:
    return checkout.conn.pgconn.transaction_status == TransactionStatus.ACTIVE
