# Generated from _async/work/members.py by tools/unasync.py: edit that one, then run `make sync`.
"""The shards that a transaction has joined: statements to several of them at once, and what comes of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import Connection
from psycopg.pq import TransactionStatus

from ..._runtime.deadlines import Deadline
from ..._runtime.drivers import drive
from ..._wire.participant import Command
from ..._wire.request import Request
from ..._wire.statement import Statement
from ...errors import DeadlineExceeded
from .checkout import Checkout
from .joined import Joined
from .outcomes import overdue, several

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet

_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)


class Members:
    """Their checkouts by name, and whether what was said to them all has failed on some."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.checkouts: dict[str, Checkout] = {}
        self.has_failed = False

    def joined(self) -> Joined:
        """All of them."""
        return Joined(self._fleet, self.checkouts)

    def tell(self, texts: Mapping[str, bytes], deadline: Deadline) -> None:
        """Say something to some of them, without an answer that counts."""
        self.run({name: Statement(text, None) for name, text in texts.items()}, deadline)

    def run(self, statements: Mapping[str, Statement], deadline: Deadline) -> list[Request]:
        """A statement on each of some, with its answer; raises what has failed, and notes that."""
        requests: list[Request] = [self.command(name, statement.text) for name, statement in statements.items()]
        self.drive(requests, deadline)
        failures = self.joined().failures(requests, may_be_applied=False)
        if failures:
            self.has_failed = True
            raise next(iter(failures.values())) if len(failures) == 1 else several(failures, len(statements))
        return requests

    def command(self, name: str, text: bytes) -> Request:
        """A text for one of them, not sent yet."""
        checkout = self.checkouts[name]
        return Command(name, checkout.conn, Statement(text, None), overdue(name, checkout.pool, reads=True))

    def drive(self, requests: Sequence[Request], deadline: Deadline) -> None:
        """Send what was made ready, and wait for the answers; each keeps its own error."""
        drive(((request.pgconn.socket, request.step()) for request in requests), deadline)
        for request in requests:
            if not request.reusable and isinstance(request.error, DeadlineExceeded):
                request.conn.close()


def is_unusable(conn: Connection[Any]) -> bool:
    """Whether nothing can be sent on it."""
    return conn.closed or conn.pgconn.transaction_status in (TransactionStatus.UNKNOWN, TransactionStatus.ACTIVE)


def is_open(conn: Connection[Any]) -> bool:
    """Whether a transaction is open on it."""
    return conn.pgconn.transaction_status in _OPEN


def is_busy(conn: Connection[Any]) -> bool:
    """Whether a statement runs on it."""
    return conn.pgconn.transaction_status == TransactionStatus.ACTIVE
