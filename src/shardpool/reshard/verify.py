"""Whether both shards of a move hold the same rows: a checksum of each bucket, on two snapshots of one moment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import psycopg

from ..control.locks import LOCK_CLASS, ROW_LOCK_CLASS
from ..errors import MoveRefused
from ..operations.connections import Conn, rows
from ..topology import RunningMove, Topology
from . import tables
from .links import open_link
from .replication import await_marker, send_marker
from .tables import MovedTable

# Both sides write values alike.
_ALIKE = "set timezone = 'UTC'"
# How often it is tried to hold writers up for no longer than they may be, and to get in among them each time.
_TRIES = 5
_LOCK_TRIES = 20
# Seconds in which a server answers that answers at all.
_SILENT = 5.0
# Seconds for which writers may be held up by who only looks, and in which what is written arrives.
_NOT_NOTICED = 0.2
_ARRIVES = 60.0

Sums = Mapping[tuple[str, int], tuple[int, str]]
"""Table and bucket (-1: the whole table) → how many rows it has, and the sum of their hashes."""


@dataclass(frozen=True, slots=True)
class BucketDifference:
    """A bucket of a table that is not the same on both shards; -1 is the whole table."""

    table: str
    bucket: int
    here: int
    there: int

    def __str__(self) -> str:
        where = f"bucket {self.bucket} of " if self.bucket >= 0 else ""
        return f"{where}{self.table.removeprefix('public.')}: {self.here} rows here, {self.there} there"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a comparison found; `pause` is how long writers of the rows were held up for it, in seconds."""

    rows: int
    pause: float
    differences: tuple[BucketDifference, ...]


def sums_query(topology: Topology, move: RunningMove, table: MovedTable) -> str:
    """A query for rows (bucket, count, sum): 64 bits of hash of each row, summed up, so that their order is nothing.

    A row is hashed as the text of its columns, generated ones as well.
    """
    bucket = tables.row_bucket(topology, table.name) or "-1"
    row = tables.column_list(table.columns)
    return (
        f"SELECT bucket, count(*), sum(pg_catalog.hashtextextended(line, 0))::text FROM (\n"
        f"  SELECT {bucket} AS bucket, ROW({row})::text AS line FROM {table.quoted}\n"
        f"  WHERE {tables.of_move(topology, move, table.name)} OFFSET 0) AS found\nGROUP BY bucket"
    )


async def sums(conn: Conn, topology: Topology, move: RunningMove, of: Sequence[MovedTable]) -> Sums:
    """The checksums of the buckets that move, as the connection's snapshot has them. Reads the tables."""
    sum_by_bucket: dict[tuple[str, int], tuple[int, str]] = {}
    for table in of:
        for bucket, count, total in await rows(conn, sums_query(topology, move, table)):
            sum_by_bucket[table.name, bucket] = (count, total)
    return sum_by_bucket


def differences(here: Sums, there: Sums) -> tuple[BucketDifference, ...]:
    """What differs between two sides."""
    return tuple(
        BucketDifference(*place, here.get(place, (0, ""))[0], there.get(place, (0, ""))[0])
        for place in sorted(here.keys() | there.keys())
        if here.get(place, (0, "0")) != there.get(place, (0, "0"))
    )


async def compare(
    topology: Topology,
    move: RunningMove,
    of: Sequence[MovedTable],
    *,
    limit: float,
    wait: bool = True,
) -> Comparison:
    """Compare both sides. With `wait`, while the rows are guarded: writers wait for a moment, and the answer is exact.

    Raises `MoveRefused` when the writers would have to wait for longer than `limit` seconds, again and again, or do not
    let us in. Without `wait` nobody does, and the limit is for what is written to arrive.
    """
    follower = _follower(move)
    async with open_link(topology, move.owner) as here, open_link(topology, follower) as there:
        for conn in (here, there):
            await conn.execute(_ALIKE)
        pause = await _snapshots(topology, move, here, there, limit, wait)
        one, other = await asyncio.gather(sums(here, topology, move, of), sums(there, topology, move, of))
    return Comparison(sum(count for count, _ in one.values()), pause, differences(one, other))


async def _snapshots(topology: Topology, move: RunningMove, here: Conn, there: Conn, limit: float, wait: bool) -> float:
    """A snapshot on each side; gives how long it held up the writers."""
    # From who owns the rows to who follows: before PostgreSQL 16 only that direction is on.
    follower = _follower(move)
    async with open_link(topology, move.owner) as locking, open_link(topology, follower) as looking:
        for attempt in range(_TRIES):
            if wait:
                await locked(locking, move.number, min(0.2, max(0.01, limit)), _LOCK_TRIES)
            begun = monotonic()
            # A server that does not answer gives the lock up with the connection.
            async with asyncio.timeout(limit + _SILENT):
                await _begin(here)
                n = await send_marker(locking, move.number)
                arrived = await await_marker(looking, move.number, n, limit)
                await _begin(there)
                pause = monotonic() - begun
                if wait:
                    await _unlocked(locking, move.number)
            if arrived is not None and (pause <= limit or not wait):
                return pause
            for conn in (here, there):
                await conn.execute("rollback")
            await asyncio.sleep(min(2.0, 0.1 * 2**attempt))
    raise MoveRefused(
        f"what is written on shard {move.owner} takes longer than {limit * 1000:,.0f} ms to shard {follower}",
        detail=f"It took {pause * 1000:,.0f} ms at last. Nothing was handed over.",
        hint="Run it again when there is less to do, or let writers wait for longer with --pause-limit. What holds it "
        f"up is told by: shardpool move status {move.number}",
    )


