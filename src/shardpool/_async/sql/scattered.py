"""`scatter`: the same statement or function on the shards that are named, and every shard's own answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..._call import Call
from ...errors import ScatterError
from ...query.text.calls import is_ddl
from ...result import ByShard
from ..plans.later import AsyncPlans
from ..work import scatter
from ..work.participants import Moved

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet


async def execute(fleet: AsyncFleet, plans: AsyncPlans, call: Call, shards: Callable[[], list[str]]) -> ByShard:
    """The answers by shard; `shards` gives those that are meant, by the topology of the moment.

    The query is a text, or a function that is called with a connection of each. Raises `ScatterError`.
    """
    while True:
        topology = fleet.topology
        names = shards()
        if fleet.topology is not topology:
            continue
        if callable(call.query):
            called = await scatter.call(
                fleet, names, call.query, call.deadline, readonly=call.readonly, missing=call.missing
            )
            return ByShard(called, call.missing)
        try:
            is_moving = bool(topology.moves)
            # Not before: to import the planner takes longer than a first scatter.
            text = await plans.planner.without_copies(call.query, call.params, call.deadline) if is_moving else None
            results = await scatter.execute(fleet, call, names, topology, text=text)
        except Moved:
            continue
        except ScatterError:
            fleet.schema.changed()  # some shards may have done what others have not
            raise
        if any(is_ddl(result._pgresult.command_status) for result in results.values()):
            fleet.schema.changed()
        return ByShard(results, call.missing)
