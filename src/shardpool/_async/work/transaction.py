"""A write on several shards as one unit: a transaction on each, begun on all, ended when all have done their part.

Two such writes that meet on several shards can wait for each other, each holding on one shard what the other waits for
on another: no server sees that. So nobody waits long for a lock while others work side by side. A unit that has met
another is undone and done again one shard after another, in the order of the topology: those that go in order never
wait in a circle, and the others give way.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.rows import tuple_row

from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.drivers import Overdue, Step, async_drive, async_drive_flow
from ..._runtime.tasks import async_run_all, async_sleep
from ..._wire.flow import describe
from ..._wire.participant import BEGIN, Interruptible, Participant
from ..._wire.request import Request
from ..._wire.statement import Statement
from ...control import transactions
from ...control.own_sql import qualified
from ...control.transactions import TransactionId
from ...errors import CommitUnknown, DeadlineExceeded, ScatterError, ShardError
from ..fleet import redirects
from .checkout import AsyncCheckout, is_busy
from .handle import AsyncShardHandle
from .outcomes import overdue, several
from .participants import AsyncParticipants
from .two_phase import AsyncTwoPhase, new_id, obstacle

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

T = TypeVar("T")

_COMMIT = Statement(b"commit", None)
_ROLLBACK = Statement(b"rollback", None)
# The longest that a lock is waited for while others of the unit work, or hold locks. A one-shard write is over by then.
SIDE_BY_SIDE = (b"set local lock_timeout = '200ms'",)
# What undoing may take when the deadline has passed.
_LAST_SECONDS = 0.05
# After this part of its time it is asked what a unit waits for.
_PATIENCE = 0.6
_PAUSE = 0.005
_BLOCKERS = qualified("""
    select b.pid, a.application_name from pg_catalog.unnest(pg_catalog.pg_blocking_pids(%s)) b (pid)
    left join pg_catalog.pg_stat_activity a on a.pid = b.pid
