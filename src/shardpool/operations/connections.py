"""Connections to the primaries of some shards for the time of one operation, outside of any router's pools."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from time import monotonic
from typing import Any, TypeVar

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from .._async.connector import AsyncConnectOptions, AsyncConnector
from .._concurrency import async_run_all
from .._watchdog import AsyncWatchdog
from ..errors import EditRefused, ScatterError, ShardUnavailable, first_line
from ..topology import Topology

T = TypeVar("T")

Conn = AsyncConnection[Any]

# What the control schema's own functions raise: somebody was first, and an edit that is not finished.
_REFUSALS = ("RS002", "RS003", "55000")


class Connections:
    """Connections by the name of the shard, in autocommit."""

    def __init__(self, conns: Mapping[str, Conn]) -> None:
        self._conns = dict(conns)

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
        outcomes = await async_run_all([partial(step, name, self._conns[name]) for name in named])
        failures = {name: error for name, (_, error) in zip(named, outcomes, strict=True) if error is not None}
        for error in failures.values():
            if not isinstance(error, Exception):
                raise error
            if isinstance(error, EditRefused):
                raise error
            if isinstance(error, psycopg.Error) and error.sqlstate in _REFUSALS:
                raise refusal(error) from None
        if failures:
            raise ScatterError(f"{what} failed on {len(failures)} of {len(named)} shards", failures=failures)
        return {name: value for name, (value, _) in zip(named, outcomes, strict=True)}


def refusal(error: psycopg.Error) -> EditRefused:
    """What a function of the control schema has refused, as our own error."""
    told = error.diag
    return EditRefused(told.message_primary or first_line(error), detail=told.message_detail, hint=told.message_hint)


@asynccontextmanager
async def connected(
    topology_by_shard: Mapping[str, Topology], timeout: float, *, some: bool = False
) -> AsyncIterator[Connections]:
    """Connections to these shards, each at the address that its topology gives; all of them or `ScatterError`.

    With `some` those that can be reached.

    The server is not asked who it is. What is not done `timeout` seconds from now is cut off.
    """
    deadline = monotonic() + timeout
    watchdog = AsyncWatchdog()
    opened: dict[str, Conn] = {}
    watches = []

    async def connect(name: str, topology: Topology) -> None:
        endpoint = topology.shard(name).writable
        try:
            conn = await AsyncConnector(topology, name, endpoint, AsyncConnectOptions(), watchdog).connect_unchecked(
                deadline
            )
        except psycopg.Error as error:
            raise ShardUnavailable(
                f"shard {name} cannot be reached",
                shard=name,
                endpoint=endpoint.name,
                phase="connect",
                detail=f"{endpoint.address}: {first_line(error)}",
            ) from error
        opened[name] = conn
        watches.append(watchdog.watch(conn, deadline))
        await conn.set_autocommit(True)

    try:
        steps = [partial(connect, name, topology) for name, topology in topology_by_shard.items()]
        outcomes = await async_run_all(steps)
        failed = {n: e for n, (_, e) in zip(topology_by_shard, outcomes, strict=True) if e is not None}
        if failed and not some:
            raise ScatterError(
                f"{len(failed)} of {len(steps)} shards cannot be reached; nothing was changed", failures=failed
            )
        yield Connections({name: opened[name] for name in topology_by_shard if name not in failed})
    finally:
        for watch in watches:
            watchdog.release(watch)
        await async_run_all([conn.close for conn in opened.values()])
        watchdog.close()


async def rows(conn: Conn, query: str, params: Any = None) -> list[tuple[Any, ...]]:
    """All rows of a query."""
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(query, params)
    return await cursor.fetchall()


async def one(conn: Conn, query: str, params: Any = None) -> Any:
    """The only value of a query's only row."""
    return (await rows(conn, query, params))[0][0]
