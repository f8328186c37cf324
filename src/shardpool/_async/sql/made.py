"""The rows of an INSERT whose keys only a server can tell: one shard makes them, once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg.rows import tuple_row

from ..._call import Call
from ..._wire.statement import Statement
from ...errors import UnsupportedQuery
from ...query.plans.plan import Made
from ...query.plans.planned import Planned
from ...query.text.statement import used_params
from ...result import Result
from ..work.joined import write_on
from ..work.participants import AsyncParticipants
from ..work.statements import Statements

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet
    from ..plans.numbers import AsyncNumbers

_TEXT_OID = 25
_PARAMS_MAX = 65_535


async def finished(
    fleet: AsyncFleet,
    numbers: AsyncNumbers,
    call: Call,
    planned: Planned,
    plan: Made,
    execute: Callable[[Call], Awaitable[Result]],
) -> Call:
    """The call with the rows that one shard has made, as a VALUES of parameters; of no rows, one that inserts none.

    Where rows of shards are read for them, the source is a statement that `execute` runs. What sequences number of them
    is of `numbers`.
    """
    name = next(iter(planned.topology.shards)) if plan.by_first else fleet.in_turn()[0]
    participants = await AsyncParticipants.take(
        fleet, (name,), call.deadline, readonly=False, topology=planned.topology, within=call.within
    )
    transaction = write_on(fleet, participants, call.deadline)
    try:
        conn = participants.conn(name)
        whole = Statements(call.query, call.params, False).on(conn)
        # What is no INSERT on one server is none here: a value of another type than its column, one too many.
        await transaction.describe(name, whole)
        rows: list[Sequence[str | None]] = []
        if plan.reads is None:
            result = await transaction.ask(name, _source(plan, whole, conn.info.encoding))
            encoding = conn.info.encoding
            rows = [
                [_text(result.get_value(row, column), encoding) for column in range(result.nfields)]
                for row in range(result.ntuples)
            ]
    finally:
        await participants.close_busy()
        await participants.end()
    values = planned.given(call.params)
    if plan.reads is not None:
        query, params = plan.reading(values)
        reading = replace(call, query=query, params=params, binary=False, row_factory=tuple_row, strategy=None)
        rows = (await execute(reading)).rows
    if rows and plan.sequences:
        more = [await numbers.take(sequence, len(rows), call.deadline) for _, sequence in plan.sequences]
        rows = [(*row, *map(str, own)) for row, own in zip(rows, zip(*more, strict=True), strict=True)]
    query, params = plan.finish.filled(rows, values)
    if len(params) > _PARAMS_MAX:
        raise UnsupportedQuery(
            f"the {len(rows):,} rows of this INSERT have {len(params):,} values: more than {_PARAMS_MAX:,} at once",
            hint="Insert fewer rows at once, or write them with copy_into().",
        )
    return replace(call, query=query, params=params, new=frozenset(name for name, _ in plan.sequences))


def _source(plan: Made, whole: Statement, encoding: str) -> Statement:
    """The rows as texts, by the parameters of the statement: one that is not used, and has no type, has to get one."""
    used = used_params(plan.source) if whole.types else ()
    types = [oid or (0 if number in used else _TEXT_OID) for number, oid in enumerate(whole.types, 1)]
    return replace(whole, text=plan.source.encode(encoding), types=types, result_format=0)


def _text(value: Any, encoding: str) -> str | None:
    return None if value is None else bytes(value).decode(encoding)
