"""Statements in a transaction over shards: each planned as any other, and run on the shards that it comes to."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import psycopg

from ..._call import Call
from ...errors import UnsupportedQuery
from ...query.plans.bound import Bound, check_fanout
from ...query.plans.plan import Gathered, Made
from ...query.plans.planned import Planned
from ...result import Result
from ..work.participants import Moved
from ..work.session import AsyncSession
from . import alone, beforehand, entries, made, several

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet
    from ..plans.planner import AsyncPlanner
    from ..routes import AsyncRoutes

# Each statement has a snapshot of its own.
_FRESH = "read committed"


class AsyncWithin:
    """What a transaction runs without a key."""

    def __init__(
        self, fleet: AsyncFleet, routes: AsyncRoutes, planner: AsyncPlanner, session: AsyncSession, *, readonly: bool
    ) -> None:
        self._fleet = fleet
        self._routes = routes
        self._planner = planner
        self._session = session
        self._readonly = readonly

    async def executed(self, call: Call) -> Result:
        """Run it; planned again when tables or a reload have changed before it was sent."""
        if type(call.query) is not str:
            call = replace(call, query=await self._planner.as_text(call.query, call.deadline))
        while True:
            planned = await self._planner.plan(call.query, call.params, call.deadline, call.strategy, call.new)
            self._check_only_reads(planned)
            if planned.plan.is_preceded:
                done = await beforehand.done(self._fleet, self._planner, call, planned, self.executed)
                if isinstance(done, Result):
                    return done
                if done is not None:
                    call = done
                    continue
            route = several.routed(planned, call.params, self._routes.table) if planned.keyspace is not None else None
            if route is not None:
                is_due = self._planner.schema.is_due(route.shard, False)
                if is_due and not await self._planner.schema.is_fresh((route.shard,), call.deadline, readonly=False):
                    continue
                with suppress(Moved):
                    return await self._one(call, planned, route.shard)
                continue
            bound = await self._planner.bind(planned, call.params, call.deadline, call.strategy)
            if not await self._planner.schema.is_fresh(bound.shards, call.deadline, readonly=False):
                continue
            if isinstance(bound.scattered, Made):
                self._fleet.calls.took("make")
                with suppress(Moved):
                    numbers = self._planner.schema.numbers
                    call = await made.finished(self._fleet, numbers, call, planned, bound.scattered, self.executed)
                continue
            check_fanout(bound, call.fanout)
            try:
                if bound.strategy == "one":
                    # Any shard will do where none is named: one that has joined, if there is one.
                    names = bound.shards or [*self._session.names, *self._fleet.in_turn()]
                    return await self._one(call, planned, names[0])
                if bound.plan.writes:
                    self._check_copies(bound)
                    await self._session.join(bound.shards, call.deadline, planned.topology)
                    self._session.will_write(bound.shards)
                if not await self._planner.schema.are_alike(bound, call.deadline, partial=False):
                    continue
                return await self._several(call, planned, bound)
            except Moved:
                continue

    def _check_only_reads(self, planned: Planned) -> None:
        if self._readonly and planned.plan.writes:
            raise UnsupportedQuery(
                f"{planned.plan.verb} in a transaction that only reads", hint="Begin it without readonly=True."
            )

    def _check_copies(self, bound: Bound) -> None:
        plan = bound.scattered
        if isinstance(plan, Gathered) and plan.copies is not None:
            self.check_fresh(bound.plan.verb)

    def check_fresh(self, verb: str) -> None:
        """Refuse the write of a reference table where it would not see what others have written."""
        if self._session.isolation not in (None, _FRESH):
            raise UnsupportedQuery(
                f"{verb} of a reference table in a transaction with one snapshot",
                detail="It has to see on each shard what those have done who wrote the table before.",
                hint=f'Begin the transaction with isolation="{_FRESH}", or write the table outside of it.',
            )

    async def _several(self, call: Call, planned: Planned, bound: Bound) -> Result:
        self._fleet.calls.took(bound.strategy)
        try:
            if planned.plan.keeps:
                await self._session.keep(call.deadline)
            result = await several.scattered(self._fleet, self._planner, call, planned, bound)
            if planned.plan.keeps:
                await entries.settle(self._fleet, self._session, call.deadline, self._session.writers)
            return result
        except Moved:
            raise
        except UnsupportedQuery:
            if bound.plan.writes:
                self._session.fail()
            raise
        except BaseException as error:
            self._session.fail()
            meant = self._session.waiting.meant(error)
            if meant is not error:
                raise meant from error
            raise

    async def _one(self, call: Call, planned: Planned, name: str) -> Result:
        """The statement as it stands on the one shard that it concerns."""
        if planned.plan.keeps:
            await self._session.keep(call.deadline)
        check, sent = planned.plan.check, call.query
        if check is not None:
            sent = check.added(call.query, planned.topology, name, has_params=call.params is not None)
        try:
            result = await alone.execute(self._session, call, name, sent, writes=planned.plan.writes, planned=planned)
        except psycopg.DatabaseError as error:
            refused = check.failure(error, planned.plan.verb) if check is not None else None
            if refused is not None:
                raise refused from error
            raise
        self._fleet.calls.took("one")
        result._planned = planned.plan
        if check is not None:
            result.hide_check(check.returning)
        if planned.plan.keeps:
            await entries.settle(self._fleet, self._session, call.deadline, self._session.writers)
        return result
