# Generated from _async/cancelling.py by tools/unasync.py: edit that one, then run `make sync`.
"""What is done with connections in the middle of an answer that nobody wants any more."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from time import monotonic
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.pq import TransactionStatus

from .._concurrency import Overdue, drive_flow
from .._flow import cancelled

# Seconds for each attempt: a request that comes before its server has begun is lost, and is made again.
_ATTEMPTS = (0.05, 0.1, 0.2, 0.4)
_SINCE = 170000


def give_up(conns: Iterable[Connection[Any]], attempts: int = len(_ATTEMPTS)) -> None:
    """Cancel what runs on the connections and make them ready for others; those that do not answer are closed."""
    busy = [conn for conn in conns if conn.pgconn.transaction_status == TransactionStatus.ACTIVE]
    if psycopg.pq.version() >= _SINCE:
        for seconds in _ATTEMPTS[:attempts]:
            if not busy:
                return
            with suppress(Overdue, psycopg.Error):
                drive_flow(cancelled(busy), monotonic() + seconds)
            busy = [conn for conn in busy if conn.pgconn.transaction_status == TransactionStatus.ACTIVE]
    for conn in busy:
        conn.close()
