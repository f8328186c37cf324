"""Checks in the background whether a server is there: callers are never the ones who find out."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..._endpoint.breaker import Breaker, is_alive, is_timeout
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.tasks import AsyncNap, async_spawn
from ..._runtime.watchdog import AsyncWatchdog
from ...control.own_sql import qualified
from .connector import AsyncConnector

_log = logging.getLogger("shardpool")

# Seconds between two checks of a server that is not well, jittered between the two: back is noticed within a second.
_SOONEST, _LATEST = 0.15, 0.3
# Seconds between two checks of a node whose role or lag has to be known.
_PERIOD = 0.4
# Seconds that a check may take at least and at most: many times what connecting usually takes. With every fourth check
# of a server that is not well another is begun that has the time of a caller, for one that has become slow.
_SHORTEST, _LONGEST = 0.5, 1.0
_TIMES_USUAL = 10
# Seconds of a check after which nobody waits for a place of its endpoint any more, at least.
_SILENT = 0.1
_PATIENT = 4
# Seconds between two suspicions: of those that find the server well each next one comes later, unless its pool gives
# nobody a connection all the same.
_CALM_MIN, _CALM_MAX = 0.25, 2.0
# Timeouts in a row after which a node that nobody uses counts as not there.
_MISSED = 2

_STATE_QUERY = qualified("""
    select in_recovery,
           (case when in_recovery then pg_catalog.pg_last_wal_replay_lsn() else pg_catalog.pg_current_wal_lsn() end)
             - '0/0'::pg_catalog.pg_lsn,
           case when in_recovery then null
                else pg_catalog.concat('x', pg_catalog.left(
                    pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 8))::bit(32)::integer end
    from (select pg_catalog.pg_is_in_recovery() as in_recovery) r
""")


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """What a node told: `lsn` in bytes of WAL, written by a primary or replayed by a standby; a primary's timeline."""

    at: float
    is_standby: bool
    lsn: int | None
    timeline: int


# Told what a check has seen, and when it began in monotonic seconds.
Report = Callable[[HealthCheck | None, float], None]


class Monitored(Protocol):
    """The endpoint that is monitored: what is asked of it, and what it is told."""

    name: str
    answered_at: float
    breaker: Breaker
    watchdog: AsyncWatchdog

    @property
    def retired(self) -> bool: ...

    @property
    def is_starving(self) -> bool: ...

    def is_well(self) -> None: ...

    def trip(self, cause: BaseException) -> None: ...


