"""The fleet as it runs: which topology is in force, and the pools of its shards."""

from __future__ import annotations

import os
import random
import threading
import weakref
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..._endpoint.budget import Budget
from ..._endpoint.meter import skew
from ..._endpoint.schema import NoSchema, Schema
from ..._exports import later
from ..._runtime.calls import Calls
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.intake import AnswerLimits
from ..._runtime.interrupts import async_completed, nothing
from ..._runtime.tasks import AsyncHome, async_run_all, async_sleep, async_spawn
from ..._runtime.watchdog import AsyncWatchdog
from ...control.publication import PUBLISHED_EPOCH
from ...errors import RouterMisuse
from ...events import Reloaded
from ...newer_maps import NewerMaps
from ...succession import check_successor, owned_by, placements_differ, succeed
from ...topology import Topology
from . import confirmation
from .deadlocks import AsyncDeadlocks
from .dialer import AsyncDialer
from .follower import AsyncTopologyFollower, FileState
from .options import AsyncConnectOptions
from .recovery import AsyncRecovery
from .snapshot import AsyncSnapshot, open_shards, retired_pools

if TYPE_CHECKING:
    from ...published import Published
    from . import learning
else:
    (learning,) = later(__package__, "learning")

# Seconds between two checks for sessions that still work by an older epoch.
_SOONEST, _LATEST = 0.02, 1.0

# Seconds that a session which lies idle has to tell which epoch is published.
_ANSWER = 2.0

# Pools of a parent process, kept in its forked children so that nobody closes the parent's connections.
_inherited: list[Any] = []
_fleets: weakref.WeakSet[AsyncFleet] = weakref.WeakSet()

# Given a snapshot that is about to be in force; what it gives is called when it is.
BeforeSwap = Callable[[AsyncSnapshot], Callable[[], None]]


