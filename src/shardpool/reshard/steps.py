"""The steps of a move between its states. Each looks first whether it is done, so that all can be made again."""

from __future__ import annotations

from collections.abc import Iterable
from time import monotonic, time

from ..errors import MoveRefused
from ..operations.barrier import Straggler, barrier
from ..operations.connections import rows
from ..quoting import quote_table
from . import replication
from .cleanup import delete_rows
from .copying import copy
from .fences import Fences
from .handover import hand_over, timeline, token_owner
from .links import link, open_link
from .preflight import SEQUENCE
from .record import put, set_step
from .streams import Streams, server_version
from .tables import read_tables
from .verify import Comparison, compare
from .work import Work

# Seconds for what was written to arrive when the rows are handed over.
_ARRIVAL = 60.0
# Numbers that a sequence skips at the new owner: what the old one gives until then.
_SKIPPED = 1000


class Steps:
    """The steps of one move by one topology: another state is another `Steps`."""

    def __init__(self, work: Work) -> None:
        self.work = work
        self._topology = work.topology
        self._move = work.move
        self.fences = Fences(work)
        self.streams = Streams(work, self.fences)

    async def wait_for_routers(self, *shards: str) -> None:
        """Until nobody works by an older topology than this one on these shards."""
        for shard in shards:
            self.work.tell("barrier", note=shard)

            def waiting(left: Iterable[Straggler], shard: str = shard) -> None:
                self.work.tell("barrier", note=shard, stragglers=tuple(left))

            await barrier(
                self._topology,
                shard,
                self._topology.epoch,
                roles=self.work.roles,
                bound=self.work.options.straggler_seconds,
                terminate=self.work.options.terminates,
                waiting=waiting,
            )

    # -- the copy --------------------------------------------------------------------------------------------------

    async def copy_rows(self, total: int) -> None:
        """Copy what moves, and let the target follow: begun again from the start where it was cut off."""
        move, to_target = self._move, self.work.forward
        async with self.work.linked() as conns:
            if await replication.is_subscribed(conns[move.target], to_target):
                return
        await self.undo_copy()
        await self.fences.draw_change_fences()
        async with self.work.linked() as conns:
            source = conns[move.source]
            tables = await read_tables(source, self._topology, move)
            history = await timeline(source)
            for name in conns.names:
                await put(conns[name], move, {})
                await set_step(conns[name], move.number, "copying", timeline=history, copy_begun=time())
                # On both before the slot: what is sent later finds them there.
                await conns[name].execute(
                    "insert into shardpool.token values (%s, %s, 1) on conflict do nothing", (move.number, move.source)
                )
                await conns[name].execute(
                    "insert into shardpool.marker values (%s, 0) on conflict do nothing", (move.number,)
                )
            await source.execute("update shardpool.moves set total = %s where move = %s", (total, move.number))
            await replication.publish(source, to_target, move, tables)
            if await replication.has_slot(source, to_target):
                await source.execute("select pg_catalog.pg_drop_replication_slot(%s)", (to_target.name,))
        # Those of other moves into the same table have to let these rows in; a new one comes after the copy, since it
        # is called for each row.
        await self.fences.draw_filters(move.target, only_there=True)
        begun = monotonic()

        async def progress(copied: int, size: int) -> None:
            self.work.tell("copying", rows=copied, total=total, bytes=size)
            async with link(self._topology, move.source) as conn:
                await conn.execute("update shardpool.moves set copied = %s where move = %s", (copied, move.number))
            await self.work.check()

        copied = await copy(self._topology, move, to_target, tables, gate=self.work.gate, progress=progress)
        taken = round(monotonic() - begun, 3)
        self.work.tell("copying", rows=copied, total=copied)
        await self.streams.follow(move.target, to_target)
        await self.work.note("copied", copied_rows=copied, copy_seconds=taken)

    async def undo_copy(self) -> None:
        """No streams, and no row of the move on the target, which does not own it."""
        await self.streams.drop()
        record = await self.work.record()
        if record is None:
            await self.work.note("begun", origin=self._move.source)
        elif record.step != "begun":
            await self.delete_rows(self._move.target)

    async def delete_rows(self, shard: str) -> int:
        """Delete the rows of the move on a shard that does not own them."""
        done = 0

        async def gone(count: int) -> None:
            nonlocal done
            done += count
            self.work.tell("deleting", rows=done, note=shard)
            await self.work.check()

        async with open_link(self._topology, shard) as conn:
            tables = await read_tables(conn, self._topology, self._move)
            return await delete_rows(conn, self._topology, self._move, tables, gone=gone)

    # -- handing over ----------------------------------------------------------------------------------------------

    async def owner(self) -> str | None:
        """Who has the token, as the source says; None while it is on its way is told by the target's."""
        async with link(self._topology, self._move.source) as conn:
            return await token_owner(conn, self._move.number)

    async def rehearse(self) -> Comparison:
        """Compare all rows while their writers wait for a moment: as long as they will wait for the hand-over."""
        async with link(self._topology, self._move.source) as conn:
            tables = await read_tables(conn, self._topology, self._move)
        self.work.tell("comparing")
        done = await compare(self._topology, self._move, tables, limit=self.work.options.pause_limit)
        if done.differences:
            some = "; ".join(map(str, done.differences[:10]))
            raise MoveRefused(
                f"{len(done.differences)} buckets are not the same on {self._move.source} and {self._move.target}",
                detail=some,
                hint="Nothing was handed over. Find out what wrote them on either side; then undo the move, and begin "
                f"it again: shardpool move abort {self._move.number}",
            )
        await self.work.note("compared", compared_rows=done.rows, rehearsal_pause=round(done.pause, 4))
        self.work.tell("compared", rows=done.rows, total=done.rows, told={"pause": done.pause})
        return done

    async def advance_sequences(self) -> None:
        """Sequences of the target go on behind those of the source, whose numbers are among the rows that came."""
        async with self.work.linked() as conns:
            source, target = conns[self._move.source], conns[self._move.target]
            for table in await read_tables(source, self._topology, self._move):
                for column in table.columns:
                    arguments = (quote_table(table.name), column.name)
                    here, there = await rows(source, SEQUENCE, arguments), await rows(target, SEQUENCE, arguments)
                    if here and there and here[0][:3] == there[0][:3] and here[0][0] > 0:
                        step, _, most, last, _ = here[0]
                        ahead = last + step * _SKIPPED
                        if there[0][3] < ahead <= most:
                            await target.execute("select pg_catalog.setval(%s, %s)", (there[0][4], ahead))

    async def hand_over(self) -> None:
        """The token goes to the target; returns when it has arrived."""
        move = self._move
        record = await self.work.record()
        history = int((record.told if record is not None else {}).get("timeline", 0))
        self.work.tell("handing over")
        done = await hand_over(
            self._topology,
            move,
            roles=self.work.roles,
            on_timeline=history,
            lock_timeout=min(0.2, max(0.01, self.work.options.pause_limit)),
            terminate=self.work.options.terminates,
            seconds=_ARRIVAL,
        )
        if done.arrival is None:
            raise MoveRefused(
                f"the rows of move {move.number} have left {move.source}, and have not arrived on {move.target}",
                detail="Neither shard serves them until they have. Applying on the target is held up, or has failed.",
                hint=f"Look at it: shardpool move status {move.number}. It goes on by itself as soon as the target "
                f"applies again; or undo it: shardpool move abort {move.number}",
            )
        async with link(self._topology, move.target) as conn:
            now = await timeline(conn)
        pause = {} if done.locking is None else {"locking": round(done.locking, 4), "arrival": round(done.arrival, 4)}
        await self.work.note("handed over", timeline=now, **pause)
        self.work.tell("handed over", told=pause)

    async def take_token_back(self) -> bool:
        """Undo a hand-over whose token has not arrived; whether it is undone, or it has arrived after all."""
        move = self._move
        async with self.work.linked(seconds=60) as conns:
            source, target = conns[move.source], conns[move.target]
            if await token_owner(source, move.number) == move.source:
                return True
            await replication.pause(target, self.work.forward)
            if await token_owner(target, move.number) == move.target:
                await replication.subscribe(target, self.work.forward, "", version=server_version(target))
                return False
            # Its slot as well: were it applied later, the target would take itself for the owner, for a moment.
            await replication.unsubscribe(target, self.work.forward)
            await replication.unpublish(source, self.work.forward)
            give_back = "update shardpool.token set owner = %s, epoch = epoch + 1 where move = %s"
            await source.execute(give_back, (move.source, move.number))
            return True

    # -- the end ---------------------------------------------------------------------------------------------------

    async def tidy(self, over: str) -> None:
        """After the move is out of the file: no filter, fence, token or marker of it any more."""
        for shard in self.work.shards:
            await self.fences.draw_filters(shard, only_there=True)
        await self.fences.draw_change_fences()
        async with self.work.linked() as conns:
            for name in conns.names:
                for table in ("token", "marker"):
                    await conns[name].execute(f"delete from shardpool.{table} where move = %s", (self._move.number,))
                await set_step(conns[name], self._move.number, over)
