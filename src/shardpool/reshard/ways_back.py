"""The ways back of a move: its rows are handed over once more, or it is undone before they are."""

from __future__ import annotations

from functools import partial

from ..errors import MoveRefused
from ..topology import RunningMove
from . import plan
from .links import link
from .options import Progress
from .record import read
from .replication import apply_errors, is_subscribed
from .states import States


class WaysBack:
    """Those that a move has in the state in which it is; each raises `MoveRefused` where there is none."""

    def __init__(self, states: States) -> None:
        self._states = states

    async def roll_back(self) -> None:
        """Hand the rows over once more, to the shard that they came from."""
        move = self._states.move
        origin = await self._origin()
        if move.state == "guarded" and move.source == origin:
            await self._guarded_or_refused()
            move = self._states.move
        if move.source == origin:
            await self._can_go_back(move)
            back = partial(plan.taken_back, number=self._states.number, source=move.target)
            await self._states.publish("take back", back)
        await self._states.forwards()

    async def _guarded_or_refused(self) -> None:
        """A roll-back in the middle of a hand-over: it is made first, if it has happened."""
        steps = self._states.steps()
        if await steps.owner() == steps.work.move.source:
            raise MoveRefused(
                f"move {self._states.number} has handed nothing over yet",
                hint=f"Undo it with: shardpool move abort {self._states.number}",
            )
        await steps.hand_over()
        change = partial(plan.in_state, number=self._states.number, state="moved")
        await self._states.publish("moved", change)
        await self._states.moved()

    async def _can_go_back(self, move: RunningMove) -> None:
        if move.state != "moved":
            raise MoveRefused(
                f"move {move.number} is {move.state}: its rows are not handed over yet",
                hint=f"Undo it with: shardpool move abort {move.number}",
            )
        back = self._states.steps().work.backward
        async with link(self._states.topology, move.source) as conn:
            if not await is_subscribed(conn, back):
                raise MoveRefused(
                    f"shard {move.source} has no copy that follows, so there is no way back",
                    detail="Its subscription was dropped, or what it needs is gone.",
                    hint=f"Finish the move, and move the rows with another one: shardpool move finish {move.number}",
                )
            if failed := await apply_errors(conn, back):
                self._states.say(
                    Progress(move.number, "warning", note=f"applying on {move.source} failed {failed} times")
                )

    async def _origin(self) -> str:
        """The shard that the rows came from at first."""
        topology = self._states.topology
        move = topology.moves[self._states.number]
        async with link(topology, move.source) as conn:
            record = await read(conn, self._states.number)
        return str((record.told if record is not None else {}).get("origin", move.source))

    async def abort(self) -> None:
        """Undo a move whose rows are not handed over."""
        steps = self._states.steps()
        move = steps.work.move
        if move.state == "moved" or not await steps.take_token_back():
            raise MoveRefused(
                f"the rows of move {move.number} are handed over to {move.target}",
                hint=f"Take them back with: shardpool move rollback {move.number}",
            )
        if await self._origin() != move.source:
            raise MoveRefused(
                f"move {move.number} is being rolled back, and {move.source} has its rows",
                hint=f"Go on with it: shardpool move rollback {move.number}",
            )
        await steps.work.note("aborting")
        await steps.streams.drop()
        await steps.fences.lift_stale_fences()
        await steps.fences.lift_row_guards()
        deleted = await steps.delete_rows(move.target)
        await self._states.end(steps, "aborted")
        steps.work.tell("aborted", rows=deleted)
