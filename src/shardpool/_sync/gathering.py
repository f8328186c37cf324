# Generated from _async/gathering.py by tools/unasync.py: edit that one, then run `make sync`.
"""`concatenate`, `merge` and `add`: every shard answers for itself, and the answers are put together here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from psycopg.rows import RowFactory

from .._concurrency import drive
from .._leg import Leg, Repetition, Statement
from ..query.bound import Bound
from ..query.merging import NotHere, added, bound_value, merged_order
from ..query.plan import Gathered
from ..query.statement import used_params
from ..result import Result
from . import gather
from .cancelling import give_up
from .lease import Params, is_idle
from .planning import Planned
from .pools import give_all
from .statements import Statements

if TYPE_CHECKING:
    from .router import Router

_TEXT_OID = 25


def execute(
    router: Router,
    found: Planned,
    bound: Bound,
    query: Any,
    params: Params | None,
    deadline: float,
    *,
    readonly: bool,
    missing: gather.Missing | None,
    binary: bool,
    row_factory: RowFactory[Any] | None,
    again: bool = False,
) -> Result:
    """Ask every shard of the bound plan, and put their rows together; `again` in transactions that may only read."""
    plan = bound.plan.scattered
    assert isinstance(plan, Gathered)
    values = found.arrange(params)
    limit, offset = bound_value(plan.limit, values), bound_value(plan.offset, values) or 0
    if plan.add and binary:
        raise NotHere("values are added as texts")
    taken = gather.take_all(router, bound.shards, deadline, readonly, topology=found.topology, missing=missing)
    legs: list[Leg] = []
    try:
        statements = Statements(query, params, binary)
        for name, (pool, conn) in taken.items():
            if not conn.autocommit:
                conn.set_autocommit(True)
            statement = local(plan, bound, statements.on(conn), conn.info.encoding)
            overdue = gather.overdue(name, pool, reads=True)
            legs.append((Repetition if again else Leg)(name, conn, statement, overdue))
        steps = ((leg.pgconn.socket, leg.step()) for leg in legs)
        if missing is None:
            drive(steps, deadline, partial(_any_failed, legs))
        else:
            drive(steps, deadline)
    finally:
        give_all(taken.values(), partial(_freed, legs, deadline))
    failures = gather.failures_of(legs, taken, may_be_applied=False)
    if missing is not None and gather.may_be_missing(failures, len(legs)):
        missing.update(gather.as_missing(failures))
        legs = [leg for leg in legs if leg.error is None]
        bound = replace(bound, shards=tuple(leg.shard for leg in legs))
    elif failures:
        if again or missing is not None or not gather.is_repeated(router, query, failures, taken):
            raise gather.several(failures, len(taken))
        options: dict[str, Any] = {"readonly": readonly, "binary": binary, "row_factory": row_factory}
        return execute(router, found, bound, query, params, deadline, **options, missing=None, again=True)
    pgresults = [leg.pgresult for leg in legs]
    conn = legs[0].conn
    if plan.add:
        return Result.of(pgresults, conn, bound, row_factory, record=added(pgresults, plan.add))
    order = merged_order(pgresults, plan.sort, binary) if plan.sort else None
    if order is None and (limit is not None or offset):
        order = [(number, row) for number, part in enumerate(pgresults) for row in range(part.ntuples)]
    if order is not None and (limit is not None or offset):
        order = order[offset : None if limit is None else offset + limit]
    width = pgresults[0].nfields - plan.hidden
    return Result.of(pgresults, conn, bound, row_factory, order=order, width=width)


def _any_failed(legs: Sequence[Leg]) -> bool:
    return any(leg.error is not None for leg in legs)


def _freed(legs: Sequence[Leg], deadline: float) -> None:
    """The answers of the others are of no use when one shard has failed."""
    give_up((leg.conn for leg in legs if not leg.reusable), deadline)
    for leg in legs:
        if not leg.reusable and not is_idle(leg.conn):
            leg.conn.close()


def local(plan: Gathered, bound: Bound, original: Statement, encoding: str) -> Statement:
    """The statement as a shard gets it, in the encoding of the connection and with the parameters of the original."""
    if plan.sql == bound.plan.sql:
        return original
    # An OFFSET that is not sent leaves its parameter unused: one of no type has to be given some.
    used = used_params(plan.sql) if original.types else ()
    types = [oid or (0 if number in used else _TEXT_OID) for number, oid in enumerate(original.types, 1)]
    return replace(original, text=plan.sql.encode(encoding), types=types)
