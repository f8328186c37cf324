"""Transactions over several shards: their names, what each shard is told in which order, and how one is judged.

Pure: SQL text out, rows in. One shard, the home, commits as any transaction does, and that is the decision; the others
prepare before it (https://www.postgresql.org/docs/current/sql-prepare-transaction.html). `transactions.sql` says why
a record on the home tells the decision to whoever comes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Literal
from uuid import UUID

from ..errors import RoutingError, shown
from ..quoting import quote_literal
from .locks import DECISION_LOCK, RECOVERY_LOCK, TRANSACTION_CLASS
from .own_sql import qualified

TransactionState = Literal["committed", "aborted", "running"]

KEPT_FOR = timedelta(hours=1)
"""How long a record is kept after it was written: until then it is told that the transaction has committed."""

# The home's clock is compared with that of the process that made the id: by so much they may differ.
_CLOCKS_DIFFER = timedelta(minutes=30)
_PREFIX = "sp"


@dataclass(frozen=True, slots=True)
class TransactionId:
    """The name of a transaction over several shards.

    `number` is a UUID of version 7: it begins with the time at which it was made.
    """

    fleet: str
    home: str
    number: UUID

    @classmethod
    def new(cls, fleet: str, home: str, milliseconds: int, chance: int) -> TransactionId:
        """A new one, of Unix time in milliseconds and 74 random bits (RFC 9562, section 5.7)."""
        high, low = chance >> 62 & 0xFFF, chance & (1 << 62) - 1
        number = milliseconds << 80 | 7 << 76 | high << 64 | 0b10 << 62 | low
        return cls(fleet, home, UUID(int=number & (1 << 128) - 1))

    @classmethod
    def parse(cls, text: str) -> TransactionId:
        """The one of that name; raises `RoutingError` for what is none."""
        try:
            prefix, fleet, home, number = text.split(":")
            parsed = cls(fleet, home, UUID(hex=number))
        except ValueError:
            prefix, parsed = "", None
        if parsed is None or prefix != _PREFIX or str(parsed) != text:
            raise RoutingError(
                f'"{shown(text)}" is not the id of a transaction over several shards',
                hint="It is what CommitUnknown has as .transaction_id, and looks like sp:shop:s0:0193….",
            )
        return parsed

    @property
    def begun_at(self) -> datetime:
        return datetime.fromtimestamp((self.number.int >> 80) / 1000, UTC)

    def parts(self, others: Sequence[str]) -> dict[str, str]:
        """By shard the name of its prepared part. They differ, for two shards may be databases of one server."""
        return {shard: f"{self}:{number}" for number, shard in enumerate(others, 1)}

    def is_forgotten(self, now: datetime) -> bool:
        """Whether a record that is not there may have been there once; `now` is the home's clock."""
        return now - self.begun_at > KEPT_FOR - _CLOCKS_DIFFER

    def __str__(self) -> str:
        return f"{_PREFIX}:{self.fleet}:{self.home}:{self.number.hex}"


class CommitStep(Enum):
    """What is done on the way to a commit, in this order; up to `DECIDE` everything can be undone."""

    RECORD = "record"
    PREPARE = "prepare"
    DECIDE = "decide"
    FINISH = "finish"


# Sent in one request: when the lock is not to be had nothing is committed.
DECIDE = f"select pg_catalog.pg_advisory_xact_lock_shared({TRANSACTION_CLASS}, {DECISION_LOCK}); commit".encode()
COMMIT = b"commit"
ROLLBACK = b"rollback"


def record(of: TransactionId, others: Sequence[str]) -> bytes:
    """The statement that writes the record, in the home's transaction and outside of its savepoints."""
    names = quote_literal("{" + ",".join(others) + "}")
    return f"insert into shardpool.tx (id, others) values ({quote_literal(str(of))}, {names})".encode()


def prepare(part: str) -> bytes:
    return f"prepare transaction {quote_literal(part)}".encode()


def commit_prepared(part: str) -> bytes:
    return f"commit prepared {quote_literal(part)}".encode()


def rollback_prepared(part: str) -> bytes:
    return f"rollback prepared {quote_literal(part)}".encode()


def steps(
    of: TransactionId, others: Sequence[str], readers: Sequence[str], *, is_recorded: bool
) -> list[tuple[CommitStep, dict[str, bytes]]]:
    """What is sent to which shard, step by step; a step begins when all of the one before it have answered.

    `others` have written, and the home has; `readers` have only read, and hold their locks until the decision.
    """
    first: list[tuple[CommitStep, dict[str, bytes]]] = [(CommitStep.RECORD, {of.home: record(of, others)})]
    parts = of.parts(others)
    finish = {shard: commit_prepared(part) for shard, part in parts.items()}
    return [
        *([] if is_recorded else first),
        (CommitStep.PREPARE, {shard: prepare(part) for shard, part in parts.items()}),
        (CommitStep.DECIDE, {of.home: DECIDE}),
        (CommitStep.FINISH, {**finish, **dict.fromkeys(readers, COMMIT)}),
    ]


# What a server answers where it has done something else than it was told: the transaction had failed before.
ANSWERS = {CommitStep.PREPARE: b"PREPARE TRANSACTION", CommitStep.DECIDE: b"COMMIT"}


