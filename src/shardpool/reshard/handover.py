"""The moment in which the rows of a move change hands: one transaction on the source decides.

A writer holds the guard's lock, shared, until its commit is in the log, and the hand-over has it exclusive only after
all of those: so its token stands behind them, and whoever applies the log has the rows before the token. Owners are
{source}, then {}, then {target}.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from time import monotonic

import psycopg

from ..control.locks import LOCK_CLASS, ROW_LOCK_CLASS
from ..errors import MoveRefused
from ..operations.barrier import stale_sessions
from ..operations.connections import Conn, one, rows
from ..topology import RunningMove, Topology
from .links import open_link
from .verify import held, holders

_TOKEN = "select owner, epoch from shardpool.token where move = %s"
_GIVE = "update shardpool.token set owner = %s, epoch = epoch + 1 where move = %s and owner = %s"
# Of the log that is written just now: the control file learns of a promotion with the next checkpoint only.
_TIMELINE = """
    select ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8))::bit(32)::int
"""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """How long it took, in seconds: to get the lock (None: it was given before), and until the target had the token.

    An `arrival` of None: the target has not got it in time.
    """

    locking: float | None
    arrival: float | None


class _WorksBehind(MoveRefused):
    """A session works by an older topology, or by none yet: one that connects just now declares within milliseconds."""


async def token_owner(conn: Conn, number: int) -> str | None:
    """Who owns the rows of a move, as a shard has it; None where it has no token."""
    tokens = await rows(conn, _TOKEN, (number,))
    return str(tokens[0][0]) if tokens else None


async def timeline(conn: Conn) -> int:
    """The history of the server's log: another after a standby was promoted."""
    return int(await one(conn, _TIMELINE))


async def hand_over(
    topology: Topology,
    move: RunningMove,
    *,
    roles: Sequence[str],
    on_timeline: int,
    lock_timeout: float,
    terminate: bool,
    seconds: float,
    tries: int = 8,
) -> HandedOver:
    """Give the rows to the target, unless that is done, and wait for so many seconds until it has them.

    Raises `MoveRefused` with nothing changed when writers do not let us in, or a session works by an older topology.
    """
    async with open_link(topology, move.source) as source, open_link(topology, move.target) as target:
        # Below deadlock_timeout: of two who wait for each other it is we who give way.
        await source.execute(f"set lock_timeout = '{int(lock_timeout * 1000)}ms'")
        locking: float | None = None
        ended = False
        attempt = 0
        while await token_owner(source, move.number) == move.source:
            begun = monotonic()
            try:
                locking = await _give(source, topology, move, roles, on_timeline, begun)
                break
            except psycopg.errors.LockNotAvailable:
                attempt += 1
            except _WorksBehind:
                attempt += 1
                if attempt >= tries:
                    raise
                await asyncio.sleep(min(1.0, 0.05 * 2**attempt))
                continue
            by = await holders(source, move.number)
            if attempt >= tries:
                if not terminate or ended:
                    raise held(move.number, by)
                for _, pid in by:
                    await source.execute("select pg_catalog.pg_terminate_backend(%s)", (pid,))
                ended, attempt = True, tries - 4
            await asyncio.sleep(min(1.0, 0.05 * 2**attempt))
        return HandedOver(locking, await _arrival(target, move, seconds))


async def _give(
    conn: Conn, topology: Topology, move: RunningMove, roles: Sequence[str], on_timeline: int, begun: float
) -> float:
    async with conn.transaction():
        for lock in (LOCK_CLASS, ROW_LOCK_CLASS):
            await conn.execute("select pg_catalog.pg_advisory_xact_lock(%s, %s)", (lock, move.number))
        taken = monotonic() - begun
        # Looked at once more, now that nobody works on the rows: a server that was restarted, or promoted, may have
        # forgotten what the barrier had reached.
        if await one(conn, "select min_epoch from shardpool.meta") < topology.epoch:
            raise MoveRefused(f"shard {move.source} lets in sessions of older epochs again", hint="Run it again.")
        if await timeline(conn) != on_timeline:
            raise MoveRefused(
                f"another server has become the primary of shard {move.source} since the rows were copied",
                detail="What it has not got from the old one was never sent.",
                hint=f"Undo the move, and begin it again: shardpool move abort {move.number}",
            )
        left = await stale_sessions(conn, move.source, topology.epoch, roles)
        if left:
            raise _WorksBehind(
                f"sessions on shard {move.source} work by an older topology again",
                detail="; ".join(map(str, left[:10])),
                hint="Run it again: it waits for them.",
            )
        await conn.execute(_GIVE, (move.target, move.number, move.source))
    return taken


async def _arrival(target: Conn, move: RunningMove, seconds: float) -> float | None:
    """How many seconds it took until the target had the token; None when it has not got it within so many."""
    begun = monotonic()
    pause = 0.0005
    while await token_owner(target, move.number) != move.target:
        if monotonic() - begun >= seconds:
            return None
        await asyncio.sleep(pause)
        pause = min(2 * pause, 0.05)
    return monotonic() - begun
