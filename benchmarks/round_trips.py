"""No round trip more than a bare pool needs: ReadyForQuery messages counted in libpq's own trace."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

from psycopg import Connection

from shardpool import Router

from .fleet import Fleet
from .harness import Effort
from .query import AUTOCOMMIT, KEY, QUERY
from .rows import Row

_TIMES = 20


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    with tempfile.TemporaryFile() as trace:

        def traced(conn: Connection[Any]) -> None:
            conn.pgconn.trace(trace.fileno())

        def counted(operation: Callable[[], object]) -> float:
            """Answers of the server per operation, once its statement is prepared."""
            for _ in range(_TIMES):
                operation()
            before = _answers(trace.fileno())
            for _ in range(_TIMES):
                operation()
            return (_answers(trace.fileno()) - before) / _TIMES

        for kwargs in (AUTOCOMMIT, {}):
            with Router(fleet.topology(), configure=traced, kwargs=kwargs) as router:
                yield from _rows(router, counted, "autocommit" if kwargs else "BEGIN and COMMIT")


def _rows(router: Router, counted: Callable[[Callable[[], object]], float], mode: str) -> Iterator[Row]:
    route = router.for_key(KEY)
    route.execute(QUERY, (KEY,))
    pool: Any = router._fleet.snapshot.shards[route.shard].primary._inner.current

    def connection() -> object:
        with router.for_key(KEY).connection() as conn:
            return conn.execute(QUERY, (KEY,)).fetchall()

    def transaction() -> object:
        with router.for_key(KEY).transaction() as conn:
            return conn.execute(QUERY, (KEY,)).fetchall()

    def bare() -> object:
        with pool.connection() as conn:
            return conn.execute(QUERY, (KEY,)).fetchall()

    def bare_transaction() -> object:
        with pool.connection() as conn, conn.transaction():
            return conn.execute(QUERY, (KEY,)).fetchall()

    yield _row(f"connection(), {mode}", counted(connection), counted(bare))
    if mode == "autocommit":
        yield _row("transaction()", counted(transaction), counted(bare_transaction))
        yield _row("execute()", counted(lambda: router.for_key(KEY).execute(QUERY, (KEY,)).rows), counted(bare))


def _row(case: str, ours: float, bare: float) -> Row:
    return Row(
        "round_trips", case, f"{ours:g}", f"{bare:g}", "pool", ours / bare, None, "≤ 1x", ours <= bare, rounds=_TIMES
    )


def _answers(descriptor: int) -> int:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0).count(b"ReadyForQuery")
