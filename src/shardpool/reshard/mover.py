"""Makes a move, or takes one up where it was left: the state in the topology file says what is next.

::

    copying    routers count no row twice; rows are copied, and both shards follow each other
    guarded    routers ask the shards who has the rows; they are compared, and handed over
    moved      routers go to the target; the source keeps a copy that follows, for a way back
    (none)     the copy is deleted

Whatever ends this process, the same command goes on: each step looks at the shards first for whether it is done.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import Any

import psycopg

from .._runtime.drivers import Overdue
from ..config import load_topology
from ..control.locks import LOCK_CLASS, MOVER_LOCK_GROUP
from ..errors import MoveRefused, MoveStopped, ScatterError, ShardUnavailable, first_line
from ..operations.connections import one
from ..topology import RunningMove, Topology
from . import plan
from .copying import Gate
from .links import link, linked, open_link
from .options import MoveOptions, Progress, Say, quiet
from .preflight import Ready, preflight
from .publishing import FilePath
from .record import Record, next_number, put, read
from .states import States, known
from .ways_back import WaysBack

# Seconds between two tries while a server is away, and for another mover to let go.
_AWAY = 1.0
_LETTING_GO = 40.0


class Mover:
    """Makes moves of the fleet of a topology file; one object for one move."""

    def __init__(self, path: FilePath, options: MoveOptions | None = None, say: Say = quiet) -> None:
        self._path = path
        self._options = options or MoveOptions()
        self._say = say
        self._gate = Gate(self._options.throttle)
        self._number = 0

    @property
    def topology(self) -> Topology:
        """The topology as the file has it now."""
        return load_topology(self._path)

    # -- begun -----------------------------------------------------------------------------------------------------

    async def look(self, move: RunningMove) -> Ready:
        """Whether the move can be made; changes nothing. Raises `MoveRefused` with all that is in the way."""
        topology = self.topology
        plan.check(topology, move)
        return await preflight(topology, move, roles=self._options.roles, terminate=self._options.terminates)

    async def begin(self, move: RunningMove, planned_by: Topology | None = None) -> RunningMove:
        """Give the move a number, and make it until its target owns the rows; with `finish` to its end.

        Buckets may have other numbers by now than in the topology in which it was planned. One that runs already is
        taken up. Raises `MoveRefused`, and `MoveStopped` when somebody asks it to stop; what
        is begun stays to be taken up.
        """
        if move.number in self.topology.moves:
            await self.resume(move.number)
            return move
        topology = self.topology
        planned_by = planned_by or topology
        ready = await self.look(plan.carried(move, planned_by, topology))
        notes = {
            "addresses": dict(self._options.addresses),
            "roles": list(self._options.roles),
            "bytes": ready.bytes,
            "origin": move.source,
        }
        while True:
            number = await next_number(topology, topology.shards, self._options.timeout)
            numbered = replace(move, number=number)
            # Before, so that nothing is forgotten when we are killed now; and after, when the number is ours.
            await self._put(topology, numbered, notes, ready.rows, first=True)
            try:
                self._number = number
                entered = partial(plan.begun, move=numbered, planned_by=planned_by)
                topology = await self._states().publish(f"{move.what} to {move.target}", entered)
                break
            except plan.NumberTaken:
                topology = self.topology
        move = topology.moves[number]
        await self._put(topology, move, notes, ready.rows)
        await self.resume(number)
        return move

    async def _put(
        self, topology: Topology, move: RunningMove, notes: Mapping[str, Any], total: int, *, first: bool = False
    ) -> None:
        async with linked(topology, move.source, move.target) as conns:
            for name in conns.names:
                await put(conns[name], move, notes, first=first)
                if not first:
                    query = "update shardpool.moves set total = %s where move = %s"
                    await conns[name].execute(query, (total, move.number))

    def _states(self) -> States:
        return States(self._path, self._number, self._options, self._say, self._gate, self._check)

    # -- what can be done with one ---------------------------------------------------------------------------------

    async def resume(self, number: int) -> None:
        """Go on until the target owns the rows, and, with `finish`, to the end."""
        await self._made(number, States.forwards, wanted=None)

    async def finish(self, number: int) -> None:
        """Delete the copy that the source still has; afterwards there is no way back."""
        await self._made(number, States.finish, wanted=None)

    async def roll_back(self, number: int) -> None:
        """Hand the rows over once more, to the shard that they came from, with all that was written meanwhile."""
        await self._made(number, lambda states: WaysBack(states).roll_back(), wanted="stop")

    async def abort(self, number: int) -> None:
        """Undo a move whose rows are not handed over: nothing of it is left on the target."""
        await self._made(number, lambda states: WaysBack(states).abort(), wanted="stop")

    async def ask(self, number: int, wanted: str | None) -> None:
        """Ask the process that makes the move to `pause`, to `stop`, or (None) to go on."""
        topology = self.topology
        move = known(topology, number)
        async with link(topology, move.source) as conn:
            await conn.execute("update shardpool.moves set wanted = %s where move = %s", (wanted, number))

    async def _made(self, number: int, work: Callable[[States], Awaitable[None]], wanted: str | None) -> None:
        self._number = number
        if number not in self.topology.moves:
            await self._patiently(work)
            return
        await self.ask(number, wanted)
        async with self._showing_alive():
            await self.ask(number, None)
            await self._remember()
            await self._patiently(work)

    async def _remember(self) -> None:
        """What was said when the move was begun holds for who takes it up."""
        record = await self._asked()
        notes = record.told if record is not None else {}
        roles = {*notes.get("roles", ()), *self._options.roles}
        addresses = {**notes.get("addresses", {}), **self._options.addresses}
        self._options = replace(self._options, roles=sorted(roles), addresses=addresses)

    async def _patiently(self, work: Callable[[States], Awaitable[None]]) -> None:
        """Make it again while a server is away: each step that is done stays done."""
        states = self._states()
        end = monotonic() + self._options.patience
        while True:
            try:
                # What was cut off behind its last edit is over but for what it has left on the shards.
                if not await states.tidy_what_is_left():
                    await work(states)
                return
            except (psycopg.OperationalError, ShardUnavailable, ScatterError, Overdue, TimeoutError, OSError) as error:
                if not _is_away(error) or monotonic() >= end:
                    raise
                self._say(Progress(self._number, "waiting", note=first_line(error)))
            await asyncio.sleep(_AWAY)

    async def _check(self) -> None:
        """What somebody asks of us; returns when nothing is asked."""
        while True:
            record = await self._asked()
            wanted = record.wanted if record is not None else None
            self._gate.is_closed = wanted == "pause"
            if wanted == "stop":
                raise MoveStopped(
                    f"move {self._number} was stopped by another command",
                    hint=f"Where it is is told by: shardpool move status {self._number}",
                )
            if wanted != "pause":
                return
            self._say(Progress(self._number, "paused"))
            await asyncio.sleep(0.5)

    async def _asked(self) -> Record | None:
        topology = self.topology
        async with link(topology, topology.moves[self._number].source) as conn:
            return await read(conn, self._number)

    @asynccontextmanager
    async def _showing_alive(self) -> AsyncIterator[None]:
        """Hold the lock by which others see that this move is being made; raises when somebody else makes it."""
        topology = self.topology
        move = topology.moves[self._number]
        shard = min(move.source, move.target)  # the same in either direction
        async with open_link(topology, shard) as conn:
            end = monotonic() + _LETTING_GO
            query = "select pg_catalog.pg_try_advisory_lock(%s, %s)"
            while not await one(conn, query, (LOCK_CLASS, MOVER_LOCK_GROUP - self._number)):
                if monotonic() >= end:
                    raise MoveRefused(
                        f"another process makes move {self._number} just now",
                        hint="End it first: what it has done stays, and is gone on with.",
                    )
                await asyncio.sleep(0.2)
            yield


# What passes by itself: a server that starts or ends, a lock, two who wait for each other, a full house.
_PASSES = ("08", "57P", "55", "40", "53300")


def _is_away(error: BaseException) -> bool:
    """Whether an error says that a server is not there for now, rather than that it refuses."""
    if isinstance(error, ScatterError):
        return all(_is_away(failure) for failure in error.failures.values())
    if isinstance(error, psycopg.Error):
        return isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(_PASSES)
    return True
