"""Runs migrations on one shard, so that whatever is killed, the shard's own rows say how far it came."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..control.own_sql import qualified
from ..errors import MigrationError, ScatterError, ShardError, ShardpoolError, first_line, summary
from . import indexes, state
from .files import Migration, MigrationBlock
from .locks import RETRIED, Limits, named, pause, settings
from .records import Records
from .report import ShardReport
from .session import ShardSession, one, rows_of
from .state import Direction, MigrationRow, rows_by_version
from .steps import Step, prefix_digest, statements, steps

if TYPE_CHECKING:
    pass

# Of a statement that PostgreSQL runs in no transaction: it was refused before it did anything, or was rolled back.
_NOT_IN_TRANSACTION = (psycopg.errors.ActiveSqlTransaction, psycopg.errors.InvalidTransactionTermination)
# A file may set the role that owns its tables; the records are the runner's own, whoever that role is.
_ROLE = re.compile(r"\b(?:role|authorization)\b", re.IGNORECASE)
# What the router may take for a statement where no limit is set.
_ROUTED_SECONDS = 3600.0


class Execute(Protocol):
    """A statement that goes wherever its rows are, as `AsyncRouter.execute` sends it."""

    async def __call__(self, query: Any, params: None = None, *, timeout: float | None = None) -> Any:
        """Run it within `timeout` seconds."""


class Runner:
    """The migrations of one shard, one after another, in a session that holds its lock."""

    def __init__(self, session: ShardSession, report: ShardReport, execute: Execute) -> None:
        self.session = session
        self.execute = execute
        self._report = report
        self.limits: Limits = session.limits
        self._rows: dict[str, MigrationRow] = {}
        self.records = Records(session)
        # The statement that runs now, and where in its file it begins.
        self.statement, self.line = "", 0

    async def run(self, migrations: tuple[Migration, ...], direction: Direction) -> None:
        """Run them in this order; those that the shard has done meanwhile are passed over."""
        # Read under the lock: what was planned may have been done by another runner since.
        self._rows = rows_by_version(await rows_of(self.session.worker, state.READ))
        for migration in migrations:
            block = migration.up if direction == "up" else migration.down
            row = self._rows.get(migration.version)
            if block is None or (row is None if direction == "down" else row is not None and row.is_applied):
                continue
            await self._run(migration, block, direction, row)

    async def _run(
        self, migration: Migration, block: MigrationBlock, direction: Direction, row: MigrationRow | None
    ) -> None:
        session = self.session
        session.at(migration.version, migration.label)
        session.tell("begin")
        begun = monotonic()
        self.records.sets_role = _ROLE.search(block.sql) is not None
        try:
            if direction == "up":
                await self.ask(migration.asserts, "assert")
            if block.transactional:
                await self._in_one(migration, block, direction, begun)
            else:
                await _Steps(self, migration, block, direction, row, begun).run()
        except (psycopg.Error, MigrationError) as error:
            raise await self._failed(migration, block, direction, error) from error
        took = monotonic() - begun
        self._report.done[migration.version] = took
        session.tell("applied" if direction == "up" else "reverted", seconds=took)
        await self._reset()

    # -- one transaction -----------------------------------------------------------------------------------------

    async def _in_one(self, migration: Migration, block: MigrationBlock, direction: Direction, begun: float) -> None:
        conn = self.session.worker

        async def work() -> None:
            self.session.at(migration.version, migration.label, 1, 1)
            self.session.tell("step")
            for self.statement, self.line in statements(block):
                await conn.execute(self.statement, prepare=False)
            self.line = 0
            if direction == "up":
                await self.ask(migration.verifies, "verify")
            await self.records.finish(migration, direction, 1, begun)
            self.session.tell("commit")

        await self.in_transaction(work, block)

    async def in_transaction(self, work: Callable[[], Awaitable[None]], block: MigrationBlock) -> None:
        """`work` in a transaction that waits for no lock for long, tried again from its beginning when it did."""
        session = self.session
        lock_timeout = self.limits.lock_timeout if block.lock_timeout is None else block.lock_timeout
        timeout = self.limits.statement_timeout if block.statement_timeout is None else block.statement_timeout
        for attempt in range(1, self.limits.lock_retries + 2):
            session.forget_blockers()
            try:
                async with session.worker.transaction():
                    await session.worker.execute(settings(lock_timeout, timeout, local=True), prepare=False)
                    await work()
                return
            except RETRIED as error:
                await self.wait_or_give_up(error, attempt)

    async def wait_or_give_up(self, error: psycopg.Error, attempt: int) -> None:
        """After an attempt that did not get its locks: the pause before the next one, or who was in the way."""
        session = self.session
        if attempt > self.limits.lock_retries:
            raise MigrationError(
                f"the locks were not to be had on shard {session.shard} in {attempt} attempts",
                detail=f"{first_line(error)}; in the way: {named(session.blockers)}.",
                hint="Nothing of this step is applied. End what is in the way, or run it again at a quieter time.",
            ) from error
        seconds = pause(attempt, random.random())
        session.tell("retry", seconds=seconds, detail=f"{first_line(error)}: {named(session.blockers)}")
        await asyncio.sleep(seconds)

    async def _failed(
        self, migration: Migration, block: MigrationBlock, direction: Direction, error: psycopg.Error | MigrationError
    ) -> BaseException:
        """Write down why, where that can be done; gives the error to be raised."""
        conn = self.session.worker
        if conn.closed or conn.broken:
            return self.session.explain(error)
        text = summary(error)
        if block.transactional:
            async with conn.transaction():
                if direction == "up":
                    await self.records.write(migration, "failed", direction, 1, 0, error=text)
                await self.records.log(migration.version, "failed", detail=text)
        if isinstance(error, MigrationError):
            return error
        place = f"{migration.file}{self._place(error)}"
        hint = error.diag.message_hint if error.diag else None
        detail = "; ".join(filter(None, (text, error.diag.message_detail if error.diag else None)))
        return MigrationError(f"{place} failed on shard {self.session.shard}", detail=detail, hint=hint)

    def _place(self, error: psycopg.Error) -> str:
        """`:12`, the line of the file at which it failed; empty when it was not at a statement of the file."""
        if not self.line:
            return ""
        position = int(error.diag.statement_position or 1)
        return f":{self.line + self.statement.count(chr(10), 0, position - 1)}"

    async def ask(self, queries: tuple[str, ...], what: str) -> None:
        """Each query has to give true."""
        for query in queries:
            cursor = self.session.worker.cursor(row_factory=tuple_row)
            await cursor.execute(query, prepare=False)
            row = await cursor.fetchone() if cursor.description else None
            if row is None or row[0] is not True:
                said = "no row" if row is None else repr(row[0])
                raise MigrationError(
                    f"shard-{what} is not true on shard {self.session.shard}",
                    detail=f"{query} gives {said}.",
                    hint="Nothing was changed." if what == "assert" else "It was taken back, where that can be done.",
                )

    async def _reset(self) -> None:
        """The next migration finds the session as this one did."""
        conn = self.session.worker
        await conn.execute("RESET SESSION AUTHORIZATION; RESET ROLE; RESET ALL", prepare=False)
        configure = self.session.fleet.options.configure
        if configure is not None:
            await configure(conn)
            await conn.set_autocommit(True)
        await self.session.take_time()


class _Steps:
    """A migration that is not one transaction: step by step, each recorded with what it does, or before and after."""

    def __init__(
        self,
        runner: Runner,
        migration: Migration,
        block: MigrationBlock,
        direction: Direction,
        row: MigrationRow | None,
        begun: float,
    ) -> None:
        self._runner = runner
        self._session = runner.session
        self._records = runner.records
        self._limits = runner.limits
        self._migration = migration
        self._block = block
        self._direction: Direction = direction
        self._begun = begun
        self._steps = steps(migration.file, block)
        is_resumed = row is not None and not row.is_applied and row.direction == direction
        self._done = row.steps_done if row is not None and is_resumed else 0
        self._was_begun = bool(row is not None and is_resumed and row.step_begun)

    async def run(self) -> None:
        if self._migration.routed and self._session.shard != next(iter(self._session.fleet.topology.shards)):
            # The first shard has them run by the fleet, for all.
            self._steps = ()
        if not self._done and not self._was_begun:
            await self._write(0)
        for step in self._steps[: self._done]:
            if step.kind == "set":
                await self._session.worker.execute(step.sql, prepare=False)
        for step in self._steps[self._done :]:
            self._session.at(self._migration.version, self._migration.label, step.number, len(self._steps))
            self._session.tell("step", detail=step.summary)
            self._runner.statement, self._runner.line = step.sql, step.line
            try:
                await self._run(step, self._was_begun)
            except (psycopg.Error, MigrationError) as error:
                await self._note(step, error)
                raise
            self._was_begun = False
            self._runner.line = 0
            self._session.tell("stepped")
        if self._direction == "up":
            await self._runner.ask(self._migration.verifies, "verify")
        async with self._session.worker.transaction():
            await self._records.finish(self._migration, self._direction, len(self._steps), self._begun)
            self._session.tell("commit")

    async def _run(self, step: Step, was_begun: bool) -> None:
        if self._migration.routed:
            await self._routed(step, was_begun)
        elif step.kind in ("atomic", "unsure"):
            if was_begun:
                raise self._nobody_knows(step)
            try:
                await self._atomically(step)
            except _NOT_IN_TRANSACTION:
                await self._bare(step, was_begun)
        else:
            await self._bare(step, was_begun)

    async def _atomically(self, step: Step) -> None:
        async def work() -> None:
            await self._session.worker.execute(step.sql, prepare=False)
            await self._write(step.number)

        await self._runner.in_transaction(work, self._block)

    async def _routed(self, step: Step, was_begun: bool) -> None:
        """By the fleet, wherever the rows are. What was cut in its midst may be done: that is for people to see."""
        if was_begun:
            raise self._nobody_knows(step)
        await self._write(step.number - 1, begun=True)
        timeout = self._block.statement_timeout or self._limits.statement_timeout or _ROUTED_SECONDS
        try:
            await self._runner.execute(step.sql, timeout=timeout)
        except (ShardpoolError, psycopg.Error) as error:
            if not isinstance(error, ShardError | ScatterError):
                await self._write(step.number - 1)
            raise MigrationError(
                f"{self._migration.file}:{step.line} failed", detail=str(error).replace("\n", " ")
            ) from error
        await self._write(step.number)

    async def _bare(self, step: Step, was_begun: bool) -> None:
        conn = self._session.worker
        await self._limit(step)
        if not await indexes.before(self._session, step, was_begun):
            await self._write(step.number - 1, begun=True)
            await self._send(step, conn)
        await conn.execute(settings(0, 0, local=False), prepare=False)
        await self._write(step.number)

    async def _limit(self, step: Step) -> None:
        block, limits = self._block, self._limits
        if step.is_concurrent:
            timeout = limits.concurrently_timeout if block.statement_timeout is None else block.statement_timeout
            # A lock_timeout would break it off while it waits for old transactions, and leave it invalid.
            text = settings(0, timeout, local=False)
        else:
            lock_timeout = limits.lock_timeout if block.lock_timeout is None else block.lock_timeout
            timeout = limits.statement_timeout if block.statement_timeout is None else block.statement_timeout
            text = settings(lock_timeout, timeout, local=False)
        await self._session.worker.execute(text, prepare=False)

    async def _send(self, step: Step, conn: AsyncConnection[Any]) -> None:
        for attempt in range(1, self._limits.lock_retries + 2):
            self._session.forget_blockers()
            try:
                await conn.execute(step.sql, prepare=False)
                return
            except RETRIED as error:
                if step.kind in ("atomic", "unsure"):
                    raise
                await self._runner.wait_or_give_up(error, attempt)
                await indexes.before(self._session, step, False)

    async def _write(self, done: int, *, begun: bool = False, error: str | None = None) -> None:
        digest = prefix_digest(self._steps, done + begun)
        status = "failed" if error else "partial"
        count = len(self._steps)
        await self._records.write(
            self._migration, status, self._direction, count, done, begun=begun, digest=digest, error=error
        )

    async def _note(self, step: Step, error: Exception) -> None:
        """Why it stopped here. Of what PostgreSQL has refused to do it is known that it is not done."""
        conn = self._session.worker
        if conn.closed or conn.broken:
            return
        row = await one(
            conn,
            qualified("SELECT step_begun FROM shardpool.migrations WHERE version = %s"),
            (self._migration.version,),
        )
        stays_begun = bool(row and row[0]) and step.kind in ("atomic", "unsure")
        async with conn.transaction():
            await self._write(step.number - 1, begun=stays_begun, error=first_line(error))
            await self._records.log(self._migration.version, "failed", step=step.number, detail=first_line(error))

    def _nobody_knows(self, step: Step) -> MigrationError:
        version = self._migration.version
        return MigrationError(
            f"step {step.number} of {self._migration.label} was begun on shard {self._session.shard}, and how it ended "
            "is not known",
            detail=f"{self._migration.file}:{step.line}: {step.summary}",
            hint=f"Look at the shard, then: shardpool migrate repair --step-done {version} --shard "
            f"{self._session.shard}, or --step-again.",
        )
