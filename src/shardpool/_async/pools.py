"""The pool of one endpoint: a bounded number of callers, a deadline for each, and nothing opened before it is used."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus
from psycopg_pool import AsyncConnectionPool, PoolClosed, PoolTimeout

from .. import _refusals
from .._breaker import Breaker
from .._concurrency import async_heeded, async_spawn, async_uninterrupted
from .._idle import async_put_idle, async_take_idle
from .._liveness import GIVEN_BACK, IDLE_SECONDS, has_gone
from .._meter import TAKEN
from .._session import SESSION, is_touched
from .._slots import PLACE, AsyncSlots, Place, QueueFull, SentAway
from .._watchdog import AsyncWatchdog
from ..errors import DeadlineExceeded, ShardBusy, ShardError, ShardUnavailable, first_line
from ..events import BreakerClosed, BreakerOpened, DeadlineCut, Refused, Retried
from ..topology import Endpoint, PoolSettings, Topology
from . import session
from .connector import AsyncConnectOptions, AsyncConnector
from .lookout import AsyncLookout

_log = logging.getLogger("shardpool")

# How long a caller sleeps in psycopg_pool before it looks whether the connection it waits for has failed.
_SHORTEST_WAIT = 0.02
_LONGEST_WAIT = 0.2
# What the rollback of a transaction that was left open may take.
_ROLLBACK_SECONDS = 1.0
# Nothing to roll back, and nothing left to roll back on.
_AT_REST = (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)


class Retired(Exception):
    """The pool was replaced by a reload between the look-up and its use: look it up again."""


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
        self.watchdog = watchdog
        # What `connection()` gives; every other verb sets its own mode when it takes a connection.
        self.autocommit = bool(options.kwargs.get("autocommit", False))
        self.name = f"{topology.fleet}/{shard}/{endpoint.name}"
        self.retired = False
        self._options = options
        self._connector = AsyncConnector(topology, shard, endpoint, options, watchdog)
        self._connector.on_failure = self._connect_failed
        self._slots = AsyncSlots(endpoint.pool.max_size, endpoint.pool.max_waiting)
        self._scatter_slots = AsyncSlots(scatter_size(endpoint.pool), endpoint.pool.max_waiting)
        self._making = threading.Lock()
        self._pool: AsyncConnectionPool[Any] | None = None
        self._observe = options.observers.observe
        self.breaker = Breaker()
        self.lookout = AsyncLookout(self, self._connector)
        # When a call last had its answer, and when a connection was last found broken; monotonic seconds.
        self.answered_at = 0.0
        self._broken_at = 0.0
        # Since when callers have got no connection, if none has had an answer since; monotonic seconds.
        self._starving_since = 0.0
        self.meter = options.meters.of(shard, endpoint.name)

    async def take(self, deadline: float) -> AsyncConnection[Any]:
        """A connection that must be given back with `give`.

        Raises `ShardBusy` at once when the queue is full, `ShardUnavailable` when connecting failed,
        `DeadlineExceeded` at the deadline (monotonic seconds), `Retired` after a reload.
        """
        begun = monotonic()
        place = self._slots.acquire_at_once() if self.breaker.cause is None else None
        if place is None:
            place = await self.reserve(deadline)
        return await self.connect(place, begun, deadline)

    def _is_fresh(self, conn: Any, now: float) -> bool:
        """Whether an idle connection is still there: looked at when nobody has used it for a while, or when another
        was found broken since."""
        given = conn.__dict__[GIVEN_BACK]
        return (now - given < IDLE_SECONDS and given > self._broken_at) or not has_gone(conn)

    def _idle(self) -> Any:
        pool = self._pool
        return None if pool is None else async_take_idle(pool)

    async def reserve(self, deadline: float) -> Place:
        """The first half of `take`: a place among those who may hold a connection."""
        return await self._reserved(self._slots, deadline, "all connections of its pool stayed in use")

    async def reserve_for_scatter(self, deadline: float) -> Place:
        """`reserve` for a call on many shards, which may not have all the places."""
        beside = await self._reserved(
            self._scatter_slots, deadline, "all connections that calls on many shards may have stayed in use"
        )
        try:
            place = await self.reserve(deadline)
            place.beside = beside
            return place
        except BaseException:
            beside.free()
            raise

    async def _reserved(self, slots: AsyncSlots, deadline: float, why_late: str) -> Place:
        if self.breaker.cause is not None:
            raise self.refusal()
        place = slots.acquire_at_once()
        if place is not None:
            return place
        if self.lookout.is_silent:
            raise self.refusal()
        try:
            return await slots.acquire(deadline)
        except QueueFull:
            raise self._busy() from None
        except SentAway:
            raise self._sent_away() from None
        except TimeoutError:
            raise self.overdue(why_late) from None

    @property
    def is_warm(self) -> bool:
        """Whether `connect` will find a connection ready, most likely."""
        # The pool's own deque: get_stats(), which says the same, makes two dictionaries.
        return self._pool is not None and len(self._pool._pool) > 0

    async def give(self, conn: AsyncConnection[Any]) -> None:
        """Undo what the caller has left, and back into the pool, which replaces what is broken.

        What takes more than a moment goes on to its end when the caller is cancelled.
        """
        place = conn.__dict__[PLACE]
        given = False
        try:
            given = self._give_at_once(conn, place)
        finally:
            if not given:
                # Cancelled in a rollback, psycopg first asks the server to cancel it, for seconds when that is frozen.
                await async_uninterrupted(partial(self._give_slowly, conn), place)

    def _give_at_once(self, conn: AsyncConnection[Any], place: Place) -> bool:
        """Give back what is well, and waited for by nobody; False for what takes longer. Once more does nothing."""
        attributes = conn.__dict__
        if attributes[PLACE] is not place:
            return True
        now = monotonic()
        attributes[GIVEN_BACK] = now
        status = conn.pgconn.transaction_status
        if status != TransactionStatus.UNKNOWN:
            self.answered_at = now
            if self.breaker.failures and not self.breaker.is_open:
                self.breaker.failures = 0
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
            given = async_put_idle(conn._pool, conn, now)
        finally:
            if given:
                place.free()
            else:
                attributes[PLACE] = place
        return given

    async def _give_slowly(self, conn: AsyncConnection[Any], place: Place) -> None:
        if conn.__dict__[PLACE] is not place:
            return
        pool: Any = conn._pool
        try:
            # A closed pool closes what it is given.
            if conn.pgconn.transaction_status != TransactionStatus.UNKNOWN and not pool.closed:
                await self._roll_back(conn)
        finally:
            conn.__dict__[PLACE] = None
            try:
                await _put(pool, conn)
            finally:
                place.free()

    async def _roll_back(self, conn: AsyncConnection[Any]) -> None:
        """Within a bound: psycopg_pool's own rollback would wait for a frozen server for good."""
        watch = self.watchdog.watch(conn, monotonic() + _ROLLBACK_SECONDS, self)
        try:
            with suppress(psycopg.Error):
                await conn.rollback()
            await self._clean(conn)
        finally:
            cut = not self.watchdog.release(watch)
            if cut or conn.pgconn.transaction_status != TransactionStatus.IDLE:
                await conn.close()

    async def _clean(self, conn: AsyncConnection[Any]) -> None:
        if conn.pgconn.transaction_status == TransactionStatus.IDLE and is_touched(conn):
            try:
                await session.clean(conn, self._options.configure, self.autocommit)
            except Exception as error:
                # Also an error of configure(): whoever comes next makes a connection, and is told.
                _log.warning("a connection to %s could not be reset: %s", self.name, first_line(error))
                await conn.close()

    async def connect(self, place: Place, begun: float, deadline: float) -> AsyncConnection[Any]:
        """The second half of `take`, which has `begun` then: a connection for a place; when it fails, that is free."""
        try:
            conn = self._idle()
            if conn is None or not self._is_fresh(conn, monotonic()):
                conn = await self._connected(conn, deadline)
            attributes = conn.__dict__
            attributes[PLACE] = place
            attributes[TAKEN] = (begun, monotonic())
            return cast("AsyncConnection[Any]", conn)
        except BaseException:
            place.free()
            raise

    async def _connected(self, gone: AsyncConnection[Any] | None, deadline: float) -> AsyncConnection[Any]:
        """A connection that is made, or given back meanwhile; in the place of one that has `gone`, if there is one."""
        if gone is not None:
            await async_uninterrupted(_replaced, gone)
        pool = self._pool
        if pool is None or pool.closed:
            pool = await self._open()
        connector = self._connector
        if connector.error is not None and connector.is_pausing and not self.is_warm and not self.retired:
            raise self._unavailable(connector.error)
        failures = connector.failures
        wait = _SHORTEST_WAIT
        counted: int | None = None
        while True:
            now = monotonic()
            left = deadline - now
            try:
                conn: Any = await async_heeded(partial(pool.getconn, wait if left > wait else left), pool.putconn)
                if self._is_fresh(conn, now):
                    return cast("AsyncConnection[Any]", conn)
                await async_uninterrupted(_replaced, conn)
                continue
            except PoolClosed:
                if self.breaker.is_open:
                    raise self.refusal() from None
                pool = await self._open()
                continue
            except PoolTimeout as late:
                _let_go(late)
                wait = min(2 * wait, _LONGEST_WAIT)
                counted = await self._recounted(pool, counted)
            if self.retired:
                raise Retired
            if connector.failures != failures and connector.error is not None:
                raise self._unavailable(connector.error)
            if left <= 0:
                if self._starving_since <= self.answered_at:
                    self._starving_since = now
                self.suspect()
                raise self.overdue("no connection could be made in time")
            if wait >= _LONGEST_WAIT:
                self.suspect()

    async def _recounted(self, pool: AsyncConnectionPool[Any], before: int | None) -> int | None:
        """How many connections the pool has, or None while it makes one; it is told when it was as many `before`.

        An interrupt in the midst of the pool's own doings makes it count one that is not there, or is not being made.
        """
        if self._connector.connecting or not pool._tasks.empty():
            return None
        counted = len(pool._pool) + sum(conn._pool is pool for conn in self._connector.made())
        if counted == before and counted < pool._nconns:
            async with pool._lock:
                pool._nconns = counted
                pool._growing = False
        elif counted == before and counted >= pool.max_size:
            # There are as many places as connections, and one who asks here has a place: something that is garbage
            # refers to a connection, and has not been collected.
            gc.collect()
        return counted

    # -- health --------------------------------------------------------------------------------------------------

    def suspect(self) -> None:
        """A call goes on for long: look whether the server is there, unless it has just answered another.

        While it does not answer the look either, nobody waits for a place: threads that are shared with other shards
        are not kept from them until the look has failed.
        """
        if not self.breaker.is_open and not self.retired:
            self.lookout.look_soon(self.answered_at)
            if self.lookout.is_silent:
                self._slots.send_away()
                self._scatter_slots.send_away()

    def was_cut(self) -> None:
        """A call was ended at its deadline: it may have been slow, or the server is gone without a word."""
        self._observe(DeadlineCut(shard=self.shard, endpoint=self.endpoint.name))
        self._broken_at = monotonic()
        if self.breaker.is_open:
            return
        if self.breaker.counts(TimeoutError("no answer in time")):
            # A look says whether the server is there; whether these connections still lead to it, it does not.
            self.breaker.failures = 0
            self.discard()
        self.lookout.look_now()

    def retried(self, error: BaseException) -> None:
        """A call that lost its connection is made once more."""
        state = error.sqlstate if isinstance(error, psycopg.Error) else None
        self._observe(Retried(shard=self.shard, endpoint=self.endpoint.name, sqlstate=state))

    def was_lost(self, error: BaseException | None) -> None:
        """A call lost its connection, or was told that it is not the primary's."""
        self._broken_at = monotonic()
        if error is not None and self.breaker.counts(error):
            self.trip(error)

    def _connect_failed(self, error: Exception) -> None:
        if not self.retired and self.breaker.counts(error):
            self.trip(error)

    def trip(self, cause: BaseException) -> None:
        """Refuse calls from now on, and close what is idle; the lookout will find when all is well again."""
        if self.breaker.is_open or self.retired:
            return
        self.breaker.open(cause, monotonic())
        self._observe(BreakerOpened(shard=self.shard, endpoint=self.endpoint.name, cause=first_line(cause)))
        self.discard()
        self._slots.send_away()
        self._scatter_slots.send_away()
        self.lookout.wake()

    async def drain(self) -> None:
        """Replace every connection, those in use when they are given back: what they have prepared is out of date."""
        pool = self._pool
        if pool is not None and not pool.closed:
            await async_uninterrupted(AsyncConnectionPool.drain, pool)

    def discard(self) -> None:
        """Close the idle connections in the background, and those in use when they are given back."""
        self._connector.give_up()
        with self._making:
            pool, self._pool = self._pool, None
        if pool is not None:
            # When no thread is to be had the pool is closed as it is collected.
            with suppress(RuntimeError):
                async_spawn(partial(_closed, pool), f"shardpool-close-{self.name}")

    def is_well(self) -> None:
        """The lookout has been let in by the right server, and had its answer."""
        self._connector.is_well()
        if self.is_starving and monotonic() - self._starving_since > 2 * self._connector.connect_seconds:
            # It is the pool then: an interrupt in the middle of its doings has cost it its connections, or its worker.
            self._starving_since = 0.0
            self.discard()
        if self.breaker.is_open:
            seconds = monotonic() - self.breaker.opened_at
            self.breaker.close()
            self._observe(BreakerClosed(shard=self.shard, endpoint=self.endpoint.name, seconds=seconds))

    @property
    def is_starving(self) -> bool:
        """Whether callers have got no connection in time, and nobody has had an answer since."""
        return self._starving_since > self.answered_at

    def refusal(self) -> ShardError:
        """The error of a call that is refused since the breaker is open."""
        if self.breaker.is_open:
            self.lookout.keep_looking()
        self._observe(Refused(shard=self.shard, endpoint=self.endpoint.name, reason="unavailable"))
        cause = self.breaker.cause
        return self._unavailable(cause if isinstance(cause, Exception) else ConnectionError("it does not answer"))

    def _sent_away(self) -> Exception:
        return Retired() if self.retired else self.refusal()

    # -- the pool of psycopg_pool --------------------------------------------------------------------------------

    async def _open(self) -> AsyncConnectionPool[Any]:
        """The open pool, made anew when there is none, or when it was closed under us; `Retired` after `close`."""
        while not self.retired:
            pool = self._unopened()
            try:
                await async_heeded(pool.open, _kept)
            except PoolClosed:
                continue
            except Exception:
                if self._pool is pool:
                    self._pool = None
                await async_uninterrupted(_closed, pool)
                raise
            # Looked at again: a close() that came meanwhile has found nothing open to close.
            if not self.retired:
                return pool
            await pool.close()
        raise Retired

    def _unopened(self) -> AsyncConnectionPool[Any]:
        """The pool that callers open together. psycopg_pool opens none again that was closed."""
        with self._making:
            if self._pool is None or (self._pool._opened and self._pool.closed):
                self._pool = self._make()
            return self._pool

    def _make(self) -> AsyncConnectionPool[Any]:
        settings = self.endpoint.pool
        return AsyncConnectionPool(
            connection_class=cast(Any, self._connector),
            kwargs={"in_worker": True},
            min_size=_sizes(settings)[0],
            max_size=_sizes(settings)[1],
            name=self.name,
            open=False,
            max_lifetime=settings.max_lifetime,
            max_idle=settings.max_idle,
            # A connection that cannot be made is tried again by the next caller, not by psycopg_pool's back-off,
            # which has no cap.
            reconnect_timeout=0,
            num_workers=1,
        )

    def can_go_on_as(self, endpoint: Endpoint) -> bool:
        """Whether nothing has changed but the number of connections."""
        pool = replace(endpoint.pool, min_size=self.endpoint.pool.min_size, max_size=self.endpoint.pool.max_size)
        return not self.retired and replace(endpoint, pool=pool) == self.endpoint

    def adopt(self, topology: Topology, endpoint: Endpoint) -> None:
        """Go on under a new topology; `resize` then makes the pool follow."""
        self.endpoint = endpoint
        self._connector.adopt(topology)
        if isinstance(self.breaker.cause, ShardUnavailable):
            # Refused for what the old topology said: the new one may be right.
            self.is_well()
        elif self.breaker.is_open:
            self.lookout.wake()
        self._slots.resize(endpoint.pool.max_size)
        self._scatter_slots.resize(scatter_size(endpoint.pool))

    async def resize(self) -> None:
        """Give the open pool the size that the endpoint has now."""
        settings = self.endpoint.pool
        pool = self._pool
        if pool is not None and not pool.closed and (pool.min_size, pool.max_size) != _sizes(settings):
            await pool.resize(*_sizes(settings))

    async def close(self, timeout: float = 2.0) -> None:
        """Close the idle connections now, those in use when they are given back. Waits at most `timeout` seconds."""
        self.retired = True
        # They go on in the pool that has come in its place: here the connections in use may stay so for long.
        self._slots.send_away()
        self._scatter_slots.send_away()
        self.lookout.stop()
        self._connector.give_up()
        if self._pool is not None:
            await self._pool.close(timeout=timeout)

    def start_afresh(self, watchdog: AsyncWatchdog) -> AsyncConnectionPool[Any] | None:
        """For a forked child: forget the parent's pool; the caller gets it, and must keep it from being closed."""
        old = self._pool
        self._pool = None
        self.watchdog = self._connector.watchdog = watchdog
        self._making = threading.Lock()
        self._slots = AsyncSlots(self.endpoint.pool.max_size, self.endpoint.pool.max_waiting)
        self._scatter_slots = AsyncSlots(scatter_size(self.endpoint.pool), self.endpoint.pool.max_waiting)
        self.breaker = Breaker()
        self.lookout = AsyncLookout(self, self._connector)
        return old

    @property
    def in_flight(self) -> int:
        return self._slots.in_use

    @property
    def is_failing(self) -> bool:
        """Whether the last attempt to connect failed, or calls are refused."""
        return self._connector.error is not None or self.breaker.is_open

    @property
    def seen_epoch(self) -> int:
        """The newest epoch of an owner that a server of this endpoint has told."""
        return self._connector.seen_epoch

    def stats(self) -> dict[str, Any]:
        """psycopg_pool's counters (absent ones are 0) with `in_flight`, `waiting` and the last connection error."""
        error = self.breaker.cause or self._connector.error
        return {
            "role": self.endpoint.role,
            "state": "open" if self.breaker.is_open else "closed",
            "address": self.endpoint.address,
            "opened": self._pool is not None,
            "in_flight": self._slots.in_use,
            "waiting": self._slots.waiting,
            "connect_failures": self._connector.failures,
            "last_error": first_line(error) if error is not None else None,
            "pool": self._pool.get_stats() if self._pool is not None else {},
            "limits": {"min_size": _sizes(self.endpoint.pool)[0], "max_size": _sizes(self.endpoint.pool)[1]},
            **self.meter.stats(),
        }

    def _unavailable(self, cause: Exception) -> ShardError:
        self.meter.failed("ShardUnavailable")
        return _refusals.unavailable(self.shard, self.endpoint, cause)

    def _busy(self) -> ShardBusy:
        self._observe(Refused(shard=self.shard, endpoint=self.endpoint.name, reason="busy"))
        self.meter.failed("ShardBusy")
        return _refusals.busy(self.shard, self.endpoint, self._slots.in_use, self._slots.waiting)

    def overdue(self, detail: str) -> DeadlineExceeded:
        """The error of a caller that got no connection in time."""
        self.meter.timed_out()
        return _refusals.overdue(self.shard, self.endpoint, detail, self._connector.error)


