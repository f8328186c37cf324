"""What holds a copy up while its move is paused, or goes no faster than it may."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from typing import Any

import pytest

from shardpool._runtime.deadlines import Deadline
from shardpool._runtime.drivers import READ, async_drive_flow
from shardpool.reshard import copying
from tests.timing import SLOW


def test_a_copy_goes_on_after_any_number_of_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """And meanwhile the loop goes on: it is by that loop that the move is told to."""
    monkeypatch.setattr(copying, "_PAUSE", 0.001)
    gate = copying.Gate(None)
    gate.is_closed = True
    ours, theirs = socket.socketpair()

    def flow() -> Generator[dict[int, int], dict[int, int], None]:
        yield {ours.fileno(): READ}
        gate.is_closed = True
        asyncio.get_running_loop().call_later(0.02, open_it)
        yield {ours.fileno(): READ}

    def open_it() -> None:
        gate.is_closed = False

    async def copied() -> None:
        asyncio.get_running_loop().call_later(0.02, open_it)
        made: Any = async_drive_flow(gate.through(flow()), Deadline(1e9))
        await asyncio.wait_for(made, SLOW)

    with ours, theirs:
        theirs.send(b"x")
        asyncio.run(copied())
