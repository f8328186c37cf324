"""The pool of one endpoint: a bounded number of callers, a deadline for each, and nothing opened before it is used."""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from ..._endpoint import refusals
from ..._endpoint.idle import (
    async_put_idle,
    pool_of,
)
from ..._endpoint.liveness import GIVEN_BACK
from ..._endpoint.meter import TAKEN
from ..._endpoint.refusals import Retired
from ..._endpoint.session import SESSION, is_touched
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.interrupts import async_heeded, async_uninterrupted
from ..._runtime.slots import PLACE, AsyncSlots, Place, QueueFull, SentAway
from ..._runtime.tasks import async_sleep
from ..._runtime.watchdog import AsyncWatchdog
from ...errors import DeadlineExceeded, ShardBusy, first_line
from ...events import Refused
from ...topology import Endpoint, Topology
from . import sessions
from .connector import AsyncConnector
from .epochs import AsyncEpochs
from .health import AsyncEndpointHealth
from .inner_pool import AsyncInnerPool, put_back, replaced, sizes
from .options import AsyncConnectOptions
from .places import AsyncPlaces

_log = logging.getLogger("shardpool")

# How long a caller sleeps in psycopg_pool before it looks whether the connection it waits for has failed.
_SHORTEST_WAIT = 0.02
_LONGEST_WAIT = 0.2
# What the rollback of a transaction that was left open may take.
_ROLLBACK_SECONDS = 1.0


