"""Moves as a service makes them: `AsyncRouter.moves`, and what the commands are made of."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from ..config import load_topology
from ..errors import MoveRefused, RouterMisuse
from ..topology import RunningMove, Topology
from . import plan, requests
from .mover import Mover
from .options import MoveOptions, Say, quiet
from .side_by_side import side_by_side
from .states import known
from .status import MoveStatus, move_status
from .verify import Comparison, compare_copies

# Seconds for an edit that gives a key, or a part of a range, a bucket of its own.
_EDIT = 120.0


class AsyncMoves:
    """Moves of the fleet of a topology file. The file is edited in its place; routers take it over as they always do.

    Every method that changes something raises `MoveRefused` when it cannot be made as things are, `MoveStopped` when
    another process asks for it, `EditRefused` and `ScatterError` where an edit of the topology does. What is begun
    stays, and is taken up by `resume`, here or by `shardpool move resume`.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        if path is None:
            raise RouterMisuse(
                "moves need the topology file, and this router was made of a Topology", hint="Pass the file's path."
            )
        self._path = path

    @property
    def topology(self) -> Topology:
        """The topology as the file has it now. Reads it."""
        return load_topology(self._path)

    async def plan(
        self,
        keyspace: str | None = None,
        *,
        to: str,
        buckets: Iterable[int] | None = None,
        key: object = None,
        table: str | None = None,
    ) -> RunningMove:
        """The move of these hash or range buckets, of one key, or of a single table to shard `to`.

        A key that shares its bucket gets one of its own first, by an edit of the topology: no row moves by that.
        """
        topology = self.topology
        if sum(given is not None for given in (buckets, key, table)) != 1:
            raise RouterMisuse("say what moves: buckets=, key= or table=")
        if table is not None:
            return plan.move_of_table(topology, table, to)
        space = topology.keyspace(keyspace)
        if buckets is not None:
            return plan.move_of_buckets(topology, space, buckets, to)
        topology = await requests.own_bucket(self._path, topology, space, key, timeout=_EDIT)
        space = topology.keyspaces[space.name]
        return plan.move_of_buckets(topology, space, [space.partitioning.bucket(key)], to)

    async def plan_split(self, keyspace: str | None = None, *, at: object, to: str) -> RunningMove:
        """The move of the keys from `at` on, up to the end of their range, which is divided there first."""
        topology = self.topology
        space = topology.keyspace(keyspace)
        topology = await requests.divided(self._path, topology, space, at, timeout=_EDIT)
        space = topology.keyspaces[space.name]
        return plan.move_of_buckets(topology, space, [space.partitioning.bucket(at)], to)

    async def make(
        self,
        moves: RunningMove | Sequence[RunningMove],
        options: MoveOptions | None = None,
        *,
        at_once: int = 1,
        progress: Say = quiet,
        planned_by: Topology | None = None,
    ) -> list[int]:
        """Make planned moves, until their target owns the rows; gives their numbers.

        So many `at_once`; a shard takes the rows of one at a time. With `options.finish` each to its end.
        When one fails, those that run go on to theirs, no other is begun, and its error is raised. `progress` is told
        each step. `planned_by` is the topology in which they were planned, where the file may have changed since.
        """
        planned = planned_by or self.topology

        async def make(move: RunningMove) -> int:
            return (await Mover(self._path, options, progress).begin(move, planned)).number

        wanted = [moves] if isinstance(moves, RunningMove) else moves
        return await side_by_side(wanted, make, at_once)

    async def resume(self, number: int, options: MoveOptions | None = None, *, progress: Say = quiet) -> None:
        """Go on with a move wherever it was left."""
        await Mover(self._path, options, progress).resume(number)

    async def finish(self, number: int, options: MoveOptions | None = None, *, progress: Say = quiet) -> None:
        """Delete the copy that the source still has. Afterwards there is no way back."""
        await Mover(self._path, options, progress).finish(number)

    async def roll_back(self, number: int, options: MoveOptions | None = None, *, progress: Say = quiet) -> None:
        """Hand the rows back to the shard that they came from, with all that was written since."""
        await Mover(self._path, options, progress).roll_back(number)

    async def abort(self, number: int, options: MoveOptions | None = None, *, progress: Say = quiet) -> None:
        """Undo a move whose rows are not handed over: nothing of it is left on the target."""
        await Mover(self._path, options, progress).abort(number)

    async def pause(self, number: int) -> None:
        """Have the process that makes a move wait until `resume`."""
        await Mover(self._path).ask(number, "pause")

    async def status(self, number: int | None = None, *, over: bool = False) -> list[MoveStatus]:
        """The moves that run, or that of a number; with `over` those as well that are over. Reads only."""
        statuses = await move_status(self.topology, number, over=over)
        if number is not None and not statuses:
            raise MoveRefused(f"there was never a move {number}", hint="All that were: shardpool move status --all")
        return statuses

    async def verify(self, number: int) -> Comparison:
        """Compare both copies of what a move moves, by checksums of its buckets, while they are used. Reads only."""
        topology = self.topology
        return await compare_copies(topology, known(topology, number))
