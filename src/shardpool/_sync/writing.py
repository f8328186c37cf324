# Generated from _async/writing.py by tools/unasync.py: edit that one, then run `make sync`.
"""Writes on several shards: one transaction on each, begun on all, committed when all have done their part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.rows import RowFactory

from .._concurrency import drive
from .._leg import Leg, Statement
from .._ship import TIME
from ..errors import CommitUnknown, ScatterError, ShardError, UnsupportedQuery
from ..query.bound import Bound, row_shards
from ..query.plan import Gathered, Split
from ..query.rows import Rows
from ..query.template import Template
from ..result import Result
from . import gather, moving, planning
from .lease import Params
from .planning import Planned
from .pools import give_all
from .statements import Statements

if TYPE_CHECKING:
    from .router import Router

_TIMESTAMPTZ_OID = 1184
_COMMIT = Statement(b"commit", None)
# What undoing may take when the deadline has passed.
_LAST_SECONDS = 0.05
_ROLLBACK = Statement(b"rollback", None)


def execute(
    router: Router,
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
    rows = planning.beside(plan.sql, lambda: plan.rows) if isinstance(plan, Split) else None
    taken = gather.take_all(router, bound.shards, deadline, readonly=False, topology=found.topology)
    try:
        whole = Statements(query, params, binary)
        statements = {name: whole.on(conn) for name, (_, conn) in taken.items()}
        if plan.timed is not None:
            statements = _timed(plan.timed, statements, taken, deadline)
        if isinstance(plan, Split) and rows is not None:
            rows_by_shard = _rows_by_shard(plan, found, params)
            statements = {name: _divided(rows, statements[name], own) for name, own in rows_by_shard.items()}
        legs = _run(taken, statements, deadline, begin=True)
        failures = gather.failures_of(legs, taken, may_be_applied=False)
        copies = isinstance(plan, Gathered) and plan.everywhere
        touched = {leg.pgresult.command_tuples for leg in legs if leg.pgresult is not None}
        late = not failures and monotonic() >= deadline
        if failures or late or (copies and len(touched) > 1):
            until = max(deadline, monotonic() + _LAST_SECONDS)
            _run(_idle(taken, legs), dict.fromkeys(taken, _ROLLBACK), until, begin=False)
        if late:
            raise gather.overdue(legs[0].shard, taken[legs[0].shard][0], reads=True)()
        if failures:
            given_away = next(filter(moving.is_given_away, failures.values()), None)
            raise given_away or gather.several(failures, len(taken))
        if copies and len(touched) > 1:
            raise _copies_differ(legs)
        results = [leg.pgresult for leg in legs]
        _commit(taken, deadline)
        first = next(iter(taken.values()))[1]
        order = _given_order([rows_by_shard[name] for name in taken], results) if isinstance(plan, Split) else None
        return Result.of(results[:1] if copies else results, first, bound, row_factory, order=order)
    finally:
        for _, conn in taken.values():
            if gather.is_busy(conn):
                conn.close()
        give_all(taken.values())


def _run(
    taken: gather.Taken,
    statements: Mapping[str, Statement],
    deadline: float,
    *,
    begin: bool = False,
    reads: bool | None = None,
) -> list[Leg]:
    """A statement on each shard; what only `reads` has not been applied when the deadline passes."""
    reads = begin if reads is None else reads
    legs = []
    for name, (pool, conn) in taken.items():
        if not conn.autocommit:
            conn.set_autocommit(True)
        legs.append(Leg(name, conn, statements[name], gather.overdue(name, pool, reads=reads), begin=begin))
    drive(((leg.pgconn.socket, leg.step()) for leg in legs), deadline)
    for leg in legs:
        if not leg.reusable:
            leg.conn.close()
    return legs


def _commit(taken: gather.Taken, deadline: float) -> None:
    """COMMIT on all shards; what is on which shard when not all confirm it is told by the error."""
    legs = _run(taken, dict.fromkeys(taken, _COMMIT), deadline, begin=False)
    failures = gather.failures_of(legs, taken, may_be_applied=True)
    if not failures:
        return
    unknown = {name: _unknown(name, error) for name, error in failures.items()}
    done = [leg.shard for leg in legs if leg.error is None]
    raise ScatterError(
        f"{len(failures)} of {len(legs)} shards did not confirm their COMMIT",
        failures=unknown,
        results=dict.fromkeys(done, "committed"),
        hint="A write on several shards is one transaction on each, not one over all: look before you write again.",
    ) from next(iter(failures.values()))


def _unknown(name: str, error: BaseException) -> BaseException:
    refused = isinstance(error, psycopg.Error) and error.sqlstate and not isinstance(error, ShardError)
    if refused or getattr(error, "applied", None) == "unknown":
        return error
    found = CommitUnknown(f"whether shard {name} has committed is not known", shard=name, phase="commit")
    found.__cause__ = error
    return found


def _idle(taken: gather.Taken, legs: Sequence[Leg]) -> gather.Taken:
    """The connections that can still be spoken to."""
    usable = {leg.shard for leg in legs if leg.reusable}
    return {name: found for name, found in taken.items() if name in usable}


def _timed(
    timed: Template, statements: Mapping[str, Statement], taken: gather.Taken, deadline: float
) -> dict[str, Statement]:
    """The statements with the time that one shard tells, as one more parameter."""
    name = next(iter(taken))
    asked = {name: taken[name]}
    (leg,) = _run(asked, {name: Statement(TIME.encode(), None)}, deadline, reads=True)
    if leg.error is not None:
        raise gather.several(gather.failures_of([leg], asked, may_be_applied=False), 1)
    time = leg.pgresult.get_value(0, 0)
    text = timed.numbered(len(statements[name].types) + 1)
    return {
        shard: replace(
            whole,
            text=text.encode(),
            values=[*(whole.values or []), time],
            types=[*whole.types, _TIMESTAMPTZ_OID],
            formats=[*whole.formats, 0],
        )
        for shard, whole in statements.items()
    }


def _rows_by_shard(split: Split, found: Planned, params: Params | None) -> dict[str, list[int]]:
    """By shard the numbers of the rows of VALUES, from 0."""
    rows_by_shard: dict[str, list[int]] = {}
    for number, name in enumerate(row_shards(split, found.topology, found.arrange(params))):
        rows_by_shard.setdefault(name, []).append(number)
    return rows_by_shard


def _divided(rows: Rows, whole: Statement, own: Sequence[int]) -> Statement:
    """The INSERT of some of the rows, with their parameters only."""
    sql, numbers = rows.of(own)
    return replace(
        whole,
        text=sql.encode(),
        values=[(whole.values or [])[number - 1] for number in numbers],
        types=[whole.types[number - 1] for number in numbers],
        formats=[whole.formats[number - 1] for number in numbers],
    )


def _given_order(numbers: Sequence[Sequence[int]], results: Sequence[Any]) -> list[tuple[int, int]] | None:
    """RETURNING in the order of VALUES, as one server gives it, unless some rows were left out.

    `numbers` are those of the rows that each result is of.
    """
    if any(part.ntuples != len(rows) for part, rows in zip(results, numbers, strict=True)):
        return None
    places = [(number, (part, row)) for part, rows in enumerate(numbers) for row, number in enumerate(rows)]
    return [place for _, place in sorted(places)]


def _copies_differ(legs: Sequence[Leg]) -> UnsupportedQuery:
    return UnsupportedQuery(
        "the copies of the reference table are not the same on all shards: nothing was written",
        detail=", ".join(f"{leg.shard}: {leg.pgresult.command_tuples} rows" for leg in legs),
        hint="Find the difference with check(), and mend the copies first.",
    )
