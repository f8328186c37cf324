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

from .._concurrency import Overdue, Step, async_drive, async_drive_flow, async_run_all, async_sleep
from .._flow import describe
from .._leg import Leg, Statement
from .._participant import BEGIN, Interruptible, Participant
from ..errors import CommitUnknown, DeadlineExceeded, ScatterError, ShardError
from ..own_sql import qualified
from . import gather, moving

if TYPE_CHECKING:
    from .router import AsyncRouter

T = TypeVar("T")

_COMMIT = Statement(b"commit", None)
_ROLLBACK = Statement(b"rollback", None)
# The longest that a lock is waited for while others of the unit work, or hold locks. A one-shard write is over by then.
_SIDE_BY_SIDE = (b"set local lock_timeout = '200ms'",)
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


class AsyncUnit:
    """The connections of one write, and what is done on them; `in_turn` one shard after another."""

    def __init__(self, router: AsyncRouter, taken: gather.Taken, deadline: float) -> None:
        self._router = router
        self._taken = taken
        self.deadline = deadline
        self.in_turn = False

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
                    raise gather.several(conflict.failures, len(self._taken)) from None
                await async_sleep(pause)
                attempt += 1
            except Exception:
                await self.roll_back()
                raise

    async def write(self, statements: Mapping[str, Statement], before: Sequence[bytes] = BEGIN) -> list[Leg]:
        """A statement on each of these shards, in transactions that are left open. Raises what any fails with."""
        groups = [[name] for name in statements] if self.in_turn else [[*statements]]
        return [leg for group in groups for leg in await self._write(group, statements, before)]

    async def _write(
        self, names: Sequence[str], statements: Mapping[str, Statement], before: Sequence[bytes]
    ) -> list[Leg]:
        await self._outside_transactions(names)
        # Who holds nothing yet may wait for the first lock as long as it takes.
        hasty = not self.in_turn and (len(names) > 1 or names[0] != next(iter(self._taken)))
        begin = (*before[:1], *_SIDE_BY_SIDE, *before[1:]) if hasty else before
        legs: list[Leg] = [
            Participant(name, conn, statements[name], gather.overdue(name, pool, reads=True), begin)
            for name, (pool, conn) in self._chosen(names)
        ]
        await self._drive_naming_blockers(legs)
        failures = gather.failures_of(legs, self._taken, may_be_applied=False)
        if failures:
            raise self._meaning(failures, hasty)
        if monotonic() >= self.deadline:
            raise gather.overdue(names[0], self._taken[names[0]][0], reads=True)()
        return legs

    async def ask(self, name: str, statement: Statement) -> Any:
        """The result of a statement that only reads, on one shard, before any transaction is begun."""
        pool, conn = self._taken[name]
        await self._outside_transactions([name])
        leg = Leg(name, conn, statement, gather.overdue(name, pool, reads=True))
        await self._drive([leg], self.deadline)
        if leg.error is not None:
            raise gather.several(gather.failures_of([leg], self._taken, may_be_applied=False), 1)
        return leg.pgresult

    async def describe(self, name: str, statement: Statement) -> Any:
        """What one shard says of a statement and its parameters, without running it."""
        await self._outside_transactions([name])
        pool, conn = self._taken[name]
        try:
            return await async_drive_flow(describe(conn, statement), self.deadline)
        except Overdue:
            raise gather.overdue(name, pool, reads=True)() from None

    async def roll_back(self, names: Iterable[str] | None = None) -> None:
        """Undo on all shards that can still be spoken to, or on those named."""
        usable = [name for name in names or self._taken if not gather.is_busy(self._taken[name][1])]
        legs = self._legs([name for name in usable if not self._taken[name][1].closed], _ROLLBACK)
        await self._drive(legs, max(self.deadline, monotonic() + _LAST_SECONDS))

    async def commit(self) -> None:
        """COMMIT on all shards; what is on which shard when not all confirm it is told by the error."""
        legs = self._legs(self._taken, _COMMIT)
        await self._drive(legs, self.deadline)
        failures = gather.failures_of(legs, self._taken, may_be_applied=True)
        if not failures:
            return
        unknown = {name: _unknown(name, error) for name, error in failures.items()}
        done = [leg.shard for leg in legs if leg.error is None]
        raise ScatterError(
            f"{len(failures)} of {len(legs)} shards did not confirm their COMMIT",
            failures=unknown,
            results=dict.fromkeys(done, "committed"),
            hint="A write on several shards is one transaction on each, not one over all: look before you write again.",
        ) from next(iter(failures.values()))

    def _legs(self, names: Iterable[str], statement: Statement) -> list[Leg]:
        return [Leg(name, conn, statement, gather.overdue(name, pool)) for name, (pool, conn) in self._chosen(names)]

    def _chosen(self, names: Iterable[str]) -> Iterable[tuple[str, Any]]:
        return [(name, self._taken[name]) for name in names]

    async def _drive(self, legs: Sequence[Leg], until: float) -> None:
        await async_drive(_steps(legs), until)
        await _close_unusable(legs)

    async def _outside_transactions(self, names: Iterable[str]) -> None:
        """Have psycopg begin none by itself."""
        for _, (_, conn) in self._chosen(names):
            if not conn.autocommit:
                await conn.set_autocommit(True)

    def _meaning(self, failures: dict[str, BaseException], hasty: bool) -> BaseException:
        """What is raised for the failures of a unit of which nothing has been committed."""
        given_away = next(filter(moving.is_given_away, failures.values()), None)
        if given_away is not None:
            return given_away
        met = (psycopg.errors.DeadlockDetected, *((psycopg.errors.LockNotAvailable,) if hasty else ()))
        if all(isinstance(error, met) for error in failures.values()):
            return Conflict(failures)
        wrong = {name: error for name, error in failures.items() if not isinstance(error, met)}
        return gather.several(wrong, len(self._taken))

    async def _drive_naming_blockers(self, legs: Sequence[Leg]) -> None:
        """Run the legs; of those that have waited for long it is told in the end who holds the locks, if that is it."""
        steps = {leg: Interruptible(leg.step()) for leg in legs}
        patience = (self.deadline - monotonic()) * _PATIENCE
        first = [(leg.pgconn.socket, step.until_overdue()) for leg, step in steps.items()]
        await async_drive(first, monotonic() + patience)
        waiting = [leg for leg, step in steps.items() if not step.has_ended]
        outcomes = await async_run_all([partial(self._blockers, leg, patience / 4) for leg in waiting])
        rest = [(leg.pgconn.socket, steps[leg].to_the_end()) for leg in waiting]
        await async_drive(rest, self.deadline)
        for leg, (blockers, _) in zip(waiting, outcomes, strict=True):
            if blockers and isinstance(leg.error, DeadlineExceeded):
                leg.error = _waited(leg.error, blockers)
        await _close_unusable(legs)

    async def _blockers(self, leg: Leg, timeout: float) -> str:
        """Who holds the lock that a leg waits for; empty when it waits for none, or that cannot be learned."""
        handle = self._router.shard(leg.shard)
        try:
            found = await handle.execute(_BLOCKERS, (leg.pgconn.backend_pid,), timeout=timeout, row_factory=tuple_row)
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


def _steps(legs: Sequence[Leg]) -> Iterator[tuple[int, Step]]:
    return ((leg.pgconn.socket, leg.step()) for leg in legs)


async def _close_unusable(legs: Sequence[Leg]) -> None:
    for leg in legs:
        if not leg.reusable:
            await leg.conn.close()


def _unknown(name: str, error: BaseException) -> BaseException:
    refused = isinstance(error, psycopg.Error) and error.sqlstate and not isinstance(error, ShardError)
    if refused or getattr(error, "applied", None) == "unknown":
        return error
    found = CommitUnknown(f"whether shard {name} has committed is not known", shard=name, phase="commit")
    found.__cause__ = error
    return found
