"""The same statement or function on many shards at once, and every shard's outcome."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg import AsyncConnection
from psycopg.rows import RowFactory

from ..._call import Call
from ..._runtime.deadlines import Deadline
from ..._runtime.drivers import Step, async_drive
from ..._runtime.tasks import async_run_all
from ..._wire.request import Request
from ...result import Result
from ...topology import Topology
from .handle import AsyncShardHandle
from .outcomes import Missing, all_or_raise
from .participants import AsyncParticipants
from .statements import Statements

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet


async def call(
    fleet: AsyncFleet,
    names: Sequence[str],
    function: Callable[[AsyncConnection[Any]], Awaitable[Any]],
    deadline: Deadline,
    *,
    readonly: bool,
    missing: Missing | None = None,
) -> dict[str, Any]:
    """`function(conn)` in one transaction on each shard, side by side."""

    async def one(name: str) -> Any:
        async with AsyncShardHandle(fleet, name)._block_until(deadline, readonly=readonly) as conn:
            return await function(conn)

    outcomes = await async_run_all([partial(one, name) for name in names])
    results = {name: value for name, (value, error) in zip(names, outcomes, strict=True) if error is None}
    failures = {name: error for name, (_, error) in zip(names, outcomes, strict=True) if error is not None}
    return all_or_raise(names, results, failures, missing)


async def execute(
    fleet: AsyncFleet,
    call: Call,
    names: Sequence[str],
    topology: Topology | None = None,
    *,
    text: str | None = None,
    again: bool = False,
) -> dict[str, Result]:
    """The same statement on each shard: sent to all before any is read; `again` in transactions that may only read.

    What is sent is `text`, with `$n`, where that is given, and the query of the call else.
    """
    participants = await AsyncParticipants.take(
        fleet, names, call.deadline, readonly=call.readonly, topology=topology, missing=call.missing
    )
    requests: list[Request] = []
    results: dict[str, Result] = {}
    try:
        statements = Statements(call.query, call.params, call.binary)
        for name, conn in participants.conns.items():
            statement = statements.on(conn)
            if text is not None:
                statement = replace(statement, text=text.encode(conn.info.encoding))
            requests.append(participants.request(name, statement, again=again))
        steps = ((request.pgconn.socket, _answer(request, results, call.row_factory)) for request in requests)
        await async_drive(steps, call.deadline)
    finally:
        for request in requests:
            if not request.reusable:
                await request.conn.close()
        await participants.end()
    # Only what has failed is worth reading the SQL for.
    failed = [request for request in requests if request.error is not None]
    failures = participants.failures(failed, may_be_applied=bool(failed) and fleet.schema.may_write(call.query))
    if call.missing is None and not again and participants.is_repeated(call.query, failures):
        return await execute(fleet, call, names, topology, text=text, again=True)
    answers = {name: results[name] for name in names if name in results}
    return all_or_raise(names, answers, failures, call.missing)


def _answer(request: Request, results: dict[str, Result], row_factory: RowFactory[Any] | None) -> Step:
    """The request's step, and its result made at its end: while the other servers still work, it costs no time."""
    yield from request.step()
    if request.error is None:
        results[request.shard] = Result(request.pgresult, request.conn, (request.shard,), row_factory)
