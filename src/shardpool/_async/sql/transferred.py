"""`combine` and `pull`: connections of all the shards, one flow over them, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import AsyncConnection
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Escaping, TransactionStatus

from ..._call import Call, Params
from ..._endpoint.session import SESSION
from ..._runtime.deadlines import Deadline, deadline_after, halfway
from ..._runtime.drivers import Overdue, async_drive_flow
from ..._wire.flow import Copied, run
from ..._wire.statement import Statement
from ..._wire.transfer import BACK, ParameterLiterals, Sources, transferred
from ...control.settings import Transport, transport
from ...errors import DeadlineExceeded, ScatterError, ShardError, ShardUnavailable, UnsupportedQuery, first_line
from ...query.plans.bound import Bound
from ...query.plans.plan import Transferred
from ...query.plans.planned import Planned
from ...query.text.statement import used_params
from ...result import Result
from ..work.cancellation import give_up
from ..work.checkout import is_busy, is_lost
from ..work.outcomes import Missing, may_be_missing
from ..work.participants import AsyncParticipants
from ..work.statements import FIRST_NORMAL_OID, statement_on

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

# A partial result may have columns that no table can have: of type record, without a collation, or too many.
UNFIT_FOR_A_TABLE = (
    psycopg.errors.InvalidTableDefinition,
    psycopg.errors.IndeterminateCollation,
    psycopg.errors.ProgramLimitExceeded,
)

_TEXT_OID = 25
_ROLLBACK_SECONDS = 1.0
# What a last attempt may take when the deadline has passed.
_LAST_SECONDS = 0.03


class _Lost(ScatterError):
    """Shards were lost while rows were brought together; `repeated` says that it is done once more."""

    repeated = False


async def execute(fleet: AsyncFleet, call: Call, planned: Planned, bound: Bound) -> Result:
    """Bring the rows to one shard and run the final statement there; once more when shards are lost meanwhile, or
    without them when they may be missing."""
    without: Missing = {}
    again = False
    while True:
        try:
            asked = replace(bound, shards=tuple(name for name in bound.shards if name not in without))
            return await _execute(fleet, call, planned, asked, without=without, again=again)
        except _Lost as error:
            if error.repeated:
                again = True
                continue
            if (
                call.missing is None
                or not may_be_missing(error.failures, len(asked.shards))
                or fleet.schema.may_write(call.query)
            ):
                raise ScatterError(error.message, failures=error.failures) from error.__cause__
            without.update(error.failures)
            call.missing.clear()


async def _execute(
    fleet: AsyncFleet, call: Call, planned: Planned, bound: Bound, *, without: Missing, again: bool
) -> Result:
    missing, deadline = call.missing, call.deadline
    if missing is not None:
        missing.update(without)
    names: Sequence[str] = bound.shards
    middle: str | None = None
    if call.within is not None:
        middle = middle_within(call, bound)
        names = list(dict.fromkeys([middle, *bound.shards]))
    participants = await AsyncParticipants.take(
        fleet,
        names,
        deadline,
        readonly=False,
        topology=planned.topology,
        missing=missing,
        buckets_by_shard=bound.buckets_by_shard,
        reads=not bound.plan.writes,
        within=call.within,
    )
    conns: dict[str, AsyncConnection[Any]] = {}
    prepared: PreparedFlow | None = None
    try:
        if missing is not None:
            silent = await participants.silent(halfway(deadline))
            for name, error in silent.items():
                missing[name] = error if isinstance(error, ShardError) else lost(name, error)
        conns.update((name, conn) for name, conn in participants.conns.items() if not missing or name not in missing)
        _check_homes(bound, missing or {})
        prepared = prepare(fleet, call, planned, bound, conns, middle)
        flow = transferred(
            prepared.plan,
            prepared.sources,
            conns,
            prepared.at,
            prepared.original,
            prepared.final,
            prepared.copied,
            prepared.transport,
            within=call.within is not None,
        )
        pgresult = await async_drive_flow(flow, deadline)
        return Result(pgresult, conns[prepared.at], tuple(conns), call.row_factory, bound=bound)
    except Overdue:
        tell(participants, None)
        raise DeadlineExceeded(
            "the deadline passed while rows were brought to one shard",
            shard=prepared.at if prepared is not None else bound.shards[0],
            detail=f"{prepared.copied.rows if prepared is not None else 0:,} rows had come.",
            hint="Filter on the partition key, or give it more time with timeout=….",
        ) from None
    except psycopg.Error as error:
        tell(participants, error)
        failures = {name: lost(name, error) for name, conn in conns.items() if is_lost(conn)}
        if not failures:
            raise
        loss = _Lost(f"{len(failures)} of {len(conns)} shards failed", failures=failures)
        # Nothing of it remains, whatever it does: it ends with ROLLBACK.
        if missing is None and not again:
            loss.repeated = participants.is_repeated(call.query, dict.fromkeys(failures, error))
        raise loss from error
    finally:
        if middle is not None:
            await _gone_back(conns.get(middle), deadline)
        await participants.end(partial(rolled_back, list(participants.conns.values()), deadline))


@dataclass(frozen=True, slots=True)
class PreparedFlow:
    """Everything that the flow of a transferred plan needs but its connections; `at` is the shard in the middle."""

    plan: Transferred
    at: str
    sources: list[Sources]
    original: Statement | None
    final: Statement
    copied: Copied
    transport: Transport


def prepare(
    fleet: AsyncFleet,
    call: Call,
    planned: Planned,
    bound: Bound,
    conns: Mapping[str, AsyncConnection[Any]],
    middle: str | None = None,
) -> PreparedFlow:
    """Fill in the parameters, and choose the shard in the middle unless it is given."""
    plan = bound.plan.scattered
    assert isinstance(plan, Transferred)
    homes = {use.shard for use in bound.plan.uses if use.shard}
    at = middle or _home_of(bound) or _middle(fleet, list(conns))
    original = statement_on(conns[at], call.query, call.params, call.binary)
    literals = _literals(conns[at], planned, call.params, original.types)
    sources = [
        Sources(
            transfer,
            literals,
            frozenset(conns) & frozenset().union(*(bound.shards_by_use[use] for use in transfer.uses)),
        )
        for transfer in plan.transfers
    ]
    copied = Copied(fleet.limits.max_pull_rows, fleet.limits.max_pull_bytes, lambda limit: _too_much(bound, limit))
    final = _final(plan, original, conns[at].info.encoding)
    how = transport(conns[at].__dict__[SESSION].settings)
    return PreparedFlow(plan, at, sources, original if len(homes) <= 1 else None, final, copied, how)


def _home_of(bound: Bound) -> str | None:
    """The shard that alone has the tables that are on one shard alone; None when there is none, or several."""
    homes = {use.shard for use in bound.plan.uses if use.shard}
    return next(iter(homes)) if len(homes) == 1 else None


def middle_within(call: Call, bound: Bound) -> str:
    """The shard in the middle of the transaction that the call is in."""
    _check_snapshot(call, bound)
    middle: str = call.within.choose_middle(bound.shards, _home_of(bound))
    return middle


def _check_snapshot(call: Call, bound: Bound) -> None:
    """Rows that one shard gives by several statements are of one moment only when the transaction has one snapshot."""
    plan = bound.plan.scattered
    assert isinstance(plan, Transferred)
    if len(plan.transfers) > 1 and call.within.isolation in (None, "read committed"):
        raise UnsupportedQuery(
            "rows of several tables cannot be brought together in this transaction",
            detail="In READ COMMITTED each statement sees what others have committed by then, and it takes several.",
            hint='Begin it with isolation="repeatable read", or join the tables on their partition keys.',
        )


async def _gone_back(conn: AsyncConnection[Any] | None, deadline: Deadline) -> None:
    """Leave no temporary table behind in a transaction that goes on."""
    if conn is None or is_lost(conn) or is_busy(conn):
        return
    try:
        await async_drive_flow(run(conn, BACK), max(deadline, deadline_after(_LAST_SECONDS)))
    except psycopg.errors.InvalidSavepointSpecification:
        return  # it has failed before there was one
    except (Overdue, psycopg.Error):
        await conn.close()


def tell(participants: AsyncParticipants, error: psycopg.Error | None) -> None:
    """Let the pools know whose connections were lost, or with no error are silent at the deadline."""
    for checkout in participants.checkouts.values():
        if error is None and is_busy(checkout.conn):
            checkout.pool.health.was_cut()
        elif error is not None and is_lost(checkout.conn):
            checkout.pool.health.was_lost(error)


def _check_homes(bound: Bound, missing: Missing) -> None:
    """A table that is on one shard alone is not there in part."""
    failures = {use.shard: missing[use.shard] for use in bound.plan.uses if use.shard in missing}
    if failures:
        raise ScatterError("a table of the statement is on a shard that is missing", failures=failures)


async def rolled_back(conns: Iterable[AsyncConnection[Any]], deadline: Deadline) -> None:
    """Leave no transaction open, and nothing running; by the deadline, or shortly after when that has passed."""
    conns = list(conns)
    until = max(deadline_after(_LAST_SECONDS), min(deadline, deadline_after(_ROLLBACK_SECONDS)))
    await give_up(conns, until)
    for conn in conns:
        if conn.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            try:
                await async_drive_flow(run(conn, "ROLLBACK"), max(until, deadline_after(_LAST_SECONDS / 2)))
            except (Overdue, psycopg.Error):
                await conn.close()


def _middle(fleet: AsyncFleet, names: Sequence[str]) -> str:
    """The shard to which the rows are brought: each in turn."""
    for _ in fleet.snapshot.shards:
        name = fleet.in_turn()[0]
        if name in names:
            return name
    return names[0]


def _final(plan: Transferred, original: Statement, encoding: str) -> Statement:
    """The final statement with the parameters of the original; one of no type that is no longer used is a text."""
    used = used_params(plan.final) if original.types else ()
    types = [oid or (0 if number in used else _TEXT_OID) for number, oid in enumerate(original.types, 1)]
    text = plan.final.encode(encoding)
    return Statement(text, original.values or [], types, original.formats, original.result_format)


def _literals(
    conn: AsyncConnection[Any], planned: Planned, params: Params | None, types: Sequence[int]
) -> ParameterLiterals:
    """The parameters as SQL literals, each with the type that it is sent with."""
    values = planned.given(params)
    dumped = Transformer(conn).dump_sequence(values, [PyFormat.TEXT] * len(values))
    texts = [
        "NULL" if data is None else Escaping(conn.pgconn).escape_literal(bytes(data)).decode(conn.info.encoding)
        for data in dumped
    ]
    return ParameterLiterals(texts, types, partial(_type_name, conn))


def _type_name(conn: AsyncConnection[Any], oid: int) -> str | None:
    """The name of a type of PostgreSQL itself; None for others, whose oids differ from server to server."""
    info = conn.adapters.types.get(oid)
    if info is None or oid >= FIRST_NORMAL_OID:
        return None
    # By its own name, quoted: the SQL names `character` and `bit` mean a length of one.
    name = info.name.strip('"')
    return f'pg_catalog."{name}"' + ("" if info.oid == oid else "[]")


def _too_much(bound: Bound, limit: str) -> UnsupportedQuery:
    reasons = bound.plan.reasons
    return UnsupportedQuery(
        f"more than {limit} would have to be brought to one shard",
        detail=(f"It was not pushed down: {reasons[0]}." if reasons else None),
        hint="Filter or group by the partition key, select fewer rows, or raise max_pull_rows.",
    )


def unlike(reason: Exception) -> UnsupportedQuery:
    """What is said of an answer that even pulling gives no right types."""
    column = getattr(reason, "column", "")
    return UnsupportedQuery(
        f'column "{column}" would not have the type that it has on one server',
        detail="Whole rows of a table are values of a type that only the table itself has.",
        hint="Select its columns one by one, or to_json() of the row.",
    )


def lost(name: str, error: BaseException) -> ShardUnavailable:
    return ShardUnavailable(
        f"the connection to shard {name} was lost", shard=name, phase="query", detail=first_line(error)
    )
