"""One shard while it is migrated: a session that holds its lock and looks on, and one that runs the statements.

The lock has a connection of its own, so that it outlives what the statements do to theirs. The statements' session
holds a second one: when a runner is killed, its server may go on with a statement for a while, and nobody begins
before that has ended. Neither lock is waited for in a query: CREATE INDEX CONCURRENTLY would wait for that in turn.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from .._runtime.deadlines import deadline_after
from .._runtime.sockets import shut
from ..control.own_sql import qualified
from ..errors import MigrationError, ShardUnavailable, first_line
from . import state
from .locks import BLOCKERS, Blocker, Limits, blockers
from .report import Happened, Happening, Progress

if TYPE_CHECKING:
    from .._async.fleet.fleet import AsyncFleet

T = TypeVar("T")

# Seconds between two checks at who holds up the statement, and between two tries to get a lock.
_PERIOD = 0.25
_POLL = 0.1
# What a server may take to answer a question that waits for nothing before the shard counts as lost.
_SILENCE = 30.0
_LOST_HINT = "See `shardpool migrate status` for what is applied there; `up` goes on from that."
# Those that this version of the server has.
_TAKE_TIME = qualified("""
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
WHERE name = ANY (ARRAY['idle_session_timeout', 'transaction_timeout'])
""")
# How long the statement of a killed runner may go on.
_LEFT_OVER = 60.0


def who() -> str:
    """This process, as others see it: `user@host pid 4711`."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):
        name = str(os.getuid())
    return f"{name}@{socket.gethostname()} pid {os.getpid()}"


class ShardSession:
    """`async with`: the shard's lock is held, and `worker` is a connection in autocommit for the statements."""

    def __init__(self, fleet: AsyncFleet, shard: str, limits: Limits, progress: Progress) -> None:
        self.shard = shard
        self.fleet = fleet
        self.limits = limits
        self.blockers: tuple[Blocker, ...] = ()
        self.lost: str | None = None
        self._progress = progress
        self._monitor: AsyncConnection[Any] | None = None
        self._worker: AsyncConnection[Any] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._now: tuple[str, str, int, int] = ("", "", 0, 0)

    @property
    def worker(self) -> AsyncConnection[Any]:
        assert self._worker is not None
        return self._worker

    @property
    def monitor(self) -> AsyncConnection[Any]:
        assert self._monitor is not None
        return self._monitor

    def tell(self, what: Happening, *, seconds: float = 0.0, detail: str = "") -> None:
        """Something has happened to what `at` has named last."""
        version, label, step, steps = self._now
        self._progress(Happened(what, self.shard, version, label, step, steps, seconds, detail))

    def at(self, version: str = "", label: str = "", step: int = 0, steps: int = 0) -> None:
        """What the session is doing from now on."""
        self._now = (version, label, step, steps)

    async def __aenter__(self) -> ShardSession:
        try:
            await self._open()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    async def _open(self) -> None:
        self.tell("connect")
        self._monitor = await connect(self.fleet, self.shard)
        await self._install()
        await self._lock(self._monitor, state.RUNNER_LOCK, self.limits.wait)
        self._worker = await connect(self.fleet, self.shard)
        self._worker.add_notice_handler(self._noticed)
        await self._lock(self._worker, state.WORKER_LOCK, _LEFT_OVER)
        await self.take_time()
        self._looking = asyncio.create_task(self._find_blockers())
        self.tell("locked")

    async def _close(self) -> None:
        try:
            if self._looking is not None:
                self._looking.cancel()
                await asyncio.gather(self._looking, return_exceptions=True)
        finally:
            # The statements' session first: the shard is free when nothing runs any more.
            for conn in (self._worker, self._monitor):
                if conn is not None:
                    await conn.close()

    async def take_time(self) -> None:
        """A role's limits on a session or a transaction are for its services: a migration may take longer."""
        with self._answering(self.worker):
            await self.worker.execute(_TAKE_TIME, prepare=False)

    def _noticed(self, notice: psycopg.errors.Diagnostic) -> None:
        text = f"{notice.severity}: {notice.message_primary}"
        self.tell("output", detail=": ".join(filter(None, (text, notice.message_detail))))

    async def _install(self) -> None:
        with self._answering(self.monitor):
            row = await one(self.monitor, state.INSTALLED)
            if not row[0]:
                async with self.monitor.transaction():
                    await self.monitor.execute(state.INSTALL)

    def _answering(self, conn: AsyncConnection[Any]) -> AbstractContextManager[None]:
        return answering(self.fleet, self.shard, conn)

    async def _lock(self, conn: AsyncConnection[Any], number: int, seconds: float) -> None:
        """Have the lock within so many seconds."""
        until = monotonic() + seconds
        has_told = False
        while True:
            with self._answering(conn):
                if (await one(conn, state.try_lock(number)))[0]:
                    return
            with self._answering(self.monitor):
                holder = await self._holder(number)
            if monotonic() >= until:
                raise MigrationError(
                    f"shard {self.shard} is being migrated by another",
                    detail=f"{holder} holds its lock, and still did after {seconds:g} s.",
                    hint="Wait for it, or end it: the lock ends with its process.",
                )
            if not has_told:
                has_told = True
                self.tell("wait", seconds=seconds, detail=holder)
            await asyncio.sleep(_POLL)

    async def _holder(self, number: int) -> str:
        rows = await rows_of(self.monitor, state.holders(number))
        return "; ".join(f"{name} (pid {pid} of the server)" for pid, name, _ in rows) or "another session"

    # -- looking on ----------------------------------------------------------------------------------------------

    async def _find_blockers(self) -> None:
        """Who holds up the statement; and the statements end when the lock's session does."""
        pid = self.worker.info.backend_pid
        while True:
            await asyncio.sleep(min(_PERIOD, max(self.limits.lock_timeout / 3, 0.02)))
            try:
                with self._answering(self.monitor):
                    in_the_way = blockers(await rows_of(self.monitor, BLOCKERS, (pid,)))
            except MigrationError as error:
                self.lost = error.detail
                shut(self.worker)
                return
            except psycopg.Error as error:
                self.lost = first_line(error)
                shut(self.worker)
                return
            if in_the_way:
                if [blocker.pid for blocker in in_the_way] != [blocker.pid for blocker in self.blockers]:
                    self.tell("blocked", detail="; ".join(map(str, in_the_way)))
                self.blockers = in_the_way

    def forget_blockers(self) -> None:
        """A new attempt: nobody holds it up yet."""
        self.blockers = ()

    def explain(self, error: BaseException) -> BaseException:
        """The error of a statement, or what lies behind it."""
        if isinstance(error, psycopg.OperationalError) and self.worker.closed:
            return MigrationError(
                f"shard {self.shard} was lost",
                detail=self.lost or first_line(error),
                hint=_LOST_HINT,
            )
        return error


@contextmanager
def answering(fleet: AsyncFleet, shard: str, conn: AsyncConnection[Any]) -> Iterator[None]:
    """What is asked inside is answered within `_SILENCE` seconds, or `MigrationError` says that the shard was lost."""
    watch = fleet.watchdog.watch(conn, deadline_after(_SILENCE))
    try:
        yield
    except psycopg.Error as error:
        if fleet.watchdog.release(watch):
            raise
        raise MigrationError(
            f"shard {shard} was lost", detail=f"It has not answered for {_SILENCE:g} s.", hint=_LOST_HINT
        ) from error
    finally:
        fleet.watchdog.release(watch)


async def while_answering(fleet: AsyncFleet, shard: str, work: Coroutine[Any, Any, T]) -> T:
    """What `work` gives, which is broken off when the shard does not answer any more: see `answering`."""
    doing = asyncio.ensure_future(work)
    try:
        conn = await connect(fleet, shard, readonly=True)
        try:
            while not (await asyncio.wait({doing}, timeout=_PERIOD))[0]:
                with answering(fleet, shard, conn):
                    await one(conn, "SELECT 1")
        finally:
            await conn.close()
        return doing.result()
    finally:
        doing.cancel()
        await asyncio.gather(doing, return_exceptions=True)


async def connect(fleet: AsyncFleet, shard: str, *, readonly: bool = False) -> AsyncConnection[Any]:
    """A connection of no pool to the shard's primary, checked to be that and in autocommit.

    Pools are bounded for the application, and a migration may take long. Raises `ShardError`.
    """
    topology = fleet.topology
    endpoint = topology.shard(shard).writable
    if endpoint.pooler == "transaction" and not readonly:
        raise ShardUnavailable(
            f"shard {shard} cannot be migrated through a pooler of transactions",
            shard=shard,
            endpoint=endpoint.name,
            phase="connect",
            detail=f"{endpoint.address}: locks and settings of a session do not hold behind it.",
            hint="Use a topology file that names the servers themselves.",
        )
    return await fleet.dialer.dial_checked(topology, shard, f"shardpool {who()}"[:63])


async def one(conn: AsyncConnection[Any], query: str, params: Sequence[Any] | None = None) -> Any:
    """The first row, as a tuple; None when there is none."""
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(query, params, prepare=False)
    return await cursor.fetchone()


async def rows_of(conn: AsyncConnection[Any], query: str, params: Sequence[Any] | None = None) -> list[Any]:
    """All rows, as tuples."""
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(query, params, prepare=False)
    return await cursor.fetchall()
