# Generated from _async/shipping.py by tools/unasync.py: edit that one, then run `make sync`.
"""`combine` and `pull`: connections of all the shards, one flow over them, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Connection
from psycopg.adapt import PyFormat, Transformer
from psycopg.pq import Escaping, TransactionStatus
from psycopg.rows import RowFactory

from .._concurrency import Overdue, drive_flow
from .._flow import Copied, run
from .._leg import Statement
from .._session import SESSION
from .._ship import Literals, Sources, shipped
from ..errors import DeadlineExceeded, ScatterError, ShardError, ShardUnavailable, UnsupportedQuery, first_line
from ..query.bound import Bound
from ..query.plan import Shipped
from ..query.statement import used_params
from ..result import Result
from ..settings import Transport, transport
from . import gather
from .cancelling import give_up
from .lease import Params, is_lost
from .planning import Planned, any_shard, may_write
from .pools import give_all
from .statements import FIRST_NORMAL_OID, statement_on

if TYPE_CHECKING:
    from .router import Router

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


def execute(
    router: Router,
    found: Planned,
    bound: Bound,
    query: Any,
    params: Params | None,
    deadline: float,
    *,
    missing: gather.Missing | None,
    binary: bool,
    row_factory: RowFactory[Any] | None,
) -> Result:
    """Bring the rows to one shard and run the final statement there; once more when shards are lost meanwhile, or
    without them when they may be `missing`."""
    without: gather.Missing = {}
    again = False
    while True:
        try:
            asked = replace(bound, shards=tuple(name for name in bound.shards if name not in without))
            options: dict[str, Any] = {"missing": missing, "binary": binary, "row_factory": row_factory}
            return _execute(router, found, asked, query, params, deadline, without=without, again=again, **options)
        except _Lost as error:
            if error.repeated:
                again = True
                continue
            may_be_missing = missing is not None and gather.may_be_missing(error.failures, len(asked.shards))
            if missing is None or not may_be_missing or may_write(router, query):
                raise ScatterError(error.message, failures=error.failures) from error.__cause__
            without.update(error.failures)
            missing.clear()


def _execute(
    router: Router,
    found: Planned,
    bound: Bound,
    query: Any,
    params: Params | None,
    deadline: float,
    *,
    missing: gather.Missing | None,
    binary: bool,
    row_factory: RowFactory[Any] | None,
    without: gather.Missing,
    again: bool,
) -> Result:
    if missing is not None:
        missing.update(without)
    taken = gather.take_all(router, bound.shards, deadline, readonly=False, topology=found.topology, missing=missing)
    conns: dict[str, Connection[Any]] = {}
    prepared: Prepared | None = None
    try:
        for _, conn in taken.values():
            if not conn.autocommit:
                conn.set_autocommit(True)
        if missing is not None:
            silent = gather.silent(taken, (monotonic() + deadline) / 2)
            for name, error in silent.items():
                missing[name] = error if isinstance(error, ShardError) else lost(name, error)
        conns.update((name, conn) for name, (_, conn) in taken.items() if not missing or name not in missing)
        _check_homes(bound, missing or {})
        prepared = prepare(router, found, bound, query, params, conns, binary)
        flow = shipped(
            prepared.plan,
            prepared.sources,
            conns,
            prepared.at,
            prepared.original,
            prepared.final,
            prepared.copied,
            prepared.transport,
        )
        pgresult = drive_flow(flow, deadline)
        return Result(pgresult, conns[prepared.at], tuple(conns), row_factory, bound=bound)
    except Overdue:
        tell(taken, None)
        raise DeadlineExceeded(
            "the deadline passed while rows were brought to one shard",
            shard=prepared.at if prepared is not None else bound.shards[0],
            detail=f"{prepared.copied.rows if prepared is not None else 0:,} rows had come.",
            hint="Filter on the partition key, or give it more time with timeout=….",
        ) from None
    except psycopg.Error as error:
        tell(taken, error)
        failures = {name: lost(name, error) for name, conn in conns.items() if is_lost(conn)}
        if not failures:
            raise
        loss = _Lost(f"{len(failures)} of {len(conns)} shards failed", failures=failures)
        # Nothing of it remains, whatever it does: it ends with ROLLBACK.
        if missing is None and not again:
            loss.repeated = gather.is_repeated(router, query, dict.fromkeys(failures, error), taken)
        raise loss from error
    finally:
        give_all(taken.values(), partial(rolled_back, [conn for _, conn in taken.values()], deadline))


@dataclass(frozen=True, slots=True)
class Prepared:
    """Everything that the flow of a shipped plan needs but its connections; `at` is the shard in the middle."""

    plan: Shipped
    at: str
    sources: list[Sources]
    original: Statement | None
    final: Statement
    copied: Copied
    transport: Transport


def prepare(
    router: Router,
    found: Planned,
    bound: Bound,
    query: Any,
    params: Params | None,
    conns: Mapping[str, Connection[Any]],
    binary: bool,
) -> Prepared:
    """Fill in the parameters, and choose the shard in the middle."""
    plan = bound.plan.scattered
    assert isinstance(plan, Shipped)
    homes = {use.shard for use in bound.plan.uses if use.shard}
    at = next(iter(homes)) if len(homes) == 1 else _middle(router, list(conns))
    original = statement_on(conns[at], query, params, binary)
    literals = _literals(conns[at], found, params, original.types)
    sources = [
        Sources(ship, literals, frozenset(conns) & frozenset().union(*(bound.shards_by_use[use] for use in ship.uses)))
        for ship in plan.ships
    ]
    copied = Copied(router.max_pull_rows, router.max_pull_bytes, lambda limit: _too_much(bound, limit))
    final = _final(plan, original, conns[at].info.encoding)
    how = transport(conns[at].__dict__[SESSION].settings)
    return Prepared(plan, at, sources, original if len(homes) <= 1 else None, final, copied, how)


def tell(taken: gather.Taken, error: psycopg.Error | None) -> None:
    """Let the pools know whose connections were lost, or with no error are silent at the deadline."""
    for pool, conn in taken.values():
        if error is None and gather.is_busy(conn):
            pool.was_cut()
        elif error is not None and is_lost(conn):
            pool.was_lost(error)


def _check_homes(bound: Bound, missing: gather.Missing) -> None:
    """A table that is on one shard alone is not there in part."""
    failures = {use.shard: missing[use.shard] for use in bound.plan.uses if use.shard in missing}
    if failures:
        raise ScatterError("a table of the statement is on a shard that is missing", failures=failures)


def rolled_back(conns: Iterable[Connection[Any]], deadline: float) -> None:
    """Leave no transaction open, and nothing running; by the deadline, or shortly after when that has passed."""
    conns = list(conns)
    until = max(monotonic() + _LAST_SECONDS, min(deadline, monotonic() + _ROLLBACK_SECONDS))
    give_up(conns, until)
    for conn in conns:
        if conn.pgconn.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            try:
                drive_flow(run(conn, "ROLLBACK"), max(until, monotonic() + _LAST_SECONDS / 2))
            except (Overdue, psycopg.Error):
                conn.close()


def _middle(router: Router, names: Sequence[str]) -> str:
    """The shard to which the rows are brought: each in turn."""
    for _ in router.shards:
        name = any_shard(router)
        if name in names:
            return name
    return names[0]


def _final(plan: Shipped, original: Statement, encoding: str) -> Statement:
    """The final statement with the parameters of the original; one of no type that is no longer used is a text."""
    used = used_params(plan.final) if original.types else ()
    types = [oid or (0 if number in used else _TEXT_OID) for number, oid in enumerate(original.types, 1)]
    text = plan.final.encode(encoding)
    return Statement(text, original.values or [], types, original.formats, original.result_format)


def _literals(conn: Connection[Any], found: Planned, params: Params | None, types: Sequence[int]) -> Literals:
    """The parameters as SQL literals, each with the type that it is sent with."""
    values = found.given(params)
    dumped = Transformer(conn).dump_sequence(values, [PyFormat.TEXT] * len(values))
    texts = [
        "NULL" if data is None else Escaping(conn.pgconn).escape_literal(bytes(data)).decode(conn.info.encoding)
        for data in dumped
    ]
    return Literals(texts, types, partial(_type_name, conn))


def _type_name(conn: Connection[Any], oid: int) -> str | None:
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
