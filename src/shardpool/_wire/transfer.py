"""Bring rows of several shards to one of them and run a statement over them there: `combine` and `pull`.

Everything happens in one transaction on that shard, which is rolled back: its temporary tables leave nothing behind.
Each shard is read in one snapshot of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..control.settings import Transport
from ..query.plans.plan import Transfer, Transferred
from ..query.text.statement import quoted
from .flow import Copied, Flow, copy_rows, describe, query, run, sent
from .statement import Statement

# In a form that is read alike under every DateStyle and TimeZone.
TIME = "SELECT pg_catalog.to_char(pg_catalog.now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US\"+00\"')"
# Rows of all the tables from which on a bad plan takes longer than statistics do.
_ANALYZED_ROWS = 500
# A tenth of the usual sample, 3,000 rows of each table, tells as much about joins, and takes a tenth of the time.
_TARGET = "default_statistics_target"
# What the role's defaults say of transactions, and how long one may wait, is for those of the caller: others deliver
# their rows meanwhile.
_BEGIN = (
    "BEGIN TRANSACTION ISOLATION LEVEL REPEATABLE READ {}, NOT DEFERRABLE; "
    "SET LOCAL idle_in_transaction_session_timeout = 0"
)


# In a transaction of the caller's: the savepoint in the middle before any temporary table.
MIDDLE = "shardpool_middle"
BACK = f"ROLLBACK TO SAVEPOINT {MIDDLE}; RELEASE SAVEPOINT {MIDDLE}"


@dataclass(frozen=True, slots=True)
class ParameterLiterals:
    """The parameters as quoted texts, with the oids of the types that they are sent with; 0 is none.

    A parameter without a type has, wherever it stands, the type that the server finds for it in the whole statement.
    """

    texts: Sequence[str]
    types: Sequence[int]
    type_name: Callable[[int], str | None]

    def spelled(self, described: Any) -> dict[int, str]:
        """SQL by number of the parameter, where its type has a name that is the same on every server."""
        text_by_number = {}
        for number, text in enumerate(self.texts, 1):
            oid = self.types[number - 1] or (described.param_type(number - 1) if described is not None else 0)
            name = self.type_name(oid)
            if name is not None:
                text_by_number[number] = f"({text}::{name})"
        return text_by_number


@dataclass(frozen=True, slots=True)
class Sources:
    """A transfer with the literals of the parameters, and the shards that have its rows."""

    transfer: Transfer
    literals: ParameterLiterals
    shards: frozenset[str]

    @property
    def needs_time(self) -> bool:
        """Whether the time of the transaction is among what has to be filled in."""
        return any(0 in template.params for template in (self.transfer.query, *self.transfer.filters))

    def sql(self, described: Any, time: str) -> str:
        """The SQL that brings the rows, with the time of the transaction as a literal."""
        return fill(self.transfer, {**self.literals.spelled(described), 0: time})


class TypesDiffer(Exception):
    """The answer would not have the types that the statement has on one server; `column` is the first such one."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def fill(transfer: Transfer, literals: Mapping[int, str]) -> str:
    """The SQL of a transfer; a filter with a parameter that has no literal is left out."""
    if not transfer.query.params <= literals.keys():
        raise TypesDiffer("a parameter of a type that has another number on each server")
    sql = transfer.query.fill(literals.__getitem__)
    filters = [
        condition.fill(literals.__getitem__) for condition in transfer.filters if condition.params <= literals.keys()
    ]
    return sql + (" WHERE " + " AND ".join(f"({condition})" for condition in filters) if filters else "")


def transferred(
    plan: Transferred,
    sources: Sequence[Sources],
    conns: Mapping[str, Any],
    at: str,
    original: Statement | None,
    final: Statement,
    copied: Copied,
    transport: Transport,
    *,
    within: bool = False,
) -> Flow[Any]:
    """Run the plan with shard `at` in the middle; gives the final statement's result.

    `within` a transaction of the caller's that is open on all of them; what it leaves there is a savepoint in the
    middle, to be gone back to.
    """
    described = yield from brought(sources, conns, at, original, copied, transport, within=within)
    result = yield from query(conns[at], final)
    if described is not None:
        check_types(described, result, exactly=plan.name != "pull")
    if not within:
        yield from done(conns)
    return result


