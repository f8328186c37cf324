"""Finds deadlocks over several shards, and ends one of the transactions in each: `control.deadlocks` says how.

Nobody looks as long as nobody has waited for long. Each router ends only statements of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from time import monotonic
from typing import Any, Protocol

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..._endpoint.refusals import Retired
from ..._runtime.deadlines import deadline_after
from ..._runtime.periodic import AsyncBackground
from ..._runtime.tasks import async_run_all, async_sleep
from ...control import deadlocks
from ...control.deadlocks import Declared
from ...errors import DistributedDeadlock, ShardError, first_line
from .servers import AsyncServers, connected

_log = logging.getLogger("shardpool")

Conn = AsyncConnection[Any]

# Seconds between two checks, that a server has to let us in, and that the same connections are used.
_AGAIN = 0.15
_CONNECT_SECONDS = 1.0
_CHECK_SECONDS = 30.0
# Looks at the shards of those who wait, before others are asked, too, over which a longer circle may go.
_NARROW = 3
# After so many looks it is looked every second: who waits so long is seldom in a circle.
_OFTEN, _SELDOM = 30, 1.0
_NEVER = 86_400.0
_STOP_SECONDS = 2.0


class WaitingTransaction(Protocol):
    """A transaction over several shards of this router."""

    deadlock: DistributedDeadlock | None
    number: int

    @property
    def pids(self) -> Mapping[str, int]: ...

    @property
    def is_waiting(self) -> bool: ...


class AsyncDeadlocks:
    """Looks after those transactions of a router that wait for long."""

    def __init__(self, fleet: AsyncServers) -> None:
        self._fleet = fleet
        self._waiting: dict[WaitingTransaction, None] = {}
        self._is_over = False
        self._background = AsyncBackground("shardpool-deadlocks", _NEVER, self._step)

    def take_up(self, one: WaitingTransaction) -> None:
        """It may wait in a circle; from any thread, or the loop."""
        if one not in self._waiting and not self._is_over:
            self._waiting[one] = None
            self._background.start()
            self._background.wake()

    async def stop(self, timeout: float) -> None:
        self._is_over = True
        await self._background.stop(min(timeout, _STOP_SECONDS))

    def start_afresh(self) -> None:
        """In a forked child, to which the parent's transactions do not belong."""
        self._waiting = {}
        self._background = AsyncBackground("shardpool-deadlocks", _NEVER, self._step)

    def _current(self) -> list[WaitingTransaction]:
        for one in [*self._waiting]:
            if not one.is_waiting:
                self._waiting.pop(one, None)
        return [] if self._is_over else [*self._waiting]

    async def _step(self) -> None:
        checks = 0
        while waiting := self._current():
            names = {name for one in waiting for name in one.pids}
            if checks >= _NARROW:
                shards = self._fleet.topology.shards.values()
                # Elsewhere what is declared would stay with a session of the pooler's.
                names.update(shard.name for shard in shards if shard.writable.pooler != "transaction")
            try:
                checks += await self._checked(names, checks)
            except (ShardError, psycopg.Error, Retired) as error:
                _log.info("deadlocks over shards could not be looked for: %s", first_line(error))
                await async_sleep(_AGAIN)

    async def _checked(self, names: Iterable[str], before: int) -> int:
        """Look until nobody waits any more, or other shards have to be asked, too; how often that was."""
        until = deadline_after(_CHECK_SECONDS)
        async with connected(self._fleet, names, until, _CONNECT_SECONDS) as (conns, _):
            declared: dict[str, set[int]] = {name: set() for name in conns}
            await _each(conns, _introduce)
            checks = 0
            while (waiting := self._current()) and monotonic() < until - _CONNECT_SECONDS:
                await _each(conns, partial(_declare, waiting, declared))
                await self._cut(waiting, await _each(conns, _asked), conns)
                checks += 1
                joined = {name for one in waiting for name in one.pids}
                if before < _NARROW <= before + checks or not joined <= {*names}:
                    break
                await async_sleep(_AGAIN if checks < _OFTEN else _SELDOM)
        return checks

    async def _cut(
        self, waiting: Iterable[WaitingTransaction], asked: Iterable[list[Declared]], conns: Mapping[str, Conn]
    ) -> None:
        declared = [each for rows in asked for each in rows]
        for one in waiting:
            circle = deadlocks.circle(one.number, declared)
            if not circle or one.deadlock is not None or deadlocks.victim(circle) != one.number:
                continue
            first = circle[0]
            one.deadlock = deadlocks.error_of(circle)
            done = await conns[first.shard].execute(deadlocks.CANCEL_QUERY, (first.pid, first.since), prepare=False)
            if not done.rowcount:
                # It has got its lock meanwhile.
                one.deadlock = None


async def _each(conns: Mapping[str, Conn], function: Any) -> list[Any]:
    """What `function(name, conn)` gives for each, side by side; a shard that is lost meanwhile gives nothing."""
    outcomes = await async_run_all([partial(function, name, conn) for name, conn in conns.items()])
    for _, error in outcomes:
        if error is not None and not isinstance(error, psycopg.Error):
            raise error
    return [value for value, error in outcomes if error is None]


async def _introduce(name: str, conn: Conn) -> None:
    await conn.execute(
        "select pg_catalog.set_config('application_name', %s, false)", (deadlocks.APPLICATION,), prepare=False
    )


async def _declare(waiting: Iterable[WaitingTransaction], declared: dict[str, set[int]], name: str, conn: Conn) -> None:
    """Have the server know of the sessions that they have there, and of no others."""
    keys = {deadlocks.key(one.number, pid) for one in waiting if (pid := one.pids.get(name)) is not None}
    for query, changed in (
        (deadlocks.DECLARE_QUERY, keys - declared[name]),
        (deadlocks.WITHDRAW_QUERY, declared[name] - keys),
    ):
        if changed:
            await conn.execute(query, ([*changed],), prepare=False)
    declared[name] = keys


async def _asked(name: str, conn: Conn) -> list[Declared]:
    cursor = conn.cursor(row_factory=tuple_row)
    await cursor.execute(deadlocks.WAITS_QUERY, prepare=False)
    return [Declared.of(name, *row) for row in await cursor.fetchall()]
