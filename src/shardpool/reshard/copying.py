"""The rows of a move, copied from one moment of the source: what is written there since then waits in a slot."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import suppress
from time import monotonic

from .._runtime.deadlines import Deadline
from .._runtime.drivers import READ, async_drive_flow
from .._wire.flow import Copied, Flow, copy_rows, sent
from ..operations.connections import Conn, rows
from ..topology import RunningMove, Topology
from . import tables
from .links import open_link
from .replication import MoveStream
from .tables import MovedTable

# Tables that are copied side by side.
_SIDE_BY_SIDE = 2
# Seconds between two checks at what somebody asks of the mover, and at how far it is.
_PAUSE = 0.5
_FOR_EVER = Deadline(1e9)


class Gate:
    """Holds flows up for a while, though they wait for sockets alone: each has one that is told when it goes on."""

    def __init__(self, bytes_per_second: float | None) -> None:
        self._rate = bytes_per_second
        self._since = monotonic()
        self._bytes = 0
        self.is_closed = False

    def count(self, size: int) -> None:
        """So many bytes have passed."""
        self._bytes += size

    def through(self, flow: Flow[None]) -> Generator[dict[int, int], dict[int, int], None]:
        """The flow, which stands still while it is ahead of its rate, or the gate is closed."""
        reading, writing = socket.socketpair()
        reading.setblocking(False)
        try:
            wanted = next(flow)
            while True:
                while (ahead := self._ahead()) > 0:
                    timer = asyncio.get_running_loop().call_later(ahead, _tell, writing)
                    yield {reading.fileno(): READ}
                    timer.cancel()
                    with suppress(BlockingIOError):  # a loop may tell of a socket once more that was read meanwhile
                        reading.recv(1)
                ready = yield wanted
                try:
                    wanted = flow.send(ready)
                except StopIteration:
                    return
        finally:
            reading.close()
            writing.close()

    def _ahead(self) -> float:
        """Seconds to wait: not all at once, so that what is asked of the gate meanwhile is seen."""
        if self.is_closed:
            return _PAUSE
        if self._rate is None:
            return 0.0
        return min(_PAUSE, self._bytes / self._rate - (monotonic() - self._since))


def _tell(writing: socket.socket) -> None:
    with suppress(OSError):  # the flow has ended meanwhile
        writing.send(b"\0")


class _Counted(Copied):
    """What has been copied of all tables, and how fast it may be."""

    def __init__(self, gate: Gate) -> None:
        self.rows = self.bytes = 0
        self._gate = gate

    def count(self, rows: int, size: int) -> None:
        self.rows += rows
        self.bytes += size
        self._gate.count(size)


async def copy(
    topology: Topology,
    move: RunningMove,
    of: MoveStream,
    tables: Sequence[MovedTable],
    *,
    gate: Gate,
    progress: Callable[[int, int], Awaitable[None]],
) -> int:
    """Make the slot, and copy the rows that move as of its moment; gives how many.

    `progress` is told rows and bytes every half second, and stops the copy by raising.
    """
    counted = _Counted(gate)
    async with open_link(topology, move.source, replication="database") as holding:
        snapshot = await _make_slot(holding, of)
        turn = asyncio.Semaphore(_SIDE_BY_SIDE)
        tasks = [_copy_table(topology, move, table, snapshot, counted, gate, turn) for table in tables]
        work = asyncio.gather(*tasks)
        try:
            while not work.done():
                await asyncio.wait([work], timeout=_PAUSE)
                await progress(counted.rows, counted.bytes)
            await work
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait([work])
    return counted.rows


async def _make_slot(conn: Conn, of: MoveStream) -> str:
    """A slot, and the name of the snapshot of its moment, which holds until the connection is used again or ends."""
    slots = await rows(conn, f"CREATE_REPLICATION_SLOT {of.name} LOGICAL pgoutput (SNAPSHOT 'export')")
    return str(slots[0][2])


async def _copy_table(
    topology: Topology,
    move: RunningMove,
    table: MovedTable,
    snapshot: str,
    counted: _Counted,
    gate: Gate,
    turn: asyncio.Semaphore,
) -> None:
    async with turn, open_link(topology, move.source) as source, open_link(topology, move.target) as target:
        await source.execute("begin isolation level repeatable read, read only")
        await source.execute(f"set transaction snapshot '{snapshot}'")
        # Foreign keys are not looked at: both ends come from one moment.
        await target.execute("set session_replication_role = replica")
        columns = tables.column_list(table.stored)
        condition = tables.of_move(topology, move, table.name)
        out = f"COPY (SELECT {columns} FROM {table.quoted} WHERE {condition}) TO STDOUT"
        await async_drive_flow(sent([(source, out)]), _FOR_EVER)
        into = f"COPY {table.quoted} ({columns}) FROM STDIN"
        await async_drive_flow(gate.through(copy_rows([source], target, into, counted)), _FOR_EVER)
        await source.execute("rollback")
        await target.execute("reset session_replication_role")
        await target.execute(f"ANALYZE {table.quoted}")