def brought(
    sources: Sequence[Sources],
    conns: Mapping[str, Any],
    at: str,
    original: Statement | None,
    copied: Copied,
    transport: Transport,
    *,
    within: bool = False,
) -> Flow[Any]:
    """Bring all rows to shard `at`; gives the columns that the statement has on one server.

    `original` is described there first, which brings the server's own word on what is wrong with it; None when no shard
    has all of its tables.
    """
    middle = conns[at]
    described = (yield from describe(middle, original)) if original is not None else None
    if within:
        yield from run(middle, f"SAVEPOINT {MIDDLE}")
    else:
        for name, conn in conns.items():
            yield from run(conn, _BEGIN.format("READ WRITE" if name == at else "READ ONLY"))
    time = "NULL"
    if any(source.needs_time for source in sources):
        moment = yield from run(middle, TIME)
        time = f"'{moment.get_value(0, 0).decode()}'"
    for source in sources:
        yield from _bring(source, source.sql(described, time), conns, at, copied, transport)
    completing = _completing([source.transfer for source in sources], copied.rows)
    if completing:
        yield from run(middle, "; ".join(completing))
    return described


def done(conns: Mapping[str, Any]) -> Flow[None]:
    """End the transactions."""
    for conn in conns.values():
        yield from run(conn, "ROLLBACK")


def _bring(
    source: Sources, sql: str, conns: Mapping[str, Any], at: str, copied: Copied, transport: Transport
) -> Flow[None]:
    """One transfer. The others begin to work before the shard in the middle makes the table of its own rows."""
    transfer = source.transfer
    others = [(conns[name], transport.out(sql)) for name in conns if name != at and name in source.shards]
    yield from sent(others)
    own = "" if at in source.shards else " WITH NO DATA"
    columns = f" ({', '.join(transfer.columns)})" if transfer.columns else ""
    if own and transfer.definition:
        yield from run(conns[at], f"CREATE TEMPORARY TABLE {transfer.temp} ({transfer.definition}) ON COMMIT DROP")
    else:
        made = yield from run(
            conns[at], f"CREATE TEMPORARY TABLE {transfer.temp}{columns} ON COMMIT DROP AS {sql}{own}"
        )
        copied.count(made.command_tuples or 0, 0)
    if others:
        yield from copy_rows(
            [conn for conn, _ in others], conns[at], transport.into(f"pg_temp.{transfer.temp}"), copied
        )


def _completing(transfers: Sequence[Transfer], rows: int) -> list[str]:
    """What the tables need when all rows are there: keys, and where they are joined, indexes and statistics.

    Without them the planner takes any condition to leave one row in 200, and joins by nested loops.
    """
    keys = [
        f"ALTER TABLE pg_temp.{transfer.temp} ADD PRIMARY KEY ({', '.join(map(quoted, transfer.key))})"
        for transfer in transfers
        if transfer.key
    ]
    if rows < _ANALYZED_ROWS or not any(transfer.is_joined for transfer in transfers):
        return keys
    keys += [
        f"CREATE INDEX ON pg_temp.{transfer.temp} ({', '.join(map(quoted, transfer.probed))})"
        for transfer in transfers
        if transfer.probed
    ]
    analyze = f"ANALYZE {', '.join(f'pg_temp.{transfer.temp}' for transfer in transfers)}"
    return [*keys, f"SET LOCAL {_TARGET} = 10", analyze, f"SET LOCAL {_TARGET} TO DEFAULT"]


def check_types(described: Any, result: Any, *, exactly: bool) -> None:
    """What the final statement gives must look as what the caller's statement gives on one server.

    Lengths of types count only `exactly`: for some statements one server itself says otherwise before than after.
    """
    for column in range(described.nfields):
        one, other = described, result
        same = one.fname(column) == other.fname(column) and one.ftype(column) == other.ftype(column)
        if not same or (exactly and one.fmod(column) != other.fmod(column)):
            raise TypesDiffer((one.fname(column) or b"").decode(errors="replace"))