class AsyncFleet:
    """Everything that lives of a router: the snapshot in force, its pools, and what all calls share.

    It knows no SQL of callers. `snapshot` is read by everybody and replaced whole.
    """

    def __init__(
        self,
        topology: Topology,
        options: AsyncConnectOptions,
        newer_maps: NewerMaps,
        calls: Calls,
        *,
        path: str | None,
        file_state: FileState,
        reload_interval: float | None,
        limits: AnswerLimits,
    ) -> None:
        self.path = path
        # As it was given last: the one in force has taken over what may not change.
        self.loaded = topology
        self.options = options
        self.meters = options.meters
        self.observers = options.observers
        self.newer_maps = newer_maps
        self.watchdog = AsyncWatchdog()
        self.retries = Budget(0.1)
        self.calls = calls
        self.limits = limits
        self.schema: Schema = NoSchema()
        self.home: AsyncHome | None = None
        self.closed = False
        self.snapshot = AsyncSnapshot(topology, open_shards(topology, options, self.watchdog))
        self.before_swap: BeforeSwap | None = None
        # What the shards have told, and the file may not say yet.
        self._published: Published | None = None
        # By the number of a move: who has its token, and as of which epoch of the token.
        self._tokens: dict[int, tuple[str, int]] = {}
        self._swapping = threading.Lock()
        self._turn = 0
        self._is_catching_up = False
        self._stop_catching_up: Callable[[], None] = nothing
        self.recovery = AsyncRecovery(self)
        self.deadlocks = AsyncDeadlocks(self)
        self.follower: AsyncTopologyFollower | None = None
        if path is not None and reload_interval is not None:
            self.follower = AsyncTopologyFollower(self, path, reload_interval, file_state)
            self.observers.add(self.follower)
        _fleets.add(self)

    # -- life ----------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Make the fleet usable, here; no connection is made yet. Opening an open one does nothing."""
        if self.closed:
            raise _closed()
        if self.home is None:
            self.home = AsyncHome()
            if self.topology.control != "none":
                self.recovery.start()
            if self.follower is not None:
                self.follower.start()

    async def close(self, timeout: float) -> None:
        """Close every pool, all at once; waits at most `timeout` seconds for work in the background to end.

        It goes on to its end when it is cancelled.
        """
        await async_completed(partial(self._close, timeout))

    async def _close(self, timeout: float) -> None:
        self.closed = True
        for shard in self.snapshot.shards.values():
            shard.replaced = True
        if self.follower is not None:
            await self.follower.stop(timeout)
        await self.recovery.stop(timeout)
        await self.deadlocks.stop(timeout)
        self._stop_catching_up()
        pools = [pool for shard in self.snapshot.shards.values() for pool in shard.endpoints]
        await async_run_all([partial(pool.close, timeout) for pool in pools])
        self.schema.stop()
        self.watchdog.close()

    def start_afresh(self) -> None:
        """In a forked child: with pools, threads and locks of its own."""
        _inherited.append((self.snapshot, self.watchdog))
        self.watchdog = AsyncWatchdog()
        self._swapping = threading.Lock()
        self.meters.reset()
        self.schema.start_afresh()
        for shard in self.snapshot.shards.values():
            _inherited.extend(pool.start_afresh(self.watchdog) for pool in shard.endpoints)
            shard.start_afresh()
        if self.follower is not None:
            self.follower.start_afresh()
        self.recovery.start_afresh()
        self.deadlocks.start_afresh()

    def check_usable(self) -> None:
        """Raise `RouterMisuse` unless it is open, and here."""
        home = self.home
        if home is None or self.closed or not home.is_here():
            raise self._misuse()

    def _misuse(self) -> RouterMisuse:
        if self.closed:
            return _closed()
        if self.home is None:
            return RouterMisuse(
                "this router is not open", hint="Use it in a `with` block, or call open() first and close() at the end."
            )
        return RouterMisuse(
            "this router was opened on another event loop",
            detail="Its connections wait for their answers there.",
            hint="Open one router per event loop.",
        )

    def deadline(self, timeout: float | None) -> Deadline:
        """When a call that begins now must have ended, in monotonic seconds."""
        return deadline_after(self.snapshot.topology.timeout if timeout is None else timeout)

    # -- topology ------------------------------------------------------------------------------------------------

    @property
    def topology(self) -> Topology:
        """The topology of this moment."""
        return self.snapshot.topology

    @property
    def dialer(self) -> AsyncDialer:
        """Makes connections of no pool."""
        return AsyncDialer(self.options, self.watchdog)

    async def take_over(self, topology: Topology) -> Topology:
        """Put a topology in force, between two calls; gives what now holds. See `AsyncRouter.reload`.

        Where the shards have told of a newer one since, it is that with what is the router's own of this one.
        """
        check_successor(topology, self.loaded)
        return await self._take_over(topology, self._published)

    async def published_epoch(self) -> int:
        """The epoch of the topology that a shard says is published, on a session that lies idle; 0 where none does."""
        shards = [*self.snapshot.shards.values()]
        for shard in random.sample(shards, len(shards)):
            if not shard.primary.health.breaker.is_open:
                row = await shard.primary.epochs.answer(PUBLISHED_EPOCH, _ANSWER)
                if row is not None:
                    return int(row[0])
        return 0

    async def learn_topology(self) -> bool:
        """Take over the topology that the shards have published, when they agree on a newer one; whether they do.

        Raises what `take_over` does.
        """
        published = await learning.learned(self.dialer, self.topology)
        if published is None or self.closed:
            return False
        await self._take_over(self.loaded, published)
        return True

    async def _take_over(self, loaded: Topology, published: Published | None) -> Topology:
        topology = _combined(loaded, published)
        check_successor(topology, self.snapshot.declared)
        unconfirmed = confirmation.is_new(topology, self.snapshot.declared) and not await confirmation.is_confirmed(
            topology, self.snapshot, self.options, self.watchdog
        )
        return await async_completed(partial(self._put_in_force, loaded, published, unconfirmed))

    async def _put_in_force(self, loaded: Topology, published: Published | None, unconfirmed: bool) -> Topology:
        # Of two reloads at the same time the later one sees what the earlier one has set.
        with self._swapping:
            if self.closed:
                raise _closed()
            old = self.snapshot
            loaded = max(loaded, self.loaded, key=lambda one: one.epoch)
            published = max((self._published, published), key=lambda one: 0 if one is None else one.epoch)
            topology = _combined(loaded, published)
            check_successor(topology, old.declared)
            self.loaded, self._published = loaded, published
            topology = succeed(topology, old.declared)
            shards = open_shards(topology, self.options, self.watchdog, old.shards)
            new = AsyncSnapshot(self._with_token_owners(topology), shards, topology)
            self._swap(new)
            for shard in old.shards.values():
                shard.replaced = True
            # Not before: a call that the old topology has routed would say that it works by the new one.
            for shard in new.shards.values():
                for pool in shard.endpoints:
                    pool.epochs.work_by(topology)
        kept = [pool for shard in new.shards.values() for pool in shard.endpoints]
        if unconfirmed:
            for pool in kept:
                pool.discard()
        await async_run_all([pool.resize for pool in kept])
        # A close() that came meanwhile, in another thread, may have found only those of before.
        gone = kept if self.closed else retired_pools(old.shards, new.shards)
        await async_run_all([pool.close for pool in gone])
        if not self._is_catching_up and any(pool.epochs.any_behind() for pool in kept):
            self._is_catching_up = True
            self._stop_catching_up = async_spawn(self._catch_up, "shardpool-epoch")
        self.observers.observe(Reloaded(before=old.topology.epoch, epoch=topology.epoch))
        return topology

    def _swap(self, new: AsyncSnapshot) -> None:
        swapped = None if self.before_swap is None else self.before_swap(new)
        self.snapshot = new
        if swapped is not None:
            swapped()

    def _with_token_owners(self, topology: Topology) -> Topology:
        """The topology with the owners that shards have told of rows that are handed over."""
        for move in topology.moves.values():
            owner, _ = self._tokens.get(move.number, (move.owner, 0))
            if move.state == "guarded" and owner != move.owner:
                topology = owned_by(topology, move, owner)
        return topology

    def learn(self, move: int, owner: str, token_epoch: int) -> bool:
        """A shard has said who has the token of a move; whether that is news. Calls are routed by it from now on."""
        with self._swapping:
            if self._tokens.get(move, ("", -1))[1] >= token_epoch:
                return False
            self._tokens[move] = owner, token_epoch
            old = self.snapshot
            topology = self._with_token_owners(old.declared)
            if not placements_differ(topology, old.topology):
                return False
            self._swap(AsyncSnapshot(topology, old.shards, old.declared))
        return True

    async def _catch_up(self) -> None:
        """Have all sessions say that they work by the topology in force, as they become free."""
        pause = _SOONEST
        while not self.closed:
            with self._swapping:
                pools = [pool for shard in self.snapshot.shards.values() for pool in shard.endpoints]
                behind = [pool for pool in pools if pool.epochs.any_behind()]
                self._is_catching_up = bool(behind)
            if not behind:
                return
            for pool in behind:
                # One that is sick is asked for nothing.
                if not pool.health.breaker.is_open:
                    await pool.epochs.catch_up()
            await async_sleep(pause)
            pause = min(2 * pause, _LATEST)

    # -- shards --------------------------------------------------------------------------------------------------

    def in_turn(self) -> list[str]:
        """All shards, beginning with another one each time; those that could not be reached last come last."""
        shards = self.snapshot.shards
        names = list(shards)
        self._turn += 1
        order = [names[(self._turn + number) % len(names)] for number in range(len(names))]
        return sorted(order, key=lambda name: shards[name].primary.is_failing)

    def stats(self) -> dict[str, Any]:
        """See `AsyncRouter.stats`."""
        topology, pools_by_shard = self.topology, self.snapshot.shards
        shards = {name: pools.stats() for name, pools in pools_by_shard.items()}
        return {
            "fleet": topology.fleet,
            "epoch": topology.epoch,
            "newest_epoch_seen": max(
                (pool.seen_epoch for shard in pools_by_shard.values() for pool in shard.endpoints), default=0
            ),
            "reload": self.follower.stats() if self.follower is not None else None,
            "statements": self.calls.counts.as_dict(),
            "transactions": self.recovery.stats(),
            **self.meters.stats(pools_by_shard),
            "skew": skew(sum(endpoint["calls"] for endpoint in shard.values()) for shard in shards.values()),
            "shards": shards,
        }


def _combined(loaded: Topology, published: Published | None) -> Topology:
    """What a router was given, or where the shards have told of a newer one, that with what is the router's own."""
    return loaded if published is None or published.epoch <= loaded.epoch else published.applied_to(loaded)


def _closed() -> RouterMisuse:
    return RouterMisuse("this router is closed", hint="Make a new one: a closed router is not opened again.")


def _start_afresh() -> None:
    """In a forked child: fleets of threads begin anew with no connections; those of an event loop stay behind.

    The parent's sockets are shared with the child: using one would mix the two processes' messages, and closing one
    politely would end the parent's session. So they are neither used nor closed here.
    """
    for fleet in list(_fleets):
        fleet.start_afresh()


os.register_at_fork(after_in_child=_start_afresh)
