"""What is left of a connection that was being made when nobody wanted it any more."""

from __future__ import annotations

import asyncio
from time import monotonic

import psycopg
import pytest

from shardpool._endpoint.attempt import Attempt, bounded


async def test_an_attempt_that_is_cancelled_leaves_no_socket_open() -> None:
    """Though its error is kept, and with it the frames that made the connection: a server would wait for a minute."""
    came, left = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.set()
        await reader.read()
        left.set()
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        attempt = Attempt(monotonic() + 60)

        async def connect() -> None:
            with attempt.begun():
                await bounded(psycopg.AsyncConnection).connect(host="127.0.0.1", port=port, sslmode="disable")

        task = asyncio.create_task(connect())
        await came.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as kept:
            await task
        await asyncio.wait_for(left.wait(), 20)
        assert kept.value.__traceback__ is not None
