"""How long a statement may wait for locks, how often it is tried again, and who holds it up."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from ..control.own_sql import qualified
from .steps import shortened


@dataclass(frozen=True, slots=True)
class Limits:
    """Times in seconds; 0 is no limit. A file's own settings go before these.

    While a statement waits for a lock, all who come later wait behind it: so `lock_timeout` is short, and what did not
    get its locks is undone, and tried again `lock_retries` times after a growing pause. `CONCURRENTLY` holds up nobody
    while it waits, and what is broken off leaves an invalid index: its limit is `concurrently_timeout`.
    `wait` is how long another runner on the same shard is waited for.
    """

    lock_timeout: float = 2.0
    lock_retries: int = 10
    statement_timeout: float = 0.0
    concurrently_timeout: float = 3600.0
    wait: float = 300.0


RETRIED = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 15.0


def pause(attempt: int, chance: float) -> float:
    """Seconds before attempt `attempt` (1: the first again); `chance` from 0 to 1 spreads the runners apart."""
    return min(_FIRST_PAUSE * 1.6 ** (attempt - 1), _LONGEST_PAUSE) * (0.5 + 0.5 * chance)


def settings(lock_timeout: float, statement_timeout: float, *, local: bool) -> str:
    """The statements that set these limits, for the transaction or for the session."""
    word = "SET LOCAL" if local else "SET"
    return (
        f"{word} lock_timeout = {round(lock_timeout * 1000)}; "
        f"{word} statement_timeout = {round(statement_timeout * 1000)}; "
        f"{word} idle_in_transaction_session_timeout = 0"
    )


BLOCKERS = qualified("""
SELECT b.pid, a.application_name, a.state,
  pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - a.xact_start)::double precision, a.query
FROM (SELECT DISTINCT pid FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(%s)) u (pid)) b
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
ORDER BY b.pid
""")


@dataclass(frozen=True, slots=True)
class Blocker:
    """A session for whose locks a statement waits; `seconds` is the age of its transaction. pid 0: a prepared one."""

    pid: int
    application: str
    state: str
    seconds: float
    statement: str

    def __str__(self) -> str:
        if self.pid == 0:
            return "a prepared transaction (see pg_prepared_xacts)"
        name = f" ({self.application})" if self.application else ""
        return f"pid {self.pid}{name}, {self.state or 'unknown'} for {self.seconds:.1f} s: {self.statement}"


def blockers(rows: Iterable[Sequence[Any]]) -> tuple[Blocker, ...]:
    """The rows of `BLOCKERS`."""
    return tuple(
        Blocker(pid, application or "", state or "", seconds or 0.0, shortened(query or "", 100))
        for pid, application, state, seconds, query in rows
    )


def named(sessions: Sequence[Blocker]) -> str:
    """All of them in one line."""
    return "; ".join(map(str, sessions)) or "who held the lock is not known"
