"""The streams between the shards of a move: each brings what is written on one of them to the other."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from time import monotonic

from ..errors import MoveRefused
from ..operations.connections import Conn, Connections
from . import replication
from .fences import Fences
from .links import link, open_link
from .replication import MoveStream
from .tables import read_tables
from .work import Work

# Seconds for what was written to arrive before the rows are guarded.
_CATCH_UP = 3600.0


class Streams:
    """Begins, turns round and drops those of one move."""

    def __init__(self, work: Work, fences: Fences) -> None:
        self._work = work
        self._topology = work.topology
        self._move = work.move
        self._fences = fences

    async def follow_back(self) -> None:
        """The source will follow the target, for a way back.

        Before PostgreSQL 16 only one direction can be on: the slot of the other one waits for the hand-over.
        """
        move, back = self._move, self._work.backward
        async with self._work.linked(seconds=120) as conns:
            source, target = conns[move.source], conns[move.target]
            both = _go_both_ways(conns)
            if await replication.is_subscribed(source, back):
                return
            await replication.publish(target, back, move, await read_tables(target, self._topology, move))
            if not both:
                await replication.publish_token(target, back, move)
            await replication.make_slot(target, back)
        if both:
            await self.follow(move.source, back)

    async def turn_round(self) -> None:
        """After the hand-over the source follows the target, from the token on."""
        move, back = self._move, self._work.backward
        async with self._work.linked(seconds=120) as conns:
            source, target = conns[move.source], conns[move.target]
            if _go_both_ways(conns) or await replication.is_subscribed(source, back):
                return
            await replication.unsubscribe(target, self._work.forward)
            await replication.unpublish(source, self._work.forward)
            if not await replication.has_slot(target, back):
                return
            place = await replication.behind_token(target, back)
            if place is None:  # left out already, by one who was killed then
                record = await self._work.record()
                place = (record.told if record is not None else {}).get("turned_at")
                if place is None or not await replication.is_behind(target, back, str(place)):
                    return
            else:
                await self._work.note("handed over", turned_at=place)
                await replication.skip(target, back, place)
        await self.follow(move.source, back)

    async def follow(self, shard: str, of: MoveStream) -> None:
        """A shard takes what a stream brings, of the rows of moves."""
        await self._fences.draw_filters(shard)
        async with link(self._topology, shard) as conn:
            await replication.subscribe(conn, of, await self._address(of.source), version=server_version(conn))

    async def catch_up(self) -> None:
        """Until what is written on the source arrives at once."""
        seconds = await self._marker(_CATCH_UP)
        if seconds is None:
            raise MoveRefused(
                f"shard {self._move.target} does not catch up with shard {self._move.source}",
                hint=f"What holds it up is told by: shardpool move status {self._move.number}",
            )
        await self._work.note("following", delay=round(seconds, 4))

    async def _marker(self, limit: float) -> float | None:
        async with open_link(self._topology, self._move.source) as source, AsyncExitStack() as stack:
            target = await stack.enter_async_context(open_link(self._topology, self._move.target))
            n = await replication.send_marker(source, self._move.number)
            end = monotonic() + limit
            while (left := end - monotonic()) > 0:
                delay = await replication.await_marker(target, self._move.number, n, min(2.0, left))
                if delay is not None:
                    return delay
                slot_there = await replication.slot(source, self._work.forward)
                if slot_there is None:
                    raise MoveRefused(f"the slot of move {self._move.number} on shard {self._move.source} is gone")
                self._work.tell("catching up", bytes=slot_there[1])
                await self._work.check()
            return None

    async def drop(self) -> None:
        """No subscription, slot or publication of the move any more; without subscriptions nothing reaches anybody."""
        async with self._work.linked(seconds=60) as conns:
            for of in (self._work.forward, self._work.backward):
                await replication.unsubscribe(conns[of.target], of)
            for of in (self._work.forward, self._work.backward):
                await replication.unpublish(conns[of.source], of)

    async def _address(self, shard: str) -> str:
        endpoint = self._topology.shards[shard].writable
        password = endpoint.password.reveal() if endpoint.password is not None else None
        if endpoint.password_file is not None:
            text = await asyncio.to_thread(Path(endpoint.password_file).read_text, encoding="utf-8")
            password = text.rstrip("\r\n")
        return replication.server_address(endpoint, password, self._work.options.addresses.get(shard))


def _go_both_ways(conns: Connections) -> bool:
    """Whether a subscription can leave out what was applied by another one, so that nothing goes round."""
    return all(server_version(conns[name]) >= 160000 for name in conns.names)


def server_version(conn: Conn) -> int:
    return int(conn.info.server_version)
