"""When calls to an endpoint are refused at once: after failures in a row, until a check has found it well again."""

from __future__ import annotations

import psycopg

from ..errors import ShardUnavailable
from .attempt import Unanswered

# Failures in a row, of connecting or of connections, after which it opens.
THRESHOLD = 3
# Classes and codes that say the server will not serve us, whoever asks: it opens at the first.
# 28: wrong role or password; 3D000: no such database; 57P03: starting up or shutting down.
_HOPELESS = ("28", "3D000", "57P03")
# 53300: too many connections. The server is well, and so are the connections that there are.
_WELL = ("53300",)


class Breaker:
    """Closed until it opens. Not locked: opened twice at once it is opened once too often, and no harm is done."""

    __slots__ = ("cause", "failures", "opened_at")

    def __init__(self) -> None:
        self.cause: BaseException | None = None
        self.failures = 0
        self.opened_at = 0.0

    @property
    def is_open(self) -> bool:
        return self.cause is not None

    def counts(self, error: BaseException) -> bool:
        """Count a failure; whether it is one too many."""
        if is_alive(error):
            return False
        self.failures += 1
        return self.failures >= THRESHOLD or is_hopeless(error)

    def open(self, cause: BaseException, now: float) -> None:
        self.opened_at = now
        self.cause = cause

    def close(self) -> None:
        self.failures = 0
        self.cause = None


def is_hopeless(error: BaseException) -> bool:
    """Whether the next call will fail for the same reason: not let in, or not the right server."""
    if isinstance(error, ShardUnavailable):
        return not isinstance(error, Unanswered)
    return _sqlstate(error).startswith(_HOPELESS)


def is_timeout(error: BaseException) -> bool:
    """Whether nothing was heard of the server."""
    return isinstance(error, Unanswered | psycopg.errors.ConnectionTimeout)


def is_alive(error: BaseException) -> bool:
    """Whether the error is the answer of a server that is well."""
    return _sqlstate(error).startswith(_WELL)


def _sqlstate(error: BaseException) -> str:
    """libpq gives no SQLSTATE for what a server answers to a connection: there it is told by its words."""
    if not isinstance(error, psycopg.Error):
        return ""
    if error.sqlstate:
        return error.sqlstate
    text = str(error)
    return next((state for words, state in _WORDS if words in text), "")


_WORDS = (
    ("too many clients already", "53300"),
    ("remaining connection slots are reserved", "53300"),
    ("too many connections for", "53300"),
    ("password authentication failed", "28P01"),
    ("authentication failed", "28000"),
    ("no pg_hba.conf entry", "28000"),
    ("the database system is starting up", "57P03"),
    ("the database system is shutting down", "57P03"),
    ("the database system is in recovery mode", "57P03"),
    ("the database system is not yet accepting connections", "57P03"),
)
