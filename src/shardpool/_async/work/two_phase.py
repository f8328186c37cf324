"""The commit of one transaction over several shards: recorded and decided on its home, prepared on the others.

`transactions` has the steps. What fails before the decision undoes all of it; what fails after it changes nothing, and
is finished by recovery. Only when the answer to the decision itself is lost its outcome is not known here.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from time import time
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import tuple_row

from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.drivers import async_drive
from ..._wire.participant import Command
from ..._wire.request import Request, ends_session
from ..._wire.statement import Statement
from ...control import transactions
from ...control.transactions import CommitStep, TransactionId, TransactionState
from ...errors import CommitUnknown, RoutingError, TransactionForgotten, UnsupportedQuery, first_line
from ..fleet.pools import AsyncEndpointPool
from .handle import AsyncShardHandle
from .outcomes import overdue, several
from .participants import AsyncParticipants

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet
    from ..fleet.recovery import AsyncRecovery

# What undoing may take when the deadline has passed.
_LAST_SECONDS = 0.05
_MILLISECONDS = 1000
_RANDOM_BITS = 74


def new_id(fleet: str, home: str) -> TransactionId:
    """The name of a transaction that begins now."""
    return TransactionId.new(fleet, home, int(time() * _MILLISECONDS), random.getrandbits(_RANDOM_BITS))


def obstacle(pools: Mapping[str, AsyncEndpointPool]) -> UnsupportedQuery | None:
    """Why these shards cannot commit as one; None when they can."""
    for name, pool in pools.items():
        if pool.takes_part != transactions.READY:
            why, hint = transactions.WHY_NOT[pool.takes_part]
            return UnsupportedQuery(
                f"{len(pools)} shards cannot commit as one", detail=f"{why.format(name)}.", hint=hint
            )
    return None


async def why_apart(fleet: AsyncFleet, names: Iterable[str], deadline: Deadline) -> str:
    """Why these shards cannot commit as one; empty when they can. Connects to those that have not been used yet."""
    for name in names:
        pool = await fleet.snapshot.shards[name].writable(deadline)
        if not pool.takes_part and fleet.topology.control == "required":
            await pool.give(await pool.take(deadline))
        if pool.takes_part != transactions.READY:
            return transactions.WHY_NOT[pool.takes_part][0].format(name)
    return ""


async def state(fleet: AsyncFleet, transaction_id: str, timeout: float | None) -> TransactionState:
    """See `AsyncRouter.transaction_state`."""
    of = TransactionId.parse(transaction_id)
    if of.fleet != fleet.topology.fleet:
        raise RoutingError(f"transaction {of} is of fleet {of.fleet}, not of {fleet.topology.fleet}")
    fleet.topology.shard(of.home)
    home = AsyncShardHandle(fleet, of.home)
    asked = await home._execute(transactions.STATE_QUERY, (str(of),), fleet.deadline(timeout), row_factory=tuple_row)
    ((state, now),) = asked.rows
    if state == "aborted" and of.is_forgotten(now):
        raise TransactionForgotten(
            f"what has become of transaction {of} is not known any more",
            detail=f"It was begun at {of.begun_at:%Y-%m-%d %H:%M:%S} UTC, and records are kept for an hour.",
            hint="Look for what it has written.",
        )
    outcome: TransactionState = state
    return outcome


class AsyncTwoPhase:
    """The end of a transaction that is open on all participants; its home is the shard that the id names.

    `readers` are those among them that have written nothing. `is_recorded` when the record was written before.
    """

    def __init__(
        self,
        of: TransactionId,
        participants: AsyncParticipants,
        recovery: AsyncRecovery,
        *,
        readers: Sequence[str] = (),
        is_recorded: bool = False,
    ) -> None:
        self.id = of
        self._participants = participants
        self._recovery = recovery
        self._others = [name for name in participants if name != of.home and name not in readers]
        self._readers = readers
        self._is_recorded = is_recorded

    async def commit(self, deadline: Deadline) -> None:
        """All or nothing, by the deadline (monotonic seconds); a decision that is made by then counts.

        Raises what a shard has refused with, `DeadlineExceeded` or `ScatterError` when nothing was committed, and
        `CommitUnknown` with the transaction's id when the answer to the decision was lost.
        """
        reached = None
        try:
            for reached, texts in transactions.steps(
                self.id, self._others, self._readers, is_recorded=self._is_recorded
            ):
                requests = await self._tell(texts, deadline, reached)
                if all(request.error is None for request in requests):
                    continue
                if reached is CommitStep.FINISH:
                    self._hand_over()
                elif reached is CommitStep.DECIDE and not _is_refusal(requests[0]):
                    self._hand_over()
                    self._recovery.counts.add("unknown")
                    raise self._unknown(requests[0])
                else:
                    await self._undo(reached, requests, deadline)
                    failures = self._participants.failures(requests, may_be_applied=False)
                    raise several(failures, len(self._participants))
            self._recovery.counts.add("several_shards")
        except Exception:
            raise
        except BaseException as interrupt:
            self._hand_over()
            if reached is CommitStep.FINISH:
                interrupt.add_note(f"transaction {self.id} has committed")
            elif reached is CommitStep.DECIDE:
                interrupt.add_note(f"whether transaction {self.id} has committed is not known")
            raise

    async def _tell(self, texts: Mapping[str, bytes], until: Deadline, step: CommitStep | None = None) -> list[Request]:
        requests: list[Request] = [self._command(name, text) for name, text in texts.items()]
        await async_drive(((request.pgconn.socket, request.step()) for request in requests), until)
        for request in requests:
            _check_answer(request, step)
            if not request.reusable:
                await request.conn.close()
        return requests

    def _command(self, name: str, text: bytes) -> Command:
        checkout = self._participants.checkouts[name]
        return Command(name, checkout.conn, Statement(text, None), overdue(name, checkout.pool, reads=True))

    async def _undo(self, reached: CommitStep, requests: Sequence[Request], deadline: Deadline) -> None:
        """End what is open and what is prepared; what cannot be reached any more is left to recovery."""
        prepared = set(self._others) if reached is CommitStep.DECIDE else set()
        if reached is CommitStep.PREPARE:
            prepared = {request.shard for request in requests if request.error is None}
        parts = self.id.parts(self._others)
        texts = {
            name: transactions.rollback_prepared(parts[name]) if name in prepared else transactions.ROLLBACK
            for name, conn in self._participants.conns.items()
            if not conn.closed
        }
        undone = await self._tell(texts, max(deadline, deadline_after(_LAST_SECONDS)))
        if reached is not CommitStep.RECORD and (
            len(undone) < len(self._participants) or any(request.error for request in undone)
        ):
            self._hand_over()

    def _hand_over(self) -> None:
        self._recovery.take_up(self.id, self.id.parts(self._others))

    def _unknown(self, request: Request) -> CommitUnknown:
        pool = self._participants.checkouts[request.shard].pool
        # Counted, and the pool told, as for any commit whose answer was lost.
        error: Any = self._participants.failures([request], may_be_applied=True)[request.shard]
        unknown = CommitUnknown(
            f"whether transaction {self.id} has committed is not known: shard {request.shard} did not answer",
            shard=request.shard,
            endpoint=pool.endpoint.name,
            phase="commit",
            detail=first_line(request.error or error),
            hint="It is on all its shards or on none: ask router.transaction_state() with its id.",
            transaction_id=str(self.id),
        )
        unknown.__cause__ = request.error
        return unknown


def _check_answer(request: Request, step: CommitStep | None) -> None:
    """A server that was told to prepare or commit what has failed rolls it back, and says so without an error."""
    wanted = transactions.ANSWERS.get(step) if step is not None else None
    if request.error is None and wanted is not None and request.pgresult.command_status != wanted:
        request.error = psycopg.errors.InFailedSqlTransaction("a statement of this transaction has failed before")


def _is_refusal(request: Request) -> bool:
    """Whether the server has said that it did not commit."""
    error = request.error
    return (
        isinstance(error, psycopg.Error) and error.sqlstate is not None and not ends_session(error) and request.reusable
    )
