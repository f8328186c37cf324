"""Keys that a shard has given away since the call was routed: it waits for the topology that says where they are.

A shard refuses their rows before the topology file says who has them now (see docs/howto/edit-the-topology.md). Nothing
was done then, so a call that the router has routed by its key, and can make once more, is held for that moment.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg

from .._concurrency import async_is_cancelled, async_sleep
from ..control import GIVEN_AWAY
from ..errors import OtherMap, StaleTopology
from ..query.statement import kind
from .planning import trees_of

if TYPE_CHECKING:
    from .reloading import AsyncReloader
    from .router import AsyncRouter
    from .state import AsyncState

# Seconds between two attempts, jittered between the two. Of more than a few calls that are held each comes later: else
# the shard, and the loop, would be kept from all other work.
_SOONEST, _LATEST = 0.02, 0.06
_FEW = 20
_LONGEST = 0.5
# What a shard tells with a refusal; and seconds in which a call may still come back that was routed before a reload.
_EPOCH = re.compile(r"epoch (\d+) of the topology")
_ROUTED_BEFORE = 5.0
# What is one transaction whatever it calls: CALL and DO may have committed before they failed.
_REPEATABLE = frozenset({"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"})


def is_given_away(error: BaseException | None) -> bool:
    """Whether a shard refused a row since its bucket is another's by now; the transaction is void then."""
    return isinstance(error, psycopg.Error) and error.sqlstate == GIVEN_AWAY


def is_repeatable(query: Any) -> bool:
    """Whether nothing of a statement that failed has remained: it is one, and cannot commit inside."""
    trees = trees_of(query)
    return trees is not None and len(trees) == 1 and kind(trees[0]) in _REPEATABLE


def tell(router: AsyncRouter, error: BaseException | None) -> None:
    """Have the topology file looked at when the error says that it is older than the shards."""
    if router._reloader is not None and is_given_away(error):
        router._reloader.look_now()


async def caught_up(router: AsyncRouter, state: AsyncState, shards: Iterable[str], deadline: float) -> bool:
    """Whether to try again shards that were not to be used in that `state`: it is another by now, or will be at once.

    For shards that have refused this router since its topology is older than theirs.
    """
    if router._state is not state:
        return True
    reloader = router._reloader
    if reloader is None or not all(map(reloader.is_behind, shards)):
        return False
    return await _paused(reloader, deadline)


async def is_worth_again(router: AsyncRouter, state: AsyncState, error: StaleTopology, deadline: float) -> bool:
    """Whether to route anew what the topology of that `state` was too old for: another is in force, or will be."""
    if router._state is not state:
        return True
    return isinstance(error, OtherMap) and await caught_up(router, state, (error.shard,), deadline)


async def followed(router: AsyncRouter, error: BaseException, deadline: float) -> bool:
    """Whether to route the call anew: after a pause, if there is time for it and the router follows a file."""
    if router._reloader is None or not is_given_away(error) or _is_known(router, error):
        return False
    return await _paused(router._reloader, deadline)


def _is_known(router: AsyncRouter, error: BaseException) -> bool:
    """Whether the call was routed by a topology that knows of what the shard refuses: it always will."""
    told = _EPOCH.search((error.diag.message_detail if isinstance(error, psycopg.Error) else None) or "")
    state = router._state
    return told is not None and int(told[1]) <= state.topology.epoch and monotonic() - state.made_at > _ROUTED_BEFORE


async def _paused(reloader: AsyncReloader, deadline: float) -> bool:
    reloader.look_now()
    pause = min(_LONGEST, random.uniform(_SOONEST, _LATEST) * max(1.0, reloader.held / _FEW))
    # No last attempt at the deadline: of many that came together it would be cut, and the shard would look sick.
    if monotonic() + pause >= deadline or async_is_cancelled():
        return False
    reloader.held += 1
    try:
        await async_sleep(pause)
    finally:
        reloader.held -= 1
    return True
