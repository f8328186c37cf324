"""A write that changes columns which are unique over the fleet: a transaction of its own, with their entries."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from psycopg.errors import DeadlockDetected, SerializationFailure

from ..._call import Call
from ..._runtime.tasks import async_sleep
from ...result import Result
from ..fleet import redirects
from ..plans.planner import AsyncPlanner
from ..work.repetition import pause_before
from ..work.session import AsyncSession
from .within import AsyncWithin

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet
    from ..routes import AsyncRoutes


async def execute(fleet: AsyncFleet, routes: AsyncRoutes, planner: AsyncPlanner, call: Call) -> Result:
    """The write and its entries, on all shards that they come to or on none; done again when it has met others."""
    attempt = 0
    while True:
        session = AsyncSession(fleet, until=call.deadline, isolation=None, readonly=call.readonly)
        session.keeps = True
        try:
            within = AsyncWithin(fleet, routes, planner, session, readonly=call.readonly)
            result = await within.executed(replace(call, within=session, readonly=False))
            await session.commit()
            return result
        except (SerializationFailure, DeadlockDetected):
            pause = pause_before(attempt)
            if monotonic() + pause >= call.deadline:
                raise
        except psycopg.DatabaseError as error:
            pause = 0.0
            if not redirects.is_redirect(error):
                meant = session.waiting.meant(error)
                if meant is error:
                    raise
                raise meant from error
            if not await redirects.followed(fleet, error, call.deadline):
                raise
        finally:
            await session.end()
            if session.changes_schema:
                fleet.schema.changed()
        await async_sleep(pause)
        attempt += 1
