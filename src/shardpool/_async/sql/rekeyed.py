"""UPDATE of a partition key: the rows leave the shards that have them, and go where their new key belongs."""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING

import psycopg
from psycopg.errors import DeadlockDetected, LockNotAvailable, SerializationFailure

from ..._call import Call
from ..._runtime.tasks import async_sleep
from ..._wire.statement import Statement
from ...errors import UnsupportedQuery
from ...query.plans.bound import Bound
from ...query.plans.plan import Rekeyed, lock_of
from ...query.plans.planned import Planned
from ...result import Result
from ..work.joined import write_on
from ..work.participants import Moved
from ..work.repetition import pause_before
from ..work.session import AsyncSession
from ..work.statements import Statements
from . import alone, written

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet
    from ..plans.planner import AsyncPlanner

_PARAMS_MAX = 65_535


async def execute(fleet: AsyncFleet, planner: AsyncPlanner, call: Call, planned: Planned, bound: Bound) -> Result:
    """The UPDATE as a transaction over the shards that it comes to.

    One that has met others is undone, and done again when it is the only one of them that goes on. Shards that turn
    out to have none of the rows take no part in the commit. Raises `UnsupportedQuery` where several that have written
    cannot commit as one.
    """
    attempt = 0
    while True:
        session = AsyncSession(fleet, until=call.deadline, isolation=None, readonly=False)
        session.gives_way, session.goes_in_turn = not attempt, attempt > 0
        try:
            if attempt:
                first = next(iter(planned.topology.shards))
                joined = await session.join([first], call.deadline, planned.topology)
                lock = Statement(lock_of(bound.plan.uses[0].table).encode(), None)
                await write_on(fleet, joined, call.deadline).ask(first, lock)
            result = await within(session, fleet, planner, call, planned, bound)
            await session.commit()
            return result
        except (SerializationFailure, DeadlockDetected, LockNotAvailable) as error:
            pause = pause_before(attempt)
            # Who does not give way waits for as long as the server is set up to.
            if monotonic() + pause >= call.deadline or (attempt and isinstance(error, LockNotAvailable)):
                raise
        except psycopg.Error as error:
            if (meant := session.waiting.meant(error)) is error:
                raise
            raise meant from error
        finally:
            await session.end()
        await async_sleep(pause)
        attempt += 1


async def within(
    session: AsyncSession, fleet: AsyncFleet, planner: AsyncPlanner, call: Call, planned: Planned, bound: Bound
) -> Result:
    """The UPDATE as a part of a transaction, which has failed when it raises anything but `Moved`."""
    plan = bound.scattered
    assert isinstance(plan, Rekeyed)
    joined = await session.join(bound.shards, call.deadline, planned.topology)
    await joined.check_alike(planned.topology)
    call = replace(call, within=session, atomic=False)
    # What is no UPDATE on one server is none here: a value of another type than its column, a generated one.
    first = bound.shards[0]
    await write_on(fleet, joined, call.deadline).describe(
        first, Statements(call.query, call.params, False).on(joined.conn(first))
    )
    taking = replace(bound, strategy="write", plan=replace(bound.plan, scattered=plan.guarded))
    taken = await written.execute(fleet, replace(call, binary=False), planned, taking)
    encoding = joined.conn(first).info.encoding
    whole = [[None if value is None else value.decode(encoding) for value in row] for row in taken.raw()]
    rows = [row[:-1] for row in whole]
    if any(row[-1] != "true" for row in whole):
        fleet.schema.changed()
        raise _strange(bound)
    query, params = plan.finish.filled(rows, planned.given(call.params))
    if len(params) > _PARAMS_MAX:
        raise UnsupportedQuery(
            f"the {len(rows):,} rows of this UPDATE have {len(params):,} values: more than {_PARAMS_MAX:,} at once",
            hint="Change the partition key of fewer rows at once.",
        )
    result = await _inserted(session, fleet, planner, replace(call, query=query, params=params), first)
    if result.rowcount not in (len(rows), -1):
        raise _strange(bound)
    return result.as_update(replace(bound, shards=tuple(dict.fromkeys((*bound.shards, *result.shards)))))


async def _inserted(
    session: AsyncSession, fleet: AsyncFleet, planner: AsyncPlanner, call: Call, any_one: str
) -> Result:
    """The rows where they belong; of none, an INSERT of none on a shard that has joined."""
    try:
        while True:
            planned = await planner.plan(call.query, call.params, call.deadline)
            bound = await planner.bind(planned, call.params, call.deadline)
            if not await planner.schema.is_fresh(bound.shards, call.deadline, readonly=False):
                continue
            if bound.strategy == "one":
                name = bound.shards[0] if bound.shards else any_one
                return await alone.execute(session, call, name, call.query, writes=True, planned=planned)
            await session.join(bound.shards, call.deadline, planned.topology)
            session.will_write(bound.shards)
            if await planner.schema.are_alike(bound, call.deadline):
                return await written.execute(fleet, call, planned, bound)
    except Moved:
        raise SerializationFailure(
            "rows were on their way to a shard that has given their keys to another meanwhile"
        ) from None


def _strange(bound: Bound) -> UnsupportedQuery:
    table = bound.plan.uses[0].table.removeprefix("public.")
    return UnsupportedQuery(
        f"rows of {table} are not as the shards have told: nothing was written",
        detail="A table inherits from it, or its columns, triggers, rules or policies were changed meanwhile.",
        hint="Do it again; or delete and insert the rows by statements of your own.",
    )
