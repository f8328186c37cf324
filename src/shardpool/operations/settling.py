"""Routers take a new topology over before the shards refuse the old one: waited for by what their sessions declare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import monotonic

from ..control import guard
from ..errors import MoveRefused
from ..topology import Topology
from .barrier import Straggler, router_roles, stragglers
from .connections import Connections

# Seconds between two checks, at first and at most: each stops a server's lock table for a moment.
_FIRST, _LONGEST = 0.05, 1.0
# Seconds after which it is told who declares nothing: a connection that was made just now has done so by then.
_SOON = 1.0

Waiting = Callable[[Sequence[Straggler]], None]


async def settle(
    conns: Connections,
    topology_by_shard: dict[str, Topology],
    epoch: int,
    seconds: float,
    waiting: Waiting = lambda stragglers: None,
) -> tuple[Straggler, ...]:
    """Return when no router works by an epoch below this one on any of these shards, or after so many seconds.

    Gives the sessions that still do. Once there is none on a shard, none is let in there any more. Where clients cannot
    be seen, behind a transaction pooler or without the right to, the whole time is waited. `waiting` is told of those
    that declare nothing after a second: no routers, which never go over.
    """
    begun = monotonic()
    left = await asyncio.gather(
        *(
            _settled(conns, topology, name, epoch, begun, begun + seconds, waiting)
            for name, topology in topology_by_shard.items()
        )
    )
    return tuple(one for stragglers in left for one in stragglers)


async def _settled(
    conns: Connections, topology: Topology, shard: str, epoch: int, begun: float, end: float, waiting: Waiting
) -> Sequence[Straggler]:
    pooled = any(endpoint.pooler == "transaction" for endpoint in topology.shards[shard].endpoints)
    roles, conn = router_roles(topology), conns[shard]
    pause, closed, told = _FIRST, False, False
    while True:
        left: Sequence[Straggler] = ()
        try:
            if not pooled:
                left = await stragglers(conn, topology, shard, epoch, roles, behind=closed)
        except MoveRefused:  # they cannot be seen
            pooled = True
        if not pooled and not left:
            if closed:
                return ()
            # Whoever began meanwhile is seen by the next look; nobody begins after it.
            await conn.execute(guard.RAISE_MIN_EPOCH, (epoch, epoch))
            closed = True
            continue
        now = monotonic()
        foreign = [one for one in left if one.pid is not None and one.epoch is None]
        if foreign and not told and now >= begun + _SOON:
            waiting(foreign)
            told = True
        if now >= end:
            return left
        await asyncio.sleep(min(_LONGEST if pooled else pause, end - now))
        pause = min(2 * pause, _LONGEST)
