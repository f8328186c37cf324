"""The shards that a transaction has joined: statements to several of them at once, and what comes of those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from ..._runtime.deadlines import Deadline
from ..._runtime.drivers import async_drive
from ..._wire.participant import Command
from ..._wire.request import Request
from ..._wire.statement import Statement
from ...errors import DeadlineExceeded
from .checkout import AsyncCheckout
from .joined import AsyncJoined
from .outcomes import overdue, several

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

_OPEN = (TransactionStatus.INTRANS, TransactionStatus.INERROR)


class AsyncMembers:
    """Their checkouts by name, and whether what was said to them all has failed on some."""

    def __init__(self, fleet: AsyncFleet) -> None:
        self._fleet = fleet
        self.checkouts: dict[str, AsyncCheckout] = {}
        self.has_failed = False

    def joined(self) -> AsyncJoined:
        """All of them."""
        return AsyncJoined(self._fleet, self.checkouts)

    async def tell(self, texts: Mapping[str, bytes], deadline: Deadline) -> None:
        """Say something to some of them, without an answer that counts."""
        await self.run({name: Statement(text, None) for name, text in texts.items()}, deadline)

    async def run(self, statements: Mapping[str, Statement], deadline: Deadline) -> list[Request]:
        """A statement on each of some, with its answer; raises what has failed, and notes that."""
        requests: list[Request] = [self.command(name, statement.text) for name, statement in statements.items()]
        await self.drive(requests, deadline)
        failures = self.joined().failures(requests, may_be_applied=False)
        if failures:
            self.has_failed = True
            raise next(iter(failures.values())) if len(failures) == 1 else several(failures, len(statements))
        return requests

    def command(self, name: str, text: bytes) -> Request:
        """A text for one of them, not sent yet."""
        checkout = self.checkouts[name]
        return Command(name, checkout.conn, Statement(text, None), overdue(name, checkout.pool, reads=True))

    async def drive(self, requests: Sequence[Request], deadline: Deadline) -> None:
        """Send what was made ready, and wait for the answers; each keeps its own error."""
        await async_drive(((request.pgconn.socket, request.step()) for request in requests), deadline)
        for request in requests:
            if not request.reusable and isinstance(request.error, DeadlineExceeded):
                await request.conn.close()


def is_unusable(conn: AsyncConnection[Any]) -> bool:
    """Whether nothing can be sent on it."""
    return conn.closed or conn.pgconn.transaction_status in (TransactionStatus.UNKNOWN, TransactionStatus.ACTIVE)


def is_open(conn: AsyncConnection[Any]) -> bool:
    """Whether a transaction is open on it."""
    return conn.pgconn.transaction_status in _OPEN


def is_busy(conn: AsyncConnection[Any]) -> bool:
    """Whether a statement runs on it."""
    return conn.pgconn.transaction_status == TransactionStatus.ACTIVE
