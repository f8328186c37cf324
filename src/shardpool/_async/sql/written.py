"""Writes on several shards: begun on all, committed when all have done their part; as one where the shards can."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection

from ..._call import Call
from ..._wire.statement import Statement
from ..._wire.transfer import TIME
from ...errors import ScatterError
from ...query.analysis.placing import Check
from ...query.plans.bound import Bound
from ...query.plans.plan import Gathered, Split
from ...query.plans.planned import Planned
from ...query.text.rows import Rows
from ...query.text.template import Template
from ...result import Result
from ..plans.planner import beside
from ..work.copies import AsyncCopiesWrite
from ..work.joined import write_on
from ..work.participants import AsyncParticipants
from ..work.statements import Statements
from ..work.transaction import AsyncTransaction
from ..work.two_phase import obstacle
from .gathered import local
from .moments import told

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

_TIMESTAMPTZ_OID = 1184


async def execute(fleet: AsyncFleet, call: Call, planned: Planned, bound: Bound) -> Result:
    """Write on every shard of the bound plan; on none when one of them refuses.

    When it has to be atomic, raises `UnsupportedQuery` where they cannot commit as one.
    """
    plan = bound.plan.scattered
    assert isinstance(plan, Gathered | Split)
    rows = await beside(bound.plan.sql, lambda: plan.rows) if isinstance(plan, Split) else None
    participants = await AsyncParticipants.take(
        fleet,
        bound.shards,
        call.deadline,
        readonly=False,
        topology=planned.topology,
        within=call.within,
        buckets_by_shard=bound.buckets_by_shard,
    )
    transaction = write_on(fleet, participants, call.deadline)
    try:
        if call.atomic and (refusal := obstacle(participants.pools)) is not None:
            raise refusal
        whole = Statements(call.query, call.params, call.binary)
        statements = {name: whole.on(conn) for name, conn in participants.conns.items()}
        if isinstance(plan, Gathered):
            statements = {
                name: local(plan, bound, statement, participants.conn(name).info.encoding)
                for name, statement in statements.items()
            }
        if plan.timed is not None:
            statements = await _timed(plan.timed, statements, transaction, participants)
        if isinstance(plan, Split) and rows is not None:
            rows_by_shard = _rows_by_shard(bound)
            statements = {
                name: _divided(rows, statements[name], rows_by_shard[name], participants.conn(name).info.encoding)
                for name in statements
            }
        statements = await told(transaction, statements)
        if isinstance(plan, Gathered) and plan.copies is not None:
            requests = await transaction.settled(
                partial(AsyncCopiesWrite(transaction, plan.hidden, plan.copies).run, statements)
            )
            await transaction.commit()
            width = requests[0].pgresult.nfields - plan.hidden
            order: list[tuple[int, int]] | None = None if width else []
            return Result.of(
                [requests[0].pgresult], requests[0].conn, bound, call.row_factory, order=order, width=width
            )
        check = bound.plan.check
        if check is not None:
            statements = {
                name: _checked(check, own, planned, participants.conn(name), name) for name, own in statements.items()
            }
        requests = await transaction.settled(partial(transaction.write, statements))
        await transaction.commit()
        results = [request.pgresult for request in requests]
        order = (
            _given_order([rows_by_shard[name] for name in participants], results) if isinstance(plan, Split) else None
        )
        result = Result.of(results, requests[0].conn, bound, call.row_factory, order=order)
        if check is not None:
            result.hide_check(check.returning)
        return result
    except (ScatterError, psycopg.Error) as error:
        _refuse_misplaced(bound, error.failures.values() if isinstance(error, ScatterError) else [error])
        raise
    finally:
        await participants.close_busy()
        await participants.end()


async def _timed(
    timed: Template, statements: Mapping[str, Statement], transaction: AsyncTransaction, participants: AsyncParticipants
) -> dict[str, Statement]:
    """The statements with the time that one shard tells, as one more parameter."""
    name = next(iter(statements))
    told = await transaction.ask(name, Statement(TIME.encode(), None))
    time = told.get_value(0, 0)
    text = timed.numbered(len(statements[name].types) + 1)
    return {
        shard: replace(
            whole,
            text=text.encode(participants.conn(shard).info.encoding),
            values=[*(whole.values or []), time],
            types=[*whole.types, _TIMESTAMPTZ_OID],
            formats=[*whole.formats, 0],
        )
        for shard, whole in statements.items()
    }


def _rows_by_shard(bound: Bound) -> dict[str, list[int]]:
    """By shard the numbers of the rows of VALUES, from 0."""
    rows_by_shard: dict[str, list[int]] = {}
    for number, name in enumerate(bound.shards_by_row):
        rows_by_shard.setdefault(name, []).append(number)
    return rows_by_shard


def _divided(rows: Rows, whole: Statement, own: Sequence[int], encoding: str) -> Statement:
    """The INSERT of some of the rows, with their parameters only."""
    sql, numbers = rows.of(own)
    return replace(
        whole,
        text=sql.encode(encoding),
        values=[(whole.values or [])[number - 1] for number in numbers],
        types=[whole.types[number - 1] for number in numbers],
        formats=[whole.formats[number - 1] for number in numbers],
    )


def _checked(check: Check, whole: Statement, planned: Planned, conn: AsyncConnection[Any], shard: str) -> Statement:
    return replace(whole, text=check.added(whole.text, planned.topology, shard, encoding=conn.info.encoding))


def _refuse_misplaced(bound: Bound, errors: Iterable[BaseException]) -> None:
    check = bound.plan.check
    for error in errors:
        refused = check.failure(error, bound.plan.verb) if check is not None else None
        if refused is not None:
            raise refused from error


def _given_order(numbers: Sequence[Sequence[int]], results: Sequence[Any]) -> list[tuple[int, int]] | None:
    """RETURNING in the order of VALUES, as one server gives it, unless some rows were left out.

    `numbers` are those of the rows that each result is of.
    """
    if any(part.ntuples != len(rows) for part, rows in zip(results, numbers, strict=True)):
        return None
    places = [(number, (part, row)) for part, rows in enumerate(numbers) for row, number in enumerate(rows)]
    return [place for _, place in sorted(places)]