def _follower(move: RunningMove) -> str:
    """The shard that does not own the rows, by the file."""
    return move.target if move.owner == move.source else move.source


async def _begin(conn: Conn) -> None:
    """A snapshot of now."""
    await conn.execute("begin isolation level repeatable read, read only")
    await conn.execute("select pg_catalog.pg_current_snapshot()")


async def locked(conn: Conn, number: int, lock_timeout: float, tries: int) -> None:
    """Hold the lock of a move for the session: every unit of work on its rows waits. Gives way again and again."""
    await conn.execute(f"set lock_timeout = '{int(lock_timeout * 1000)}ms'")
    for attempt in range(tries):
        try:
            for lock in (LOCK_CLASS, ROW_LOCK_CLASS):
                await conn.execute("select pg_catalog.pg_advisory_lock(%s, %s)", (lock, number))
            return
        except psycopg.errors.LockNotAvailable:
            await _unlocked(conn, number)
            if attempt == tries - 1:
                raise held(number, await holders(conn, number)) from None
            await asyncio.sleep(min(1.0, 0.05 * 2**attempt))


async def _unlocked(conn: Conn, number: int) -> None:
    """None of the locks of `locked` any more, which may be one of them only."""
    held = "select pg_catalog.pg_advisory_unlock(classid::int, objid::int) from pg_catalog.pg_locks"
    mine = "locktype = 'advisory' and pid = pg_catalog.pg_backend_pid() and granted and objsubid = 2"
    await conn.execute(
        f"{held} where {mine} and classid in (%s, %s) and objid = %s", (LOCK_CLASS, ROW_LOCK_CLASS, number)
    )


_HOLDERS = """
    select distinct coalesce('process ' || l.pid || ' of ' || a.usename || ' (' || a.state || ', for '
        || (extract(epoch from pg_catalog.clock_timestamp() - a.xact_start))::int || ' s)',
      'prepared transaction ' || (select x.gid from pg_catalog.pg_prepared_xacts x
        join pg_catalog.pg_locks o on o.locktype = 'transactionid' and o.transactionid = x.transaction
        where o.pid is null and o.virtualtransaction = l.virtualtransaction),
      'a prepared transaction'), l.pid
    from pg_catalog.pg_locks l left join pg_catalog.pg_stat_activity a using (pid)
    where l.locktype = 'advisory' and l.classid in (%s, %s) and l.objid = %s and l.granted
      and l.pid is distinct from pg_catalog.pg_backend_pid()
"""


async def holders(conn: Conn, number: int) -> list[tuple[str, int | None]]:
    """Who works on the rows of a move, in words, and the number of the process."""
    return [(row[0], row[1]) for row in await rows(conn, _HOLDERS, (LOCK_CLASS, ROW_LOCK_CLASS, number))]


def held(number: int, by: Sequence[tuple[str, int | None]]) -> MoveRefused:
    """Why the lock of a move cannot be had."""
    return MoveRefused(
        f"rows of move {number} are used by transactions that do not end",
        detail="; ".join(session for session, _ in by) or "They have ended by now.",
        hint="Run it again; with --stragglers terminate they are ended, but for prepared ones: what a router has left "
        "is ended by shardpool transactions recover, and others by COMMIT PREPARED or ROLLBACK PREPARED.",
    )


# Looks after which a bucket that was never the same on both sides is said to differ.
_CHECKS = 5


async def compare_copies(topology: Topology, move: RunningMove) -> Comparison:
    """Compare both copies of a move that is copied, while they are used.

    Guarded rows are compared exactly. Else nobody waits: a bucket that differs is looked at again, up to five times,
    since what is just being written has not arrived yet; only one that is the same in no look is told.
    """
    async with open_link(topology, move.owner) as conn:
        moved = await tables.read_tables(conn, topology, move)
    if move.state == "guarded":
        return await compare(topology, move, moved, limit=_NOT_NOTICED)
    done = await compare(topology, move, moved, limit=_ARRIVES, wait=False)
    left = {(one.table, one.bucket): one for one in done.differences}
    for _ in range(_CHECKS - 1):
        if not left:
            break
        again = await compare(topology, move, moved, limit=_ARRIVES, wait=False)
        still = {(one.table, one.bucket) for one in again.differences}
        left = {place: one for place, one in left.items() if place in still}
    return Comparison(done.rows, 0.0, tuple(left.values()))
