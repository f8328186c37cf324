"""What is done with connections in the middle of an answer that nobody wants any more."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from ..._endpoint.attempt import is_pooled
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.drivers import Overdue, async_drive_flow
from ..._wire.flow import CancelRequest, cancelled

# Seconds for each attempt: a request that comes before its server has begun is lost, and is made again.
_ATTEMPTS = (0.05, 0.1, 0.2, 0.4)
_MORE = (0.8, 1.6, 3.2, 6.4)
_SINCE = 170000
# Seconds for the only attempt when the deadline has passed: a caller is told at most a tenth of a second after it.
_MOMENT = 0.03


async def give_up(conns: Iterable[AsyncConnection[Any]], until: Deadline, *, patiently: bool = False) -> None:
    """Cancel what runs on the connections and make them ready for others; those that do not answer are closed.

    So are those whose request to cancel may come late, and would end what the next caller runs.
    Takes no longer than to `until` (monotonic seconds), or for a moment when that has passed; `patiently`, where a
    connection that is closed is a loss, longer than a second if it has to.
    """
    asked: dict[Any, CancelRequest] = {}
    cancelling = busy = _busy(conns)
    try:
        if psycopg.pq.version() >= _SINCE:
            until = max(until, deadline_after(_MOMENT))
            for seconds in (*_ATTEMPTS, *(_MORE if patiently else ())):
                if not busy or monotonic() >= until:
                    break
                with suppress(Overdue, psycopg.Error):
                    await async_drive_flow(cancelled(busy, asked), min(until, deadline_after(seconds)))
                busy = _busy(busy)
    finally:
        for conn in cancelling:
            if conn in asked or conn in busy or is_pooled(conn):
                await conn.close()


def _busy(conns: Iterable[AsyncConnection[Any]]) -> list[AsyncConnection[Any]]:
    return [conn for conn in conns if conn.pgconn.transaction_status == TransactionStatus.ACTIVE]