class AsyncEndpointPool:
    """A psycopg pool named fleet/shard/endpoint behind a counter of callers of our own.

    The counter, not the pool, is where callers queue: psycopg_pool goes on counting waiters that have timed out, and
    its `max_waiting` can then refuse for good.
    """

    def __init__(
        self,
        topology: Topology,
        shard: str,
        endpoint: Endpoint,
        options: AsyncConnectOptions,
        watchdog: AsyncWatchdog,
    ) -> None:
        self.shard = shard
        self.endpoint = endpoint
        # What `connection()` gives; every other verb sets its own mode when it takes a connection.
        self.autocommit = bool(options.kwargs.get("autocommit", False))
        self.name = f"{topology.fleet}/{shard}/{endpoint.name}"
        self._options = options
        self._connector = AsyncConnector(topology, shard, endpoint, options, watchdog)
        self._inner = AsyncInnerPool(self.name, endpoint.pool, self._connector)
        self._observe = options.observers.observe
        self.places = AsyncPlaces(endpoint.pool)
        self.health = AsyncEndpointHealth(shard, endpoint, self._connector, self._inner, self.places, options, watchdog)
        self.epochs = AsyncEpochs(self._connector, self._inner, self.health)
        self.meter = options.meters.of(shard, endpoint.name)

    async def take(self, deadline: Deadline) -> AsyncConnection[Any]:
        """A connection that must be given back with `give`.

        Raises `ShardBusy` at once when the queue is full, `ShardUnavailable` when connecting failed,
        `DeadlineExceeded` at the deadline (monotonic seconds), `Retired` after a reload.
        """
        begun = monotonic()
        place = self.places.all.acquire_at_once() if self.health.breaker.cause is None else None
        if place is None:
            place = await self.reserve(deadline)
        return await self.connect(place, begun, deadline)

    async def reserve(self, deadline: Deadline) -> Place:
        """The first half of `take`: a place among those who may hold a connection."""
        return await self._reserved(self.places.all, deadline, "all connections of its pool stayed in use")

    async def reserve_for_scatter(self, deadline: Deadline) -> Place:
        """`reserve` for a call on many shards, which may not have all the places."""
        beside = await self._reserved(
            self.places.scatter, deadline, "all connections that calls on many shards may have stayed in use"
        )
        try:
            place = await self.reserve(deadline)
            place.beside = beside
            return place
        except BaseException:
            beside.free()
            raise

    async def _reserved(self, slots: AsyncSlots, deadline: Deadline, why_late: str) -> Place:
        health = self.health
        if health.breaker.cause is not None:
            raise health.refusal()
        place = slots.acquire_at_once()
        if place is not None:
            return place
        if health.monitor.is_silent:
            raise health.refusal()
        try:
            return await slots.acquire(deadline)
        except QueueFull:
            raise self._busy() from None
        except SentAway:
            raise (Retired() if self.retired else health.refusal()) from None
        except TimeoutError:
            raise self.overdue(why_late) from None

    @property
    def is_warm(self) -> bool:
        """Whether `connect` will find a connection ready, most likely."""
        return self._inner.idle_count > 0

    async def give(self, conn: AsyncConnection[Any]) -> None:
        """Undo what the caller has left, and back into the pool, which replaces what is broken.

        What takes more than a moment goes on to its end when the caller is cancelled.
        """
        place = conn.__dict__[PLACE]
        given = False
        try:
            given = self.give_at_once(conn, place)
        finally:
            if not given:
                # Cancelled in a rollback, psycopg first asks the server to cancel it, for seconds when that is frozen.
                await async_uninterrupted(partial(self.give_slowly, conn), place)

    def give_at_once(self, conn: AsyncConnection[Any], place: Place) -> bool:
        """Give back what is well, and waited for by nobody; False for what takes longer. Once more does nothing."""
        attributes = conn.__dict__
        if attributes[PLACE] is not place:
            return True
        now = monotonic()
        attributes[GIVEN_BACK] = now
        status = conn.pgconn.transaction_status
        if status != TransactionStatus.UNKNOWN:
            self.health.answered(now)
        # What takes longer comes here twice, and is counted once.
        taken = attributes.pop(TAKEN, None)
        if taken is not None:
            self.meter.used(taken, now)
        if status != TransactionStatus.IDLE or (attributes[SESSION].marks and is_touched(conn)):
            return False
        # Taken off before: whoever finds the connection in the pool puts a place of his own there.
        attributes[PLACE] = None
        given = True
        try:
            given = async_put_idle(pool_of(conn), conn, now)
        finally:
            if given:
                place.free()
            else:
                attributes[PLACE] = place
        return given

    async def give_slowly(self, conn: AsyncConnection[Any], place: Place) -> None:
        if conn.__dict__[PLACE] is not place:
            return
        pool: Any = pool_of(conn)
        try:
            # A closed pool closes what it is given.
            if conn.pgconn.transaction_status != TransactionStatus.UNKNOWN and not pool.closed:
                await self._roll_back(conn)
        finally:
            conn.__dict__[PLACE] = None
            try:
                await put_back(conn)
            finally:
                place.free()

    async def _roll_back(self, conn: AsyncConnection[Any]) -> None:
        """Within a bound: psycopg_pool's own rollback would wait for a frozen server for good."""
        watch = self.health.watchdog.watch(conn, deadline_after(_ROLLBACK_SECONDS), self.health)
        try:
            with suppress(psycopg.Error):
                await conn.rollback()
            await self._clean(conn)
        finally:
            cut = not self.health.watchdog.release(watch)
            if cut or conn.pgconn.transaction_status != TransactionStatus.IDLE:
                await conn.close()

    async def _clean(self, conn: AsyncConnection[Any]) -> None:
        if conn.pgconn.transaction_status == TransactionStatus.IDLE and is_touched(conn):
            try:
                await sessions.clean(conn, self._options.configure, self.autocommit)
            except Exception as error:
                # Also an error of configure(): whoever comes next makes a connection, and is told.
                _log.warning("a connection to %s could not be reset: %s", self.name, first_line(error))
                await conn.close()

    async def connect(self, place: Place, begun: float, deadline: Deadline) -> AsyncConnection[Any]:
        """The second half of `take`, which has `begun` then: a connection for a place; when it fails, that is free."""
        try:
            conn, had = self._inner.take_idle(), monotonic()
            if conn is None or not self.health.is_fresh(conn, had):
                conn, had = await self._connected(conn, deadline), monotonic()
            attributes = conn.__dict__
            if attributes[SESSION].epoch != self._connector.epoch and self.epochs.is_behind(conn):
                await self.epochs.bring_up(conn, deadline)
                if conn.closed:
                    conn = await self._connected(conn, deadline)
                attributes, had = conn.__dict__, monotonic()
            attributes[PLACE] = place
            attributes[TAKEN] = (begun, had)
            return cast("AsyncConnection[Any]", conn)
        except BaseException:
            place.free()
            raise

    async def _connected(self, gone: AsyncConnection[Any] | None, deadline: Deadline) -> AsyncConnection[Any]:
        """A connection that is made, or given back meanwhile; in the place of one that has `gone`, if there is one."""
        if gone is not None:
            await async_uninterrupted(replaced, gone)
        inner, health, connector = self._inner, self.health, self._connector
        pool = await inner.opened()
        if connector.is_pausing and not self.is_warm and not self.retired:
            await self._second_try(deadline)
        failures = connector.failures
        wait = _SHORTEST_WAIT
        counted: int | None = None
        while True:
            now = monotonic()
            left = deadline - now
            try:
                conn: Any = await async_heeded(partial(pool.getconn, wait if left > wait else left), pool.putconn)
                if health.is_fresh(conn, now):
                    return cast("AsyncConnection[Any]", conn)
                await async_uninterrupted(replaced, conn)
                continue
            except PoolClosed:
                if health.breaker.is_open:
                    raise health.refusal() from None
                pool = await inner.opened()
                continue
            except PoolTimeout as late:
                _let_go(late)
                wait = min(2 * wait, _LONGEST_WAIT)
                counted = await inner.recount(pool, counted)
            if self.retired:
                raise Retired
            if connector.failures != failures and connector.error is not None:
                await self._second_try(deadline)
                failures = connector.failures
            if left <= 0:
                health.starved(now)
                raise self.overdue("no connection could be made in time")
            if wait >= _LONGEST_WAIT:
                health.suspect()

    async def _second_try(self, deadline: Deadline) -> None:
        """Connecting has failed: wait until it may be tried again if it was the first time, else raise what failed.

        Connections that were cut just now are no reason to fail for a caller who has time.
        """
        error, pause = self._connector.error, self._connector.second_try_in
        if error is None:
            return
        if pause is None or self.health.breaker.is_open or monotonic() + pause >= deadline:
            raise self.health.unavailable(error)
        await async_sleep(pause)

    @property
    def takes_part(self) -> str:
        """Whether the server takes part in transactions over several shards, as `transactions.READY_QUERY` tells it.

        Empty as long as no connection has been made, and where the shards carry no schema of ours.
        """
        return self._connector.takes_part

    async def apart(self, seconds: float) -> AsyncConnection[Any]:
        """A checked connection that is none of the pool's, in autocommit, within `seconds`; the caller closes it."""
        return await self._connector.connect_apart(seconds)

    def can_go_on_as(self, endpoint: Endpoint) -> bool:
        """Whether nothing has changed but the number of connections."""
        pool = replace(endpoint.pool, min_size=self.endpoint.pool.min_size, max_size=self.endpoint.pool.max_size)
        return not self.retired and replace(endpoint, pool=pool) == self.endpoint

    def adopt(self, topology: Topology, endpoint: Endpoint) -> None:
        """Go on under a new topology; `resize` then makes the pool follow."""
        self.endpoint = endpoint
        self._connector.adopt(topology)
        self.health.adopt(endpoint)
        self._inner.settings = endpoint.pool
        self.places.resize(endpoint.pool)

    async def resize(self) -> None:
        """Give the open pool the size that the endpoint has now."""
        await self._inner.resize()

    async def close(self, timeout: float = 2.0) -> None:
        """Close the idle connections now, those in use when they are given back. Waits at most `timeout` seconds."""
        self._inner.retired = True
        # They go on in the pool that has come in its place: here the connections in use may stay so for long.
        self.places.send_away()
        self.health.monitor.stop()
        await self._inner.close(timeout)

    def start_afresh(self, watchdog: AsyncWatchdog) -> AsyncConnectionPool[Any] | None:
        """For a forked child: forget the parent's pool; the caller gets it, and must keep it from being closed."""
        self._connector.watchdog = watchdog
        self.places.start_afresh()
        self.health.start_afresh(watchdog)
        return self._inner.start_afresh()

    @property
    def retired(self) -> bool:
        """Whether another has come in its place, or the router is closed."""
        return self._inner.retired

    async def drain(self) -> None:
        """Replace every connection, those in use when they are given back: what they have prepared is out of date."""
        await self._inner.drain()

    def discard(self) -> None:
        """Close the idle connections in the background, and those in use when they are given back."""
        self._inner.discard()

    @property
    def in_flight(self) -> int:
        return self.places.all.in_use

    @property
    def is_failing(self) -> bool:
        """Whether calls are refused, or the last attempt to connect failed and no call has had an answer since."""
        return self._failure is not None

    @property
    def _failure(self) -> BaseException | None:
        if self._connector.failed_at < self.health.answered_at:
            return self.health.breaker.cause
        return self.health.breaker.cause or self._connector.error

    @property
    def seen_epoch(self) -> int:
        """The newest epoch of an owner that a server of this endpoint has told."""
        return self._connector.seen_epoch

    def stats(self) -> dict[str, Any]:
        """psycopg_pool's counters (absent ones are 0) with `in_flight`, `waiting` and the last connection error."""
        error = self._failure
        return {
            "role": self.endpoint.role,
            "state": "open" if self.health.breaker.is_open else "closed",
            "address": self.endpoint.address,
            "opened": self._inner.current is not None,
            "in_flight": self.places.all.in_use,
            "waiting": self.places.all.waiting,
            "connect_failures": self._connector.failures,
            "last_error": first_line(error) if error is not None else None,
            "pool": self._inner.stats(),
            "limits": dict(zip(("min_size", "max_size"), sizes(self.endpoint.pool), strict=True)),
            **self.meter.stats(),
        }

    def _busy(self) -> ShardBusy:
        self._observe(Refused(shard=self.shard, endpoint=self.endpoint.name, reason="busy"))
        self.meter.failed("ShardBusy")
        return refusals.busy(self.shard, self.endpoint, self.places.all.in_use, self.places.all.waiting)

    def overdue(self, detail: str) -> DeadlineExceeded:
        """The error of a caller that got no connection in time."""
        self.meter.timed_out()
        return refusals.overdue(self.shard, self.endpoint, detail, self._connector.error)


def _let_go(error: BaseException | None) -> None:
    """Part an error from the frames that it went through: the pool's own refers to itself, and would keep for long what
    they refer to."""
    while error is not None:
        error.__traceback__, error = None, error.__context__
