"""Delete the rows of a move on a shard that does not own them, a piece at a time along the primary key."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import psycopg

from ..operations.connections import Conn, rows
from ..quoting import quote_ident
from ..topology import RunningMove, Topology
from . import tables
from .tables import MovedTable

# Rows that are looked at in one transaction.
_PIECE = 10_000
_ORIGIN = "shardpool_cleanup"


async def delete_rows(
    conn: Conn,
    topology: Topology,
    move: RunningMove,
    of: Sequence[MovedTable],
    *,
    gone: Callable[[int], Awaitable[None]],
    piece: int = _PIECE,
) -> int:
    """Delete the rows that move from these tables; gives how many, and tells each piece of them.

    Neither foreign keys nor triggers are looked at: both ends of each go. Can be made again where it was cut off.
    """
    await conn.execute("set session_replication_role = replica")
    await _as_origin(conn)
    total = 0
    for table in reversed(of):
        total += await _delete(conn, topology, move, table, gone, piece)
    return total


async def _as_origin(conn: Conn) -> None:
    """What is deleted is marked as somebody else's: no subscription that takes only what is written here gets it.

    That takes a right that few have; what a move sends is off by then in any case.
    """
    try:
        async with conn.transaction():
            exists = "select pg_catalog.pg_replication_origin_oid(%s) is not null"
            if not (await rows(conn, exists, (_ORIGIN,)))[0][0]:
                await conn.execute("select pg_catalog.pg_replication_origin_create(%s)", (_ORIGIN,))
        await conn.execute("select pg_catalog.pg_replication_origin_session_setup(%s)", (_ORIGIN,))
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.UniqueViolation, psycopg.errors.ObjectInUse):
        return


async def _delete(
    conn: Conn,
    topology: Topology,
    move: RunningMove,
    table: MovedTable,
    gone: Callable[[int], Awaitable[None]],
    piece: int,
) -> int:
    key = table.primary_key
    names = ", ".join(quote_ident(column.name) for column in key)
    values = ", ".join(f"%s::{column.type}" for column in key)
    as_text = ", ".join(f"{quote_ident(column.name)}::text" for column in key)
    condition = tables.of_move(topology, move, table.name).replace("%", "%%")
    low: tuple[Any, ...] | None = None
    total = 0
    while True:
        above = f"({names}) > ({values})" if low is not None else "true"
        ends = await rows(
            conn,
            f"SELECT {as_text} FROM {table.quoted} WHERE {above} ORDER BY {names} OFFSET {piece - 1} LIMIT 1",
            low or (),
        )
        high = ends[0] if ends else None
        below = f"({names}) <= ({values})" if high is not None else "true"
        cursor = await conn.execute(
            f"DELETE FROM {table.quoted} WHERE {above} AND {below} AND {condition}", (*(low or ()), *(high or ()))
        )
        total += cursor.rowcount
        await gone(cursor.rowcount)
        if high is None:
            return total
        low = high
        await asyncio.sleep(0)
