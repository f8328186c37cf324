"""Connections to the primaries of some shards for the time of one operation, outside of any router's pools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any, TypeVar, cast

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from .._async.fleet.dialer import AsyncDialer
from .._async.fleet.options import AsyncConnectOptions
from .._runtime.deadlines import Deadline, deadline_after
from .._runtime.tasks import async_run_all
from .._runtime.watchdog import AsyncWatchdog
from ..errors import EditRefused, ScatterError, first_line
from ..topology import Endpoint, Topology

T = TypeVar("T")

Conn = AsyncConnection[Any]

# Seconds in which a server has to let us in: one that is gone for good does not hold up the rest for the whole time.
_CONNECT = 10.0

# What the control schema's own functions raise: somebody was first, and an edit that is not finished.
_REFUSALS = ("RS002", "RS003", "55000")


class Connections:
    """Connections by the name of the shard, in autocommit."""

    def __init__(self, conns: Mapping[str, Conn], missing: Mapping[str, BaseException], deadline: Deadline) -> None:
        self._conns = dict(conns)
        self._deadline = deadline
        # Why which shards could not be reached, where some may be missing.
        self.missing = dict(missing)

    def __contains__(self, name: str) -> bool:
        return name in self._conns

    def __getitem__(self, name: str) -> Conn:
        return self._conns[name]

    @property
    def names(self) -> list[str]:
        return list(self._conns)

    async def on(self, names: Iterable[str], step: Callable[[str, Conn], Awaitable[T]], what: str) -> dict[str, T]:
        """One step on several shards, side by side; raises `ScatterError`, or the refusal of one of them."""
        named = list(names)
        answers, failures = await self.answers(named, step)
        for error in failures.values():
            if isinstance(error, EditRefused):
                raise error
            if isinstance(error, psycopg.Error) and error.sqlstate in _REFUSALS:
                raise refusal(error) from None
        if failures:
            late = monotonic() >= self._deadline
            what += " was not done in time, and" if late else ""
            raise ScatterError(f"{what} failed on {len(failures)} of {len(named)} shards", failures=failures)
        return answers

    async def answers(
        self, names: Iterable[str], step: Callable[[str, Conn], Awaitable[T]]
    ) -> tuple[dict[str, T], dict[str, Exception]]:
        """One step on several shards, side by side: what came of it by shard, and what failed."""
        named = list(names)
        outcomes = await async_run_all([partial(step, name, self._conns[name]) for name in named])
        answer_by_name: dict[str, T] = {}
        failures: dict[str, Exception] = {}
        for name, (value, error) in zip(named, outcomes, strict=True):
            if error is None:
                answer_by_name[name] = cast("T", value)
            elif isinstance(error, Exception):
                failures[name] = error
            else:
                raise error
        return answer_by_name, failures


def refusal(error: psycopg.Error) -> EditRefused:
    """What a function of the control schema has refused, as our own error."""
    diag = error.diag
    return EditRefused(diag.message_primary or first_line(error), detail=diag.message_detail, hint=diag.message_hint)


@asynccontextmanager
async def connected(
    topology_by_shard: Mapping[str, Topology], timeout: float, *, some: bool = False
) -> AsyncIterator[Connections]:
    """Connections to these shards, each at the address that its topology gives; all of them or `ScatterError`.

    With `some` those that can be reached; a shard whose connection is lost afterwards fails in the step that meets it.

    The server is not asked who it is. What is not done `timeout` seconds from now is cut off.
    """
    deadline = deadline_after(timeout)
    watchdog = AsyncWatchdog()
    dialer = AsyncDialer(AsyncConnectOptions(), watchdog)
    opened: dict[str, Conn] = {}
    watches = []

    async def connect(name: str, topology: Topology) -> None:
        opened[name] = conn = await dialer.dial(topology, name, min(deadline, deadline_after(_CONNECT)))
        watches.append(watchdog.watch(conn, deadline))

    try:
        steps = [partial(connect, name, topology) for name, topology in topology_by_shard.items()]
        outcomes = await async_run_all(steps)
        failed = {n: e for n, (_, e) in zip(topology_by_shard, outcomes, strict=True) if e is not None}
        if failed and not some:
            raise ScatterError(
                f"{len(failed)} of {len(steps)} shards cannot be reached; nothing was changed", failures=failed
            )
        yield Connections({name: opened[name] for name in topology_by_shard if name not in failed}, failed, deadline)
    finally:
        for watch in watches:
            watchdog.release(watch)
        for conn in opened.values():
            await conn.close()
        watchdog.close()


@asynccontextmanager
async def open_link(
    topology: Topology, shard: str, endpoint: Endpoint | None = None, **kwargs: Any
) -> AsyncIterator[Conn]:
    """A connection in autocommit without a limit of time; `kwargs` are for libpq. To its primary, or that endpoint."""
    watchdog = AsyncWatchdog()
    try:
        dialer = AsyncDialer(AsyncConnectOptions(kwargs=kwargs), watchdog)
        conn = await dialer.dial(topology, shard, deadline_after(_CONNECT), endpoint)
        try:
            yield conn
        finally:
            await conn.close()
    finally:
        watchdog.close()


async def rows(conn: Conn, query: str, params: Any = None) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(query, params)
    return await cursor.fetchall()


async def one(conn: Conn, query: str, params: Any = None) -> Any:
    """The only value of a query's only row."""
    return (await rows(conn, query, params))[0][0]