class AsyncMonitor:
    """One health check after another of the server of one endpoint, for as long as there is a reason.

    The reasons: a call has been going on for long (`check_soon`), the breaker is open (`wake`), or somebody has to know
    the node's role and position all the time (`follow`).
    """

    def __init__(self, pool: Monitored, connector: AsyncConnector) -> None:
        self._pool = pool
        self._connector = connector
        self._nap = AsyncNap()
        self._lock = threading.Lock()
        self._running = False
        self._suspicious = False
        self._missed = 0
        self._checks = 0
        self._patient = False
        self._calm_until = 0.0
        self._calm = 0.0
        # Since when a check that somebody's suspicion has begun is under way; monotonic seconds, 0 when none is.
        self._checking_since = 0.0
        self._conn: AsyncConnection[Any] | None = None
        self._report: Report | None = None
        self._cancel: Callable[[], None] | None = None

    def check_soon(self, answered_at: float) -> None:
        """Check once, unless the server answered somebody just now, or was checked for the same reason shortly ago."""
        now = monotonic()
        if self._suspicious or now < self._calm_until or now - answered_at < 0.05:
            return
        self._suspicious = True
        self.wake()

    def check_now(self) -> None:
        """Check once, whatever is known."""
        self._suspicious = True
        self.wake()

    @property
    def is_silent(self) -> bool:
        """Whether a check for a suspicion has gone on for longer than is usual by far, and nobody has had an answer."""
        since = self._checking_since
        patience = max(_SILENT, _TIMES_USUAL * self._connector.usual_seconds)
        return 0.0 < since < monotonic() - patience and self._pool.answered_at < since

    def follow(self, report: Report) -> None:
        """After each check tell `report` what the node says, or None when it says nothing, and when the check began."""
        new, self._report = self._report is None, report
        if new:
            self.wake()

    @property
    def follows(self) -> bool:
        return self._report is not None

    def wake(self) -> None:
        """Check now."""
        with self._lock:
            if self._running:
                self._nap.wake()
                return
            self._running = True
        try:
            self._cancel = async_spawn(self._run, f"shardpool-monitor-{self._pool.name}")
        except RuntimeError:
            # No thread is to be had: the next one who wants a check tries again.
            self._running = self._suspicious = False

    def keep_checking(self) -> None:
        """Check, unless that is under way: for those who find the breaker open, so that it never stays so for good."""
        if not self._running:
            self.wake()

    def stop(self) -> None:
        """End at the next opportunity; the pool is retired by then."""
        self._nap.wake()
        if self._cancel is not None:
            self._cancel()

    async def _run(self) -> None:
        try:
            while self._goes_on():
                try:
                    await self._check()
                except Exception:
                    _log.exception("a health check of %s failed", self._pool.name)
                if self._is_wanted():
                    refused = self._pool.breaker.is_open
                    await self._nap.sleep(random.uniform(_SOONEST, _LATEST) if refused else _PERIOD)
        except BaseException:
            self._running = False
            raise
        finally:
            conn, self._conn = self._conn, None
            if conn is not None:
                await conn.close()

    def _is_wanted(self) -> bool:
        return not self._pool.retired and (self._suspicious or self._pool.breaker.is_open or self._report is not None)

    def _goes_on(self) -> bool:
        with self._lock:
            self._running = self._is_wanted()
            return self._running

    async def _check(self) -> None:
        begun = monotonic()
        suspicious = self._suspicious
        self._checking_since = begun if suspicious else 0.0
        try:
            check = await self._ask(begun)
        except Exception as error:
            # Whatever it is, also of a class or a function of the user: a check that fails is followed by another.
            self._failed(error, begun, suspicious)
            check = None
        else:
            self._missed = self._checks = 0
            self._pool.is_well()
            if suspicious:
                self._calm = _CALM_MIN if self._pool.is_starving else min(max(2 * self._calm, _CALM_MIN), _CALM_MAX)
        finally:
            self._checking_since = 0.0
        self._calm_until = monotonic() + self._calm
        self._suspicious = False
        if self._report is not None:
            self._report(check, begun)

    def _failed(self, error: Exception, begun: float, suspicious: bool) -> None:
        self._calm = 0.0
        if is_alive(error):
            return
        self._missed += 1
        self._checks += 1
        if self._checks % _PATIENT == 0 and not self._patient and is_timeout(error):
            self._patient = True
            try:
                async_spawn(self._check_patiently, f"shardpool-check-{self._pool.name}")
            except RuntimeError:
                self._patient = False
        # Calls that have had answers meanwhile show that it is the check that was slow.
        if self._pool.answered_at > begun:
            return
        if suspicious or self._missed >= _MISSED or not is_timeout(error):
            self._pool.trip(error)

    async def _ask(self, begun: float) -> HealthCheck:
        if self._conn is not None:
            try:
                return await self._state(self._conn, Deadline(begun + self._seconds()))
            except psycopg.Error:
                # Lost since the last check, maybe long ago: that says nothing of now.
                conn, self._conn = self._conn, None
                await conn.close()
        conn = await self._connector.connect_apart(self._seconds())
        try:
            check = await self._state(conn, deadline_after(self._seconds()))
        except BaseException:
            await conn.close()
            raise
        if self._report is None or self._pool.retired:
            await conn.close()
        else:
            self._conn = conn
        return check

    async def _state(self, conn: AsyncConnection[Any], until: Deadline) -> HealthCheck:
        """What the server says on this connection, or psycopg's error; the answer comes by `until`."""
        at = monotonic()
        watch = self._pool.watchdog.watch(conn, until)
        try:
            cursor = conn.cursor(row_factory=tuple_row)
            await cursor.execute(_STATE_QUERY)
            row = await cursor.fetchone()
        finally:
            cut = not self._pool.watchdog.release(watch)
        if cut or row is None:
            raise psycopg.errors.ConnectionTimeout("the server does not answer")
        return HealthCheck(at, row[0], None if row[1] is None else int(row[1]), row[2] or 0)

    async def _check_patiently(self) -> None:
        try:
            conn = await self._connector.connect_apart(self._connector.connect_seconds)
            await conn.close()
        except Exception:
            pass
        else:
            self._pool.is_well()
        finally:
            self._patient = False

    def _seconds(self) -> float:
        usual, longest = self._connector.usual_seconds, self._connector.connect_seconds
        if not usual:
            # Nobody has been let in yet: how long that takes is not known.
            return min(_LONGEST, longest) if self._pool.breaker.is_open else longest
        return min(max(_TIMES_USUAL * usual, _SHORTEST), _LONGEST, longest)
