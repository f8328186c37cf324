"""Writes on several shards: one transaction on each, begun on all, committed when all have done their part."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import RowFactory

from .._leg import Statement
from .._ship import TIME
from ..errors import ScatterError
from ..query.bound import Bound
from ..query.placing import Check
from ..query.plan import Gathered, Split
from ..query.rows import Rows
from ..query.template import Template
from ..result import Result
from . import gather, planning
from .copies import AsyncCopiesWrite
from .gathering import local
from .lease import Params
from .planning import Planned
from .pools import give_all
from .statements import Statements
from .told import told
from .unit import AsyncUnit

if TYPE_CHECKING:
    from .router import AsyncRouter

_TIMESTAMPTZ_OID = 1184


async def execute(
    router: AsyncRouter,
    found: Planned,
    bound: Bound,
    query: Any,
    params: Params | None,
    deadline: float,
    *,
    binary: bool,
    row_factory: RowFactory[Any] | None,
) -> Result:
    """Write on every shard of the bound plan; on none when one of them refuses."""
    plan = bound.plan.scattered
    assert isinstance(plan, Gathered | Split)
    rows = await planning.beside(bound.plan.sql, lambda: plan.rows) if isinstance(plan, Split) else None
    taken = await gather.take_all(router, bound.shards, deadline, readonly=False, topology=found.topology)
    unit = AsyncUnit(router, taken, deadline)
    try:
        whole = Statements(query, params, binary)
        statements = {name: whole.on(conn) for name, (_, conn) in taken.items()}
        if isinstance(plan, Gathered):
            statements = {
                name: local(plan, bound, statement, taken[name][1].info.encoding)
                for name, statement in statements.items()
            }
        if plan.timed is not None:
            statements = await _timed(plan.timed, statements, unit, taken)
        if isinstance(plan, Split) and rows is not None:
            rows_by_shard = _rows_by_shard(bound)
            statements = {
                name: _divided(rows, statements[name], rows_by_shard[name], taken[name][1].info.encoding)
                for name in statements
            }
        statements = await told(unit, statements)
        if isinstance(plan, Gathered) and plan.copies is not None:
            legs = await unit.settled(partial(AsyncCopiesWrite(unit, plan.hidden, plan.copies).run, statements))
            await unit.commit()
            width = legs[0].pgresult.nfields - plan.hidden
            order: list[tuple[int, int]] | None = None if width else []
            return Result.of([legs[0].pgresult], legs[0].conn, bound, row_factory, order=order, width=width)
        check = bound.plan.check
        if check is not None:
            statements = {name: _checked(check, own, found, taken[name][1], name) for name, own in statements.items()}
        legs = await unit.settled(partial(unit.write, statements))
        await unit.commit()
        results = [leg.pgresult for leg in legs]
        order = _given_order([rows_by_shard[name] for name in taken], results) if isinstance(plan, Split) else None
        result = Result.of(results, legs[0].conn, bound, row_factory, order=order)
        if check is not None:
            result.hide_check(check.returning)
        return result
    except (ScatterError, psycopg.Error) as error:
        _refuse_misplaced(bound, error.failures.values() if isinstance(error, ScatterError) else [error])
        raise
    finally:
        for _, conn in taken.values():
            if gather.is_busy(conn):
                await conn.close()
        await give_all(taken.values())


async def _timed(
    timed: Template, statements: Mapping[str, Statement], unit: AsyncUnit, taken: gather.Taken
) -> dict[str, Statement]:
    """The statements with the time that one shard tells, as one more parameter."""
    name = next(iter(statements))
    told = await unit.ask(name, Statement(TIME.encode(), None))
    time = told.get_value(0, 0)
    text = timed.numbered(len(statements[name].types) + 1)
    return {
        shard: replace(
            whole,
            text=text.encode(taken[shard][1].info.encoding),
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


def _checked(check: Check, whole: Statement, found: Planned, conn: AsyncConnection[Any], shard: str) -> Statement:
    return replace(whole, text=check.added(whole.text, found.topology, shard, encoding=conn.info.encoding))


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