READY_QUERY = """(case when pg_catalog.current_setting('max_prepared_transactions')::integer = 0 then 'off'
    when pg_catalog.to_regclass('shardpool.tx') is null then 'missing'
    when pg_catalog.has_table_privilege(pg_catalog.to_regclass('shardpool.tx'), 'insert')
      and pg_catalog.has_table_privilege(pg_catalog.to_regclass('shardpool.tx'), 'delete') then 'ready'
    else 'denied' end)::pg_catalog.text"""
"""Whether the session's role can take part in transactions over several shards, or a key of `WHY_NOT`."""

READY = "ready"

WHY_NOT = {
    "off": (
        "max_prepared_transactions is 0 on shard {}",
        "Set max_prepared_transactions there, to the connections of all routers at least, and restart the server.",
    ),
    "missing": ("shard {} has no table shardpool.tx yet", "Run: shardpool init"),
    "denied": (
        "the role may not write shardpool.tx on shard {}",
        "GRANT INSERT, DELETE ON shardpool.tx to the role there.",
    ),
    "": ("shard {} has not said whether it can take part", "Set control: required, and run: shardpool init"),
}
"""What stands against it, by what `READY_QUERY` gives, with what to do; empty is for shards that are not asked."""


# -- recovery --------------------------------------------------------------------------------------------------------

STATE_QUERY = "select shardpool.transaction_state(%s), pg_catalog.clock_timestamp()"
"""Asked of a transaction's home: a row (state, the home's clock); waits for the transaction for 300 ms at most."""

PREPARED_QUERY = qualified("""
    select gid, pg_catalog.clock_timestamp() - prepared, owner,
      owner = current_user or pg_catalog.current_setting('is_superuser')::boolean
    from pg_catalog.pg_prepared_xacts
    where database = pg_catalog.current_database() and pg_catalog.starts_with(gid, %s)
    order by prepared
""")
"""Rows (name, age, owner, whether the session may end it) of the parts prepared on a shard, by `prefix_of`."""

OLD_QUERY = qualified("select id from shardpool.tx where begun_at < (pg_catalog.clock_timestamp() - %s)")
"""The ids of records that are older than so long. Asked before what is prepared: a record that is there by then had all
its parts prepared before, so that one of which no part is found any more is of no use."""

FORGET_QUERY = qualified("delete from shardpool.tx where id = any (%s)")

CLOSE_GATE = (
    f"begin isolation level read committed; select pg_catalog.pg_advisory_lock({TRANSACTION_CLASS}, {DECISION_LOCK})"
).encode()
BEHIND_GATE = (
    b"commit and chain; set transaction isolation level repeatable read; select pg_catalog.pg_current_snapshot()"
)
OPEN_GATE = f"select pg_catalog.pg_advisory_unlock({TRANSACTION_CLASS}, {DECISION_LOCK})".encode()
"""While a session holds it on every shard, nothing is decided on any; its snapshot is taken behind it. From one to the
other there is always a transaction: a pooler of transactions leaves the session to us for so long."""

TURN_QUERY = f"select pg_catalog.pg_try_advisory_xact_lock({TRANSACTION_CLASS}, {RECOVERY_LOCK})"
"""Of all routers, the one that gets it on the first shard looks after the fleet's transactions."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """A transaction over several shards of which some shards still hold a prepared part: `parts` are their names.

    `state` is what its home says, None when it could not be asked; `problem` says what keeps it from being ended. `age`
    is that of its oldest part. `ended` when that was done just now, on all of the shards.
    """

    id: str
    home: str
    parts: Mapping[str, str]
    age: timedelta
    state: TransactionState | None
    problem: str | None = None
    ended: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready; `age` in seconds."""
        return {**asdict(self), "age": self.age.total_seconds()}


class Transactions(list[InDoubt]):
    """Transactions over several shards; `missing` are the shards that could not be asked for theirs, and why."""

    def __init__(self, in_doubt: Iterable[InDoubt], missing: Mapping[str, BaseException]) -> None:
        super().__init__(in_doubt)
        self.missing = dict(missing)


def prepared(fleet: str) -> bytes:
    """A query for the names of a fleet's parts that are prepared on a shard."""
    return (
        "select gid from pg_catalog.pg_prepared_xacts"
        " where database operator(pg_catalog.=) pg_catalog.current_database()"
        f" and pg_catalog.starts_with(gid, {quote_literal(prefix_of(fleet))})"
    ).encode()


def recorded(ids: Iterable[str]) -> bytes:
    """A query for those of the ids that the home has committed."""
    names = ", ".join(map(quote_literal, ids))
    return f"select id from shardpool.tx where id operator(pg_catalog.=) any (array[{names}])".encode()


def prefix_of(fleet: str) -> str:
    """What the ids of a fleet's transactions begin with."""
    return f"{_PREFIX}:{fleet}:"


def end(part: str, state: TransactionState) -> bytes | None:
    """What ends a prepared part of a transaction; None as long as that goes on."""
    match state:
        case "committed":
            return commit_prepared(part)
        case "aborted":
            return rollback_prepared(part)
        case "running":
            return None