def scatter_size(settings: PoolSettings) -> int:
    """How many of a pool's connections calls on many shards may hold: a fifth, at least one, is left to the others."""
    return max(1, settings.max_size - max(1, settings.max_size // 5))


async def _kept(_: None) -> None:
    """A pool that has been opened for one who is gone by now is there for the next."""


async def _closed(pool: AsyncConnectionPool[Any]) -> None:
    await pool.close(timeout=5)


def _let_go(error: BaseException | None) -> None:
    """Part an error from the frames that it went through: the pool's own refers to itself, and would keep for long what
    they refer to."""
    while error is not None:
        error.__traceback__, error = None, error.__context__


async def _put(pool: AsyncConnectionPool[Any], conn: AsyncConnection[Any]) -> None:
    try:
        await pool.putconn(conn)
    except BaseException:
        # Interrupted: the pool still counts a connection that nobody holds. It takes a closed one
        # without waiting for anything, and so without being interrupted again.
        if getattr(conn, "_pool", None) is not None:
            await conn.close()
            await pool.putconn(conn)
        raise


async def give_all(
    taken: Iterable[tuple[AsyncEndpointPool, AsyncConnection[Any]]],
    make_ready: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Give back what a call on many shards has held; before, `make_ready` is called if something is not at rest.

    What takes more than a moment goes on to its end when the caller is cancelled.
    """
    held = [(pool, conn, conn.__dict__[PLACE]) for pool, conn in taken]
    given = False
    try:
        given = all(conn.pgconn.transaction_status in _AT_REST for _, conn, _ in held) and all(
            pool._give_at_once(conn, place) for pool, conn, place in held
        )
    finally:
        if not given:
            await async_uninterrupted(partial(_give_each, make_ready), held)


async def _give_each(
    make_ready: Callable[[], Awaitable[None]] | None,
    held: list[tuple[AsyncEndpointPool, AsyncConnection[Any], Place]],
) -> None:
    """Over an interrupt too, which is raised when the last is back."""
    interrupt: BaseException | None = None
    try:
        if make_ready is not None:
            await make_ready()
    except BaseException as error:
        interrupt = error
    for pool, conn, place in held:
        try:
            if not pool._give_at_once(conn, place):
                await pool._give_slowly(conn, place)
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


async def _replaced(conn: AsyncConnection[Any]) -> None:
    """Have its pool make another in the place of one that has gone."""
    await conn.close()
    await cast("AsyncConnectionPool[Any]", conn._pool).putconn(conn)


def _sizes(settings: PoolSettings) -> tuple[int, int]:
    return min(settings.min_size, settings.max_size), settings.max_size
