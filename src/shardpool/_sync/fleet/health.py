# Generated from _async/fleet/health.py by tools/unasync.py: edit that one, then run `make sync`.
"""Whether an endpoint is well: what its calls have come to, its breaker, and its monitor."""

from __future__ import annotations

from time import monotonic
from typing import Any

import psycopg

from ..._endpoint import refusals
from ..._endpoint.breaker import Breaker
from ..._endpoint.liveness import GIVEN_BACK, IDLE_SECONDS, has_gone
from ..._runtime.watchdog import Watchdog
from ...errors import ShardError, ShardUnavailable, first_line
from ...events import BreakerClosed, BreakerOpened, DeadlineCut, Refused, Retried
from ...topology import Endpoint
from .connector import Connector
from .inner_pool import InnerPool
from .monitor import Monitor
from .options import ConnectOptions
from .places import Places


class EndpointHealth:
    """Refuses calls after failures in a row, until the monitor has found the server well again."""

    def __init__(
        self,
        shard: str,
        endpoint: Endpoint,
        connector: Connector,
        inner: InnerPool,
        places: Places,
        options: ConnectOptions,
        watchdog: Watchdog,
    ) -> None:
        self.name = inner.name
        self.endpoint = endpoint
        self.watchdog = watchdog
        self.breaker = Breaker()
        self.monitor = Monitor(self, connector)
        # When a call last had its answer, and when a connection was last found broken; monotonic seconds.
        self.answered_at = 0.0
        self._broken_at = 0.0
        # Since when callers have got no connection, if none has had an answer since; monotonic seconds.
        self._starving_since = 0.0
        self._shard = shard
        self._connector = connector
        self._connector.on_failure = self._connect_failed
        self._inner = inner
        self._places = places
        self._meter = options.meters.of(shard, endpoint.name)
        self._observe = options.observers.observe

    @property
    def retired(self) -> bool:
        return self._inner.retired

    def answered(self, now: float) -> None:
        """A call has had its answer."""
        self.answered_at = now
        if self.breaker.failures and not self.breaker.is_open:
            self.breaker.failures = 0

    def is_fresh(self, conn: Any, now: float) -> bool:
        """Whether an idle connection is still there: looked at when nobody has used it for a while, or when another
        was found broken since."""
        given = conn.__dict__[GIVEN_BACK]
        return (now - given < IDLE_SECONDS and given > self._broken_at) or not has_gone(conn)

    def starved(self, now: float) -> None:
        """A caller got no connection in time."""
        if self._starving_since <= self.answered_at:
            self._starving_since = now
        self.suspect()

    def suspect(self) -> None:
        """A call goes on for long: look whether the server is there, unless it has just answered another.

        While it does not answer the check either, nobody waits for a place: threads that are shared with other shards
        are not kept from them until the check has failed.
        """
        if not self.breaker.is_open and not self.retired:
            self.monitor.check_soon(self.answered_at)
            if self.monitor.is_silent:
                self._places.send_away()

    def was_cut(self) -> None:
        """A call was ended at its deadline: it may have been slow, or the server is gone without a word."""
        self._observe(DeadlineCut(shard=self._shard, endpoint=self.endpoint.name))
        self._broken_at = monotonic()
        if self.breaker.is_open:
            return
        if self.breaker.counts(TimeoutError("no answer in time")):
            # A check says whether the server is there; whether these connections still lead to it, it does not.
            self.breaker.failures = 0
            self._inner.discard()
        self.monitor.check_now()

    def retried(self, error: BaseException) -> None:
        """A call that lost its connection is made once more."""
        state = error.sqlstate if isinstance(error, psycopg.Error) else None
        self._observe(Retried(shard=self._shard, endpoint=self.endpoint.name, sqlstate=state))

    def was_lost(self, error: BaseException | None) -> None:
        """A call lost its connection, or was told that it is not the primary's."""
        self._broken_at = monotonic()
        if error is not None and self.breaker.counts(error):
            self.trip(error)

    def _connect_failed(self, error: Exception) -> None:
        if not self.retired and self.breaker.counts(error):
            self.trip(error)

    def trip(self, cause: BaseException) -> None:
        """Refuse calls from now on, and close what is idle; the monitor will find when all is well again."""
        if self.breaker.is_open or self.retired:
            return
        self.breaker.open(cause, monotonic())
        self._observe(BreakerOpened(shard=self._shard, endpoint=self.endpoint.name, cause=first_line(cause)))
        self._inner.discard()
        self._places.send_away()
        self.monitor.wake()

    def is_well(self) -> None:
        """The monitor has been let in by the right server, and had its answer."""
        self._connector.is_well()
        if self.is_starving and monotonic() - self._starving_since > 2 * self._connector.connect_seconds:
            # It is the pool then: an interrupt in the middle of its doings has cost it its connections, or its worker.
            self._starving_since = 0.0
            self._inner.discard()
        if self.breaker.is_open:
            seconds = monotonic() - self.breaker.opened_at
            self.breaker.close()
            self._observe(BreakerClosed(shard=self._shard, endpoint=self.endpoint.name, seconds=seconds))

    def adopt(self, endpoint: Endpoint) -> None:
        """Go on under a new topology, in which the endpoint is that one."""
        self.endpoint = endpoint
        if isinstance(self.breaker.cause, ShardUnavailable):
            # Refused for what the old topology said: the new one may be right.
            self.is_well()
        elif self.breaker.is_open:
            self.monitor.wake()

    @property
    def is_starving(self) -> bool:
        """Whether callers have got no connection in time, and nobody has had an answer since."""
        return self._starving_since > self.answered_at

    def refusal(self) -> ShardError:
        """The error of a call that is refused since the breaker is open."""
        if self.breaker.is_open:
            self.monitor.keep_checking()
        self._observe(Refused(shard=self._shard, endpoint=self.endpoint.name, reason="unavailable"))
        cause = self.breaker.cause
        return self.unavailable(cause if isinstance(cause, Exception) else ConnectionError("it does not answer"))

    def unavailable(self, cause: Exception) -> ShardError:
        """The error of a call for which no connection can be made, for that cause."""
        self._meter.failed("ShardUnavailable")
        return refusals.unavailable(self._shard, self.endpoint, cause)

    def start_afresh(self, watchdog: Watchdog) -> None:
        """For a forked child: nothing is known yet."""
        self.watchdog = watchdog
        self.breaker = Breaker()
        self.monitor = Monitor(self, self._connector)
