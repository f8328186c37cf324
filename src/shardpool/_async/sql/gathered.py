"""`concatenate`, `merge` and `add`: every shard answers for itself, and the answers are put together here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..._call import Call
from ..._runtime.deadlines import Deadline
from ..._runtime.drivers import async_drive
from ..._wire.request import Request
from ..._wire.statement import Statement
from ...query.merge.merging import NotHere, added, bound_value, merged_order
from ...query.plans.bound import Bound
from ...query.plans.plan import Gathered
from ...query.plans.planned import Planned
from ...query.text.statement import used_params
from ...result import Result
from ..work.cancellation import give_up
from ..work.checkout import is_idle
from ..work.outcomes import as_missing, may_be_missing, several
from ..work.participants import AsyncParticipants
from ..work.statements import Statements

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

_TEXT_OID = 25


async def execute(fleet: AsyncFleet, call: Call, planned: Planned, bound: Bound, *, again: bool = False) -> Result:
    """Ask every shard of the bound plan, and put their rows together; `again` in transactions that may only read."""
    plan = bound.plan.scattered
    assert isinstance(plan, Gathered)
    values = planned.arrange(call.params)
    limit, offset = bound_value(plan.limit, values), bound_value(plan.offset, values) or 0
    if plan.add and call.binary:
        raise NotHere("values are added as texts")
    participants = await AsyncParticipants.take(
        fleet,
        bound.shards,
        call.deadline,
        readonly=call.readonly,
        topology=planned.topology,
        missing=call.missing,
        buckets_by_shard=bound.buckets_by_shard,
        reads=not bound.plan.writes,
        within=call.within,
    )
    requests: list[Request] = []
    try:
        statements = Statements(call.query, call.params, call.binary)
        for name, conn in participants.conns.items():
            statement = local(plan, bound, statements.on(conn), conn.info.encoding)
            requests.append(participants.request(name, statement, reads=True, again=again))
        steps = ((request.pgconn.socket, request.step()) for request in requests)
        if call.missing is None and call.within is None:
            await async_drive(steps, call.deadline, partial(_any_failed, requests))
        else:
            await async_drive(steps, call.deadline)
    finally:
        await participants.end(partial(_freed, requests, call.deadline))
    failures = participants.failures(requests, may_be_applied=False)
    if call.missing is not None and may_be_missing(failures, len(requests)):
        call.missing.update(as_missing(failures))
        requests = [request for request in requests if request.error is None]
        bound = replace(bound, shards=tuple(request.shard for request in requests))
    elif failures:
        if again or call.missing is not None or not participants.is_repeated(call.query, failures):
            raise several(failures, len(participants))
        return await execute(fleet, call, planned, bound, again=True)
    pgresults = [request.pgresult for request in requests]
    conn = requests[0].conn
    if plan.add:
        return Result.of(pgresults, conn, bound, call.row_factory, record=added(pgresults, plan.add))
    order = merged_order(pgresults, plan.sort, call.binary) if plan.sort else None
    if order is None and (limit is not None or offset):
        order = [(number, row) for number, part in enumerate(pgresults) for row in range(part.ntuples)]
    if order is not None and (limit is not None or offset):
        order = order[offset : None if limit is None else offset + limit]
    width = pgresults[0].nfields - plan.hidden
    return Result.of(pgresults, conn, bound, call.row_factory, order=order, width=width)


def _any_failed(requests: Sequence[Request]) -> bool:
    return any(request.error is not None for request in requests)


async def _freed(requests: Sequence[Request], deadline: Deadline) -> None:
    """The answers of the others are of no use when one shard has failed."""
    await give_up((request.conn for request in requests if not request.reusable), deadline)
    for request in requests:
        if not request.reusable and not is_idle(request.conn):
            await request.conn.close()


def local(plan: Gathered, bound: Bound, original: Statement, encoding: str) -> Statement:
    """The statement as a shard gets it, in the encoding of the connection and with the parameters of the original."""
    if plan.sql == bound.plan.sql:
        return original
    # An OFFSET that is not sent leaves its parameter unused: one of no type has to be given some.
    used = used_params(plan.sql) if original.types else ()
    types = [oid or (0 if number in used else _TEXT_OID) for number, oid in enumerate(original.types, 1)]
    return replace(original, text=plan.sql.encode(encoding), types=types)
