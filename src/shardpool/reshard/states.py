"""The states of a move: what is done in each, and how the topology file comes to say the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, time
from functools import partial

from ..config import load_topology
from ..errors import MoveRefused
from ..topology import RunningMove, Topology
from . import plan
from .copying import Gate
from .options import MoveOptions, Progress, Say
from .publishing import FilePath, Make, publish
from .record import find
from .steps import Steps
from .work import Work


class States:
    """One move of the fleet of a topology file, from the state in which the file has it.

    `check` raises what somebody asks of the mover, and waits while it is to pause.
    """

    def __init__(
        self,
        path: FilePath,
        number: int,
        options: MoveOptions,
        say: Say,
        gate: Gate,
        check: Callable[[], Awaitable[None]],
    ) -> None:
        self.number = number
        self.say = say
        self._path = path
        self._options = options
        self._gate = gate
        self._check = check

    @property
    def topology(self) -> Topology:
        """The topology as the file has it now."""
        return load_topology(self._path)

    @property
    def move(self) -> RunningMove:
        """The move as the file has it now."""
        return self.topology.moves[self.number]

    def steps(self) -> Steps:
        """What can be done in the state of this moment."""
        topology = self.topology
        return self._steps(topology, topology.moves[self.number])

    def _steps(self, topology: Topology, move: RunningMove) -> Steps:
        current = partial(load_topology, self._path)
        return Steps(Work(topology, move, self._options, self.say, self._gate, self._check, current))

    async def publish(self, change: str, make: Make) -> Topology:
        """Write the file and tell the shards, as an edit does: `change` says what for."""
        self.say(Progress(self.number, "publishing", note=change))
        options, why = self._options, f"move {self.number}: {change}"
        return await publish(self._path, self.number, why, make, timeout=options.timeout, author=options.author)

    async def tidy_what_is_left(self) -> bool:
        """Whether the move is out of the file and its shards were not tidied any more: then they are now."""
        topology = self.topology
        if self.number in topology.moves:
            return False
        record = await find(topology, self.number)
        if record is None or record.is_over or record.step not in ("finishing", "aborting"):
            known(topology, self.number)
            return False
        steps = self._steps(topology, record.move)
        await steps.tidy("finished" if record.step == "finishing" else "aborted")
        steps.work.tell("tidied")
        return True

    async def forwards(self) -> None:
        """Until the target owns the rows, and, with `finish`, to the end."""
        if self.move.state == "copying":
            await self._copying()
            await self._in_window()
            await self.publish("hand over", partial(plan.in_state, number=self.number, state="guarded"))
        if self.move.state == "guarded":
            await self._guarded()
            await self.publish("moved", partial(plan.in_state, number=self.number, state="moved"))
        await self.moved()
        if self._options.finish:
            await self.finish()

    async def _copying(self) -> None:
        steps = self.steps()
        await steps.wait_for_routers(steps.work.move.target)
        await self._check()
        record = await steps.work.record()
        await steps.copy_rows(record.total if record is not None else 0)
        await self._check()
        await steps.streams.follow_back()
        await steps.streams.catch_up()

    async def _guarded(self) -> None:
        steps = self.steps()
        move = steps.work.move
        if await steps.owner() == move.source:
            await steps.wait_for_routers(move.source, move.target)
            await steps.fences.draw_stale_fences()
            await steps.fences.draw_row_guards()
            await steps.fences.draw_row_fences(move.target, anew=True)
            await steps.streams.follow_back()
            await steps.work.note("guarded")
            await self._check()
            await steps.rehearse()
            await steps.advance_sequences()
            await self._check()
        await steps.hand_over()

    async def moved(self) -> None:
        """The rows are handed over: routers go to the target, and the source follows."""
        steps = self.steps()
        await steps.wait_for_routers(steps.work.move.source)
        await steps.fences.draw_row_fences(steps.work.move.source, anew=False)
        await steps.fences.draw_row_fences(steps.work.move.target, anew=True)
        await steps.fences.lift_stale_fences()
        await steps.fences.lift_row_guards()
        await steps.streams.turn_round()
        await steps.work.note("moved")
        steps.work.tell("moved")

    async def finish(self) -> None:
        """Delete the copy that the source still has."""
        state = self.move.state
        if state != "moved":
            raise MoveRefused(
                f"move {self.number} is {state}: its rows are not handed over yet",
                hint=f"Take it up with: shardpool move resume {self.number}",
            )
        await self.moved()
        steps = self.steps()
        await steps.work.note("finishing")
        await steps.streams.drop()
        deleted = await steps.delete_rows(steps.work.move.source)
        await self.end(steps, "finished")
        steps.work.tell("finished", rows=deleted)

    async def end(self, steps: Steps, how: str) -> None:
        """Take the move out of the file, and all that is left of it off the shards."""
        # Of both shards first: who is killed after the file is written has the rest left over, which harms nobody.
        await self.publish(how, partial(plan.ended, number=self.number))
        await steps.tidy(how)

    async def _in_window(self) -> None:
        """Until the time of day in which rows may be handed over."""
        window = self._options.window
        while window is not None and not _is_in(window, datetime.now()):
            self.say(Progress(self.number, "waiting", note=f"for {window[0]:%H:%M}"))
            await asyncio.sleep(1.0)
            await self._check()


def known(topology: Topology, number: int) -> RunningMove:
    """The move of that number; raises `MoveRefused` when none runs."""
    if number not in topology.moves:
        running = ", ".join(map(str, topology.moves.values())) or "none"
        raise MoveRefused(f"no move {number} is running", detail=f"Running: {running}.")
    return topology.moves[number]


def _is_in(window: tuple[time, time], now: datetime) -> bool:
    (first, last), at = window, now.time()
    return first <= at < last if first <= last else at >= first or at < last