""")


class Conflict(Exception):
    """Others hold locks that the unit needs on several shards, or a server has found a deadlock."""

    def __init__(self, failures: dict[str, BaseException]) -> None:
        super().__init__()
        self.failures = failures


class AsyncTransaction:
    """One transaction on each participant, and its outcome; `in_turn` one shard after another."""

    def __init__(self, fleet: AsyncFleet, participants: AsyncParticipants, deadline: Deadline) -> None:
        self._fleet = fleet
        self._participants = participants
        self.deadline = deadline
        self.in_turn = False
        # One transaction over all shards, where they can: with its name once its home has begun its part.
        self._is_one = len(participants) > 1 and obstacle(participants.pools) is None
        self._id: TransactionId | None = None

    async def settled(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work()` gives, undone when it fails; done again when it has met others, as long as there is time."""
        attempt = 0
        while True:
            try:
                return await work()
            except Conflict as conflict:
                await self.roll_back()
                self.in_turn = True
                pause = random.uniform(0, min(1.0, _PAUSE * 2**attempt))
                if monotonic() + pause >= self.deadline:
                    raise several(conflict.failures, len(self._participants)) from None
                await async_sleep(pause)
                attempt += 1
            except Exception:
                await self.roll_back()
                raise

    async def write(self, statements: Mapping[str, Statement], before: Sequence[bytes] = BEGIN) -> list[Request]:
        """A statement on each of these shards, in transactions that are left open. Raises what any fails with."""
        groups = [[name] for name in statements] if self.in_turn else [[*statements]]
        return [request for group in groups for request in await self._write(group, statements, before)]

    async def _write(
        self, names: Sequence[str], statements: Mapping[str, Statement], before: Sequence[bytes]
    ) -> list[Request]:
        # Who holds nothing yet may wait for the first lock as long as it takes.
        hasty = not self.in_turn and (len(names) > 1 or names[0] != next(iter(self._participants)))
        begin = (*before[:1], *SIDE_BY_SIDE, *before[1:]) if hasty else before
        requests: list[Request] = [
            Participant(
                name,
                checkout.conn,
                statements[name],
                overdue(name, checkout.pool, reads=True),
                (*begin, *self._record(name)),
            )
            for name, checkout in self._chosen(names)
        ]
        await self._drive_naming_blockers(requests)
        failures = self._participants.failures(requests, may_be_applied=False)
        if failures:
            raise self._meaning(failures, hasty)
        if monotonic() >= self.deadline:
            raise overdue(names[0], self._participants.checkouts[names[0]].pool, reads=True)()
        return requests

    def _record(self, name: str) -> tuple[bytes, ...]:
        """What the home writes down at the beginning of its part, which costs no round trip of its own there."""
        home, *others = self._participants
        if not self._is_one or self._id is not None or name != home:
            return ()
        self._id = new_id(self._fleet.topology.fleet, home)
        return (transactions.record(self._id, others),)

    async def ask(self, name: str, statement: Statement) -> Any:
        """The result of a statement that only reads, on one shard, before any transaction is begun."""
        request = self._participants.request(name, statement, reads=True)
        await self._drive([request], self.deadline)
        if request.error is not None:
            raise several(self._participants.failures([request], may_be_applied=False), 1)
        return request.pgresult

    async def describe(self, name: str, statement: Statement) -> Any:
        """What one shard says of a statement and its parameters, without running it."""
        checkout = self._participants.checkouts[name]
        try:
            return await async_drive_flow(describe(checkout.conn, statement), self.deadline)
        except Overdue:
            raise overdue(name, checkout.pool, reads=True)() from None

    async def roll_back(self, names: Iterable[str] | None = None) -> None:
        """Undo on all shards that can still be spoken to, or on those named."""
        self._id = None
        conns = self._participants.conns
        usable = [name for name in names or conns if not is_busy(conns[name]) and not conns[name].closed]
        requests = [self._participants.request(name, _ROLLBACK) for name in usable]
        await self._drive(requests, max(self.deadline, deadline_after(_LAST_SECONDS)))

    async def commit(self) -> None:
        """COMMIT on all shards, as one where they can; what is on which shard else is told by the error."""
        if self._id is not None:
            end = AsyncTwoPhase(self._id, self._participants, self._fleet.recovery, is_recorded=True)
            await end.commit(self.deadline)
            return
        requests = [self._participants.request(name, _COMMIT) for name in self._participants]
        await self._drive(requests, self.deadline)
        failures = self._participants.failures(requests, may_be_applied=True)
        if not failures:
            return
        unknown = {name: _unknown(name, error) for name, error in failures.items()}
        done = [request.shard for request in requests if request.error is None]
        raise ScatterError(
            f"{len(failures)} of {len(requests)} shards did not confirm their COMMIT",
            failures=unknown,
            results=dict.fromkeys(done, "committed"),
            hint="A write on several shards is one transaction on each, not one over all: look before you write again.",
        ) from next(iter(failures.values()))

    def _chosen(self, names: Iterable[str]) -> Iterable[tuple[str, AsyncCheckout]]:
        return [(name, self._participants.checkouts[name]) for name in names]

    async def _drive(self, requests: Sequence[Request], until: Deadline) -> None:
        await async_drive(_steps(requests), until)
        await _close_unusable(requests)

    def _meaning(self, failures: dict[str, BaseException], hasty: bool) -> BaseException:
        """What is raised for the failures of a unit of which nothing has been committed."""
        given_away = next(filter(redirects.is_redirect, failures.values()), None)
        if given_away is not None:
            return given_away
        met = (psycopg.errors.DeadlockDetected, *((psycopg.errors.LockNotAvailable,) if hasty else ()))
        if all(isinstance(error, met) for error in failures.values()):
            return Conflict(failures)
        wrong = {name: error for name, error in failures.items() if not isinstance(error, met)}
        return several(wrong, len(self._participants))

    async def _drive_naming_blockers(self, requests: Sequence[Request]) -> None:
        """Run the requests; of those that wait for locks for long it is told in the end who holds them."""
        steps = {request: Interruptible(request.step()) for request in requests}
        patience = (self.deadline - monotonic()) * _PATIENCE
        first = [(request.pgconn.socket, step.until_overdue()) for request, step in steps.items()]
        await async_drive(first, deadline_after(patience))
        waiting = [request for request, step in steps.items() if not step.has_ended]
        outcomes = await async_run_all([partial(self._blockers, request, patience / 4) for request in waiting])
        rest = [(request.pgconn.socket, steps[request].to_the_end()) for request in waiting]
        await async_drive(rest, self.deadline)
        for request, (blockers, _) in zip(waiting, outcomes, strict=True):
            if blockers and isinstance(request.error, DeadlineExceeded):
                request.error = _waited(request.error, blockers)
        await _close_unusable(requests)

    async def _blockers(self, request: Request, timeout: float) -> str:
        """Who holds the lock that a request waits for; empty when it waits for none, or that cannot be learned."""
        handle = AsyncShardHandle(self._fleet, request.shard)
        try:
            found = await handle._execute(
                _BLOCKERS, (request.pgconn.backend_pid,), self._fleet.deadline(timeout), row_factory=tuple_row
            )
        except (ShardError, psycopg.Error):
            return ""
        return ", ".join(f"process {pid}" + (f" ({name})" if name else "") for pid, name in found.rows)


def _waited(error: DeadlineExceeded, blockers: str) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"the deadline passed on shard {error.shard}, which waited for a lock that {blockers} held",
        shard=error.shard,
        endpoint=error.endpoint,
        applied="no",
        hint="Look in pg_stat_activity there what it does, or give the call more time with timeout=….",
    )


def _steps(requests: Sequence[Request]) -> Iterator[tuple[int, Step]]:
    return ((request.pgconn.socket, request.step()) for request in requests)


async def _close_unusable(requests: Sequence[Request]) -> None:
    for request in requests:
        if not request.reusable:
            await request.conn.close()


def _unknown(name: str, error: BaseException) -> BaseException:
    refused = isinstance(error, psycopg.Error) and error.sqlstate and not isinstance(error, ShardError)
    if refused or getattr(error, "applied", None) == "unknown":
        return error
    found = CommitUnknown(f"whether shard {name} has committed is not known", shard=name, phase="commit")
    found.__cause__ = error
    return found
