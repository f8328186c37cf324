"""A move that is being made, by one topology: its shards, its streams, its record, and who is told how far it is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from ..control import guard
from ..operations.barrier import router_roles
from ..topology import RunningMove, Topology
from . import replication
from .copying import Gate
from .links import STEP, Connections, link, linked
from .options import MoveOptions, Progress, Say
from .record import Record, put, read, set_step
from .replication import MoveStream


@dataclass(frozen=True)
class Work:
    """`check` raises what somebody asks of the mover; `current` is the topology as the file has it now."""

    topology: Topology
    move: RunningMove
    options: MoveOptions
    say: Say
    gate: Gate
    check: Callable[[], Awaitable[None]]
    current: Callable[[], Topology]

    @property
    def forward(self) -> MoveStream:
        return replication.forward(self.topology, self.move)

    @property
    def backward(self) -> MoveStream:
        return replication.backward(self.topology, self.move)

    @property
    def shards(self) -> tuple[str, str]:
        return self.move.source, self.move.target

    @property
    def roles(self) -> list[str]:
        return router_roles(self.topology, self.options.roles)

    @property
    def table_names(self) -> list[str]:
        return [*guard.tables_of(self.topology, self.move)]

    def linked(self, *, seconds: float = STEP) -> AbstractAsyncContextManager[Connections]:
        """Connections to both shards, for a step that takes so long at most."""
        return linked(self.topology, *self.shards, seconds=seconds)

    def tell(self, step: str, **more: Any) -> None:
        self.say(Progress(self.move.number, step, **more))

    async def note(self, step: str, **notes: Any) -> None:
        """Write down on both shards how far the move is."""
        async with self.linked() as conns:
            for name in conns.names:
                await put(conns[name], self.move, notes)
                await set_step(conns[name], self.move.number, step, **notes)

    async def record(self) -> Record | None:
        """What the source has written down."""
        async with link(self.topology, self.move.source) as conn:
            return await read(conn, self.move.number)
