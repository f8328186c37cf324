"""Keys that a shard has given away since the call was routed: it waits for the topology that says where they are.

A shard refuses their rows before the topology file says who has them now (see docs/howto/edit-the-topology.md). Nothing
was done then, so a call that the router has routed by its key, and can make once more, is held for that moment.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING

import psycopg

from ..._runtime.deadlines import Deadline
from ..._runtime.interrupts import async_is_cancelled
from ..._runtime.tasks import async_sleep
from ...control.fence import GIVEN_AWAY
from ...errors import OtherMap, StaleTopology

if TYPE_CHECKING:
    from .fleet import AsyncFleet
    from .follower import AsyncTopologyFollower
    from .snapshot import AsyncSnapshot

# Seconds between two attempts, jittered between the two. Of more than a few calls that are held each comes later: else
# the shard, and the loop, would be kept from all other work.
_SOONEST, _LATEST = 0.02, 0.06
_FEW = 20
_LONGEST = 0.5
# What a shard tells with a refusal; and seconds in which a call may still come back that was routed before a reload.
_EPOCH = re.compile(r"epoch (\d+) of the topology")
_ROUTED_BEFORE = 5.0


def is_redirect(error: BaseException | None) -> bool:
    """Whether a shard refused a row since its bucket is another's by now; the transaction is void then."""
    return isinstance(error, psycopg.Error) and error.sqlstate == GIVEN_AWAY


def tell(fleet: AsyncFleet, error: BaseException | None) -> None:
    """Have the topology file looked at when the error says that it is older than the shards."""
    if fleet.follower is not None and is_redirect(error):
        fleet.follower.check_now()


async def caught_up(fleet: AsyncFleet, snapshot: AsyncSnapshot, shards: Iterable[str], deadline: Deadline) -> bool:
    """Whether to try shards again that refused calls in that `snapshot`: another is in force, or will be at once.

    For shards that have refused this router since its topology is older than theirs.
    """
    if fleet.snapshot is not snapshot:
        return True
    follower = fleet.follower
    if follower is None or not all(map(follower.is_behind, shards)):
        return False
    return await _paused(follower, deadline)


async def is_worth_again(fleet: AsyncFleet, snapshot: AsyncSnapshot, error: StaleTopology, deadline: Deadline) -> bool:
    """Whether to route anew what the topology of that `snapshot` was too old for: another is in force, or will be."""
    if fleet.snapshot is not snapshot:
        return True
    return isinstance(error, OtherMap) and await caught_up(fleet, snapshot, (error.shard,), deadline)


async def until_caught_up(fleet: AsyncFleet, deadline: Deadline) -> None:
    """Hold a call before its keys are looked up, while the router knows that the shards are ahead and may catch up."""
    while fleet.newer_maps.told:
        snapshot = fleet.snapshot
        try:
            fleet.newer_maps.check_all(snapshot.topology)
        except OtherMap as error:
            if not await is_worth_again(fleet, snapshot, error, deadline):
                return


async def followed(fleet: AsyncFleet, error: BaseException, deadline: Deadline) -> bool:
    """Whether to route the call anew: after a pause, if there is time for it and the router follows a file."""
    if fleet.follower is None or not is_redirect(error) or _is_known(fleet, error):
        return False
    return await _paused(fleet.follower, deadline)


def _is_known(fleet: AsyncFleet, error: BaseException) -> bool:
    """Whether the call was routed by a topology that knows of what the shard refuses: it always will."""
    epoch_match = _EPOCH.search((error.diag.message_detail if isinstance(error, psycopg.Error) else None) or "")
    snapshot = fleet.snapshot
    return (
        epoch_match is not None
        and int(epoch_match[1]) <= snapshot.topology.epoch
        and monotonic() - snapshot.made_at > _ROUTED_BEFORE
    )


async def _paused(follower: AsyncTopologyFollower, deadline: Deadline) -> bool:
    follower.check_now()
    pause = min(_LONGEST, random.uniform(_SOONEST, _LATEST) * max(1.0, follower.held / _FEW))
    # No last attempt at the deadline: of many that came together it would be cut, and the shard would look sick.
    if monotonic() + pause >= deadline or async_is_cancelled():
        return False
    follower.held += 1
    try:
        await async_sleep(pause)
    finally:
        follower.held -= 1
    return True
