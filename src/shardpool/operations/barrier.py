"""Wait until nobody works by an older topology on a shard: by what its sessions declare, not by the clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from time import monotonic
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from ..control import guard
from ..errors import MoveRefused, ShardUnavailable, first_line
from ..topology import Topology
from .connections import Conn, one, open_link, rows

# Seconds between two checks, at first and at most: each stops the server's lock table for a moment.
_FIRST, _LONGEST = 0.05, 1.0
# Seconds that a session has to end when it was told to.
_ENDING = 5.0


@dataclass(frozen=True, slots=True)
class Straggler:
    """A session of a router that works by an older epoch, or (None) by none; `since` is its transaction's begin.

    One without a `pid` is a server that cannot be asked who is on it.
    """

    shard: str
    pid: int | None
    role: str | None
    host: str | None
    application: str | None
    state: str | None
    since: datetime | None
    epoch: int | None

    def __str__(self) -> str:
        if self.pid is None:
            return f"{self.shard}: {self.state}"
        works = "by no epoch" if self.epoch is None else f"by epoch {self.epoch}"
        where = f"process {self.pid} of {self.role} from {self.host or 'this machine'}"
        return f"{self.shard}: {where} ({self.application or 'no name'}, {self.state}) works {works}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def router_roles(topology: Topology, more: Sequence[str] = ()) -> list[str]:
    """The roles under which routers connect, as far as the topology says, and `more`.

    Those of sessions that declare an epoch are found on the shards.
    """
    users = {end.param("user") for shard in topology.shards.values() for end in shard.endpoints}
    return sorted({user for user in users if user} | set(more))


async def stale_sessions(conn: Conn, shard: str, epoch: int, roles: Sequence[str]) -> list[Straggler]:
    """The sessions on a server that work by an older epoch; raises `MoveRefused` where they cannot be seen."""
    if not await one(conn, guard.SEES_SESSIONS):
        raise MoveRefused(
            f"the sessions of others on shard {shard} cannot be seen",
            detail="Whether a router works by an older topology would never be known.",
            hint="grant pg_read_all_stats to the role that makes moves",
        )
    sessions = await rows(conn, guard.STALE_SESSIONS, {"epoch": epoch, "roles": list(roles)})
    return [Straggler(shard, *row) for row in sessions]


async def barrier(
    topology: Topology,
    shard: str,
    epoch: int,
    *,
    roles: Sequence[str],
    bound: float | None,
    terminate: bool,
    waiting: Callable[[Sequence[Straggler]], None] = lambda stragglers: None,
) -> None:
    """Return when nobody works by an epoch below this one on the shard and its replicas, and nobody can begin to.

    After `bound` seconds (None: never) stragglers are ended where `terminate` says so, else `MoveRefused` names them.
    `waiting` is told of them at each look.
    """
    end = None if bound is None else monotonic() + bound
    pause = _FIRST
    ending = False
    async with open_link(topology, shard) as conn:
        await conn.execute(guard.RAISE_MIN_EPOCH, (epoch, epoch))
        while left := await stragglers(conn, topology, shard, epoch, roles):
            waiting(left)
            if end is not None and monotonic() >= end:
                if not terminate or ending:
                    raise _never_passed(shard, left, ending)
                await _end(topology, shard, left)
                ending, end, pause = True, monotonic() + _ENDING, _FIRST
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST)


def _never_passed(shard: str, left: Sequence[Straggler], ended: bool) -> MoveRefused:
    return MoveRefused(
        f"{len(left)} session{'' if len(left) == 1 else 's'} on shard {shard} "
        f"work{'s' if len(left) == 1 else ''} by an older topology",
        detail="; ".join(map(str, left[:10])),
        hint="They were told to end, and have not."
        if ended
        else "Have those processes load the new topology file, or end; or run it again with --stragglers terminate. "
        "Nothing is lost meanwhile.",
    )


async def stragglers(
    primary: Conn, topology: Topology, shard: str, epoch: int, roles: Sequence[str], *, behind: bool = True
) -> list[Straggler]:
    """Who works by an older epoch on a shard, by its primary and each replica.

    With `behind` a replica counts as well that has not replayed yet that older sessions are turned away. Raises
    `MoveRefused` where sessions cannot be seen.
    """
    left = await stale_sessions(primary, shard, epoch, roles)
    for endpoint in topology.shards[shard].endpoints:
        if endpoint.is_written:
            continue
        name = f"{shard} ({endpoint.name})"
        try:
            async with open_link(topology, shard, endpoint) as conn:
                # Until the replica has replayed it, new sessions there are let in by the older one.
                if behind and await one(conn, "select min_epoch from shardpool.meta") < epoch:
                    left.append(_unknown(name, "has not replayed the new epoch yet"))
                else:
                    left += await stale_sessions(conn, name, epoch, roles)
        except (psycopg.Error, OSError, ShardUnavailable) as error:
            left.append(_unknown(name, f"cannot be asked: {first_line(error)}"))
    return left


def _unknown(name: str, why: str) -> Straggler:
    return Straggler(name, None, None, None, None, why, None, None)


async def _end(topology: Topology, shard: str, left: Sequence[Straggler]) -> None:
    """End sessions, the idle ones first: what they were doing is rolled back, or its outcome is not known."""
    for straggler in sorted(left, key=lambda one: one.state != "idle"):
        endpoint = next((e for e in topology.shards[shard].endpoints if straggler.shard == f"{shard} ({e.name})"), None)
        if straggler.pid is None:
            continue
        async with open_link(topology, shard, endpoint) as conn:
            cursor = conn.cursor(row_factory=tuple_row)
            await cursor.execute("select pg_catalog.pg_terminate_backend(%s)", (straggler.pid,))
