"""Some of the shards of a transaction, as the participants of one statement in it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from ..._runtime.deadlines import Deadline
from ..._wire.participant import PATIENT, Kept
from ..._wire.request import Request
from ..._wire.statement import Statement
from .checkout import AsyncCheckout
from .outcomes import overdue, several
from .participants import AsyncParticipants
from .transaction import AsyncTransaction, Conflict
from .waiting import AsyncWaiting

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

T = TypeVar("T")

_REPLICA = b"set local session_replication_role"
_AS_BEFORE = b"set local session_replication_role to default"


class AsyncJoined(AsyncParticipants):
    """Some of the shards of a transaction, for one statement: it ends neither them nor their transactions."""

    def __init__(
        self, fleet: AsyncFleet, checkouts: dict[str, AsyncCheckout], waiting: AsyncWaiting | None = None
    ) -> None:
        super().__init__(fleet, checkouts)
        self._waiting = waiting
        self.in_turn = False

    def request(self, name: str, statement: Statement, *, reads: bool = False, again: bool = False) -> Request:
        checkout = self.checkouts[name]
        return Kept(name, checkout.conn, statement, overdue(name, checkout.pool, reads=True))

    def failures(self, requests: Sequence[Request], *, may_be_applied: bool) -> dict[str, BaseException]:
        errors = super().failures(requests, may_be_applied=may_be_applied)
        return errors if self._waiting is None else {name: self._waiting.meant(error) for name, error in errors.items()}

    def is_repeated(self, query: Any, failures: Mapping[str, BaseException]) -> bool:
        return False

    async def end(self, make_ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """They go on."""


class AsyncPart(AsyncTransaction):
    """A write in a transaction that goes on: nothing is begun, undone, or done again."""

    async def settled(self, work: Callable[[], Awaitable[T]]) -> T:
        try:
            return await work()
        except Conflict as conflict:
            raise several(conflict.failures, len(self._participants)) from None

    async def _write(
        self, names: Sequence[str], statements: Mapping[str, Statement], before: Sequence[bytes]
    ) -> list[Request]:
        for text in before:
            if not text.startswith(b"begin") and text != PATIENT:
                await self._told(dict.fromkeys(names, Statement(text, None)))
        requests = await self._told({name: statements[name] for name in names})
        if any(text.startswith(_REPLICA) for text in before):
            await self._told(dict.fromkeys(names, Statement(_AS_BEFORE, None)))
        return requests

    async def _told(self, statements: Mapping[str, Statement]) -> list[Request]:
        requests = [self._participants.request(name, statement) for name, statement in statements.items()]
        await self._drive_naming_blockers(requests)
        failures = self._participants.failures(requests, may_be_applied=False)
        if failures:
            raise self._meaning(failures, hasty=False)
        return requests

    async def roll_back(self, names: Iterable[str] | None = None) -> None:
        """Its transaction is undone by who has it."""

    async def commit(self) -> None:
        """Its transaction is committed by who has it."""


def write_on(fleet: AsyncFleet, participants: AsyncParticipants, deadline: Deadline) -> AsyncTransaction:
    """A write on these participants: a transaction by itself, or part of the one that they are in."""
    if not isinstance(participants, AsyncJoined):
        return AsyncTransaction(fleet, participants, deadline)
    part = AsyncPart(fleet, participants, deadline)
    part.in_turn = participants.in_turn
    return part
