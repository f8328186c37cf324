"""The connections of a call on many shards are given back: all of them, whatever comes meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

from psycopg import AsyncConnection
from psycopg.pq import TransactionStatus

from ..._runtime.interrupts import async_uninterrupted
from ..._runtime.slots import PLACE, Place
from .pools import AsyncEndpointPool

# Nothing to roll back, and nothing left to roll back on.
_AT_REST = (TransactionStatus.IDLE, TransactionStatus.UNKNOWN)


async def give_all(
    taken: Iterable[tuple[AsyncEndpointPool, AsyncConnection[Any]]],
    make_ready: Callable[[], Awaitable[None]] | None = None,
) -> None:
    """Give back what a call on many shards has held; before, `make_ready` is called if something is not at rest.

    What takes more than a moment goes on to its end when the caller is cancelled.
    """
    held = [(pool, conn, conn.__dict__[PLACE]) for pool, conn in taken]
    given = False
    try:
        given = all(conn.pgconn.transaction_status in _AT_REST for _, conn, _ in held) and all(
            pool.give_at_once(conn, place) for pool, conn, place in held
        )
    finally:
        if not given:
            await async_uninterrupted(partial(_give_each, make_ready), held)


async def _give_each(
    make_ready: Callable[[], Awaitable[None]] | None,
    held: list[tuple[AsyncEndpointPool, AsyncConnection[Any], Place]],
) -> None:
    """Over an interrupt too, which is raised when the last is back."""
    interrupt: BaseException | None = None
    try:
        if make_ready is not None:
            await make_ready()
    except BaseException as error:
        interrupt = error
    for pool, conn, place in held:
        try:
            if not pool.give_at_once(conn, place):
                await pool.give_slowly(conn, place)
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt
