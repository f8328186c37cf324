"""Every exception that shardpool raises itself, cut by what the caller does next.

::

    ShardpoolError                  message, detail, hint (as PostgreSQL writes them)
    ├── ConfigError                 fix the topology file: every problem at once
    ├── RoutingError                fix the call
    │   ├── MissingKey              a keyspace, table or key has to be named
    │   ├── InvalidKey              NULL, or not of the keyspace's key type
    │   ├── KeyNotCovered           no range or list entry owns the key
    │   ├── UnknownKeyspace / UnknownTable / UnknownShard
    │   └── RouterMisuse            closed, not open, or used from another event loop
    ├── UnsupportedQuery            rewrite the SQL (also psycopg.NotSupportedError, 0A000)
    ├── ShardError                  one shard failed (also psycopg.OperationalError)
    │   ├── ShardUnavailable        not reached, or not the right server: nothing was applied
    │   │   └── OtherMap            it sends keys to other shards than the topology (also StaleTopology)
    │   ├── ShardBusy               its pool and its queue are full: nothing was applied
    │   ├── DeadlineExceeded        the call's time was over
    │   └── CommitUnknown           the connection was lost when a write may have been applied
    ├── ScatterError                some shards failed: all failures by shard
    ├── BatchError                  some items of a batch failed: all failures by item
    ├── ItemRolledBack              an item of a batch that was well, in a transaction with one that was not
    ├── LoadError                   a COPY into the fleet failed: what is where, by shard
    ├── EditRefused             the topology file or the fleet is not as this edit needs it: nothing was changed
    ├── InitRefused                 `init` on a server that is another shard's, or whose rows lie elsewhere
    ├── ResultTooLarge              the answer is larger than `max_result_bytes`
    ├── StaleTopology               the topology moved on: reload and route again
    ├── DistributedDeadlock         transactions over several shards wait for each other (also DeadlockDetected, 40P01)
    ├── TransactionForgotten        a transaction over several shards is too old for its outcome to be told
    ├── BadMigration                fix the folder of migrations, or the call
    ├── MigrationError              a migration did not get to its end on every shard
    ├── MoveRefused / MoveStopped   a move of rows that cannot go on as things are, or was asked to stop
    └── LocalError                  a local fleet could not be started, found or stopped
        └── LocalMisuse             fix the call

On one shard psycopg's own exceptions pass through untouched, with a note that names the shard.
No message holds a password: connection parameters are never printed, only host, port and database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import psycopg

Applied = Literal["no", "unknown"]

# Characters of a name, and of a line of somebody else's text, that a message holds at most.
_SHOWN = 100
_SHOWN_LINE = 1000


def shown(text: object, most: int = _SHOWN) -> str:
    """What a caller or a server gave, as a message may hold it: on one line, of at most so many characters."""
    name = str(text)
    cut = name if len(name) <= most else name[:most] + "…"
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in cut)


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint that names the nearest of the known names, or lists the first ten of them."""
    from difflib import get_close_matches  # by most processes never

    names = sorted(known)
    close = get_close_matches(name[:_SHOWN], names, n=3, cutoff=0.6)
    if close:
        return "Did you mean " + " or ".join(close) + "?"
    if not names:
        return "None are declared in the topology."
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return "Known: " + ", ".join(names[:10]) + more + "."


def check_choice(name: str, value: object, choices: Sequence[str | None]) -> None:
    """Raise `ValueError` unless the value of an argument is one of the choices, which it lists."""
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(f"{name}={value!r} is none of its values: {', '.join(others)} or {last}")


class ShardpoolError(Exception):
    """Base of everything that shardpool raises itself.

    `message` is short, `detail` says why, `hint` says what to do next; `str()` gives the lines that are there.
    `exit_code` is what the command line exits with: 1, or 2 where the call has to be changed. Each class has a section
    in docs/reference/errors.md.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.detail:
            lines.append(f"DETAIL:  {self.detail}")
        if self.hint:
            lines.append(f"HINT:  {self.hint}")
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a topology file: where it is (1-based line and column), what, and what to do."""

    path: str
    message: str
    hint: str | None = None
    file: str = "<topology>"
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}: " if self.line else f"{self.file}: "
        text = f"{where}{self.path + ': ' if self.path else ''}{self.message}"
        return f"{text}\n    HINT:  {self.hint}" if self.hint else text


class ConfigError(ShardpoolError):
    """The topology cannot be used; `problems` holds everything that is wrong with it, in file order."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = len(self.problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the topology")

    def __str__(self) -> str:
        return "\n".join([self.message, *map(str, self.problems)])


class RoutingError(ShardpoolError):
    """The call cannot be routed as it stands; nothing was sent to any shard."""

    exit_code = 2


class MissingKey(RoutingError):
    """A keyspace, a table or a key has to be named."""


class InvalidKey(RoutingError):
    """The key is NULL or not a value of the keyspace's key type.

    `sqlstate` is that of PostgreSQL's own error where it refuses the value too, else None.
    """

    def __init__(
        self, message: str, *, detail: str | None = None, hint: str | None = None, sqlstate: str | None = None
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.sqlstate = sqlstate


class KeyNotCovered(RoutingError):
    """The key is a good value, but no range or list entry of the keyspace owns it."""


class UnknownKeyspace(RoutingError):
    """No keyspace of that name is in the topology."""


class UnknownTable(RoutingError):
    """The table is not declared in the topology."""

    sqlstate = "42P01"


class UnknownShard(RoutingError):
    """No shard of that name is in the topology."""


class RouterMisuse(RoutingError):
    """The router is closed, not open yet, or used from another event loop than the one that opened it."""


class UnsupportedQuery(ShardpoolError, psycopg.NotSupportedError):
    """The SQL is understood and not guessed at: no way is known to answer it as one server would."""

    exit_code = 2

    sqlstate = "0A000"


class StaleTopology(ShardpoolError):
    """The route or the caller's topology is older than the fleet: reload, then route the key again."""


class ShardError(ShardpoolError, psycopg.OperationalError):
    """One shard could not do its part.

    `shard` and `endpoint` say where, `phase` is `"connect"`, `"wait"`, `"query"`, `"copy"` or `"commit"`, and `applied`
    is `"no"` when nothing of the call is on the shard, `"unknown"` when it may be.
    """

    def __init__(
        self,
        message: str,
        *,
        shard: str,
        endpoint: str = "",
        phase: str = "query",
        applied: Applied = "no",
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.shard = shard
        self.endpoint = endpoint
        self.phase = phase
        self.applied: Applied = applied


class ShardUnavailable(ShardError):
    """The shard was not reached, or the server that answered is not that shard: nothing was applied."""


class OtherMap(ShardUnavailable, StaleTopology):
    """The shard and the topology disagree about which key is on which shard: nothing was applied."""


class ShardBusy(ShardError):
    """All connections of the shard's pool are in use and its queue is full: nothing was applied."""


class DeadlineExceeded(ShardError):
    """The call's time was over; `applied` says whether a write may be on the shard."""


class CommitUnknown(ShardError):
    """The connection was lost when the write may have been applied: look before writing again.

    When it was a transaction over several shards, `transaction_id` is its name, else None: it is on all its shards or
    on none, and `router.transaction_state(error.transaction_id)` says which.
    """

    def __init__(self, message: str, *, transaction_id: str | None = None, **kwargs: Any) -> None:
        super().__init__(message, **{"applied": "unknown", **kwargs})
        self.transaction_id = transaction_id


class ScatterError(ShardpoolError):
    """A call on several shards failed on some of them.

    `failures` maps shard name to its exception; `results` holds what the other shards answered.
    """

    def __init__(
        self,
        message: str,
        *,
        failures: Mapping[str, BaseException],
        results: Mapping[str, Any] | None = None,
        hint: str | None = None,
    ) -> None:
        self.failures = dict(failures)
        self.results = dict(results or {})
        detail = "; ".join(f"{shard}: {summary(error)}" for shard, error in self.failures.items())
        super().__init__(message, detail=detail, hint=hint)


@dataclass(frozen=True, slots=True)
class ItemFailure:
    """One item of a batch that failed: its place in the input, the item, its shard (None if it was not routed)."""

    index: int
    item: Any
    shard: str | None
    error: BaseException


class BatchError(ShardpoolError):
    """Some items of a `map` or `executemany` failed.

    `failures` lists them in the order of the items; `results` is as long as the items, with None in the failed places.
    """

    def __init__(self, failures: Sequence[ItemFailure], results: Sequence[Any]) -> None:
        self.failures = tuple(failures)
        self.results = list(results)
        first = self.failures[0]
        super().__init__(
            f"{len(self.failures)} of {len(self.results)} items failed",
            detail=f"item {first.index} on {first.shard or 'no shard'}: {summary(first.error)}",
            hint="See .failures for every item with its error, and .results for what succeeded.",
        )


class ItemRolledBack(ShardpoolError):
    """The item itself was well, but another one of its shard's transaction failed, so it was rolled back."""


class LoadError(ShardpoolError):
    """A COPY into the fleet failed.

    `committed` maps the shards that hold all their rows now to the number of rows, `rolled_back` names those that hold
    nothing of this load, `unknown` those whose COMMIT was not answered. `failures` maps shard to its exception; a
    failure of the input has `record`, the 1-based number of the row, and `line` when it came from a file. When the
    server of a shard refused a row, `rejected` maps the shard to that row's number among the rows of that shard.
    """

    def __init__(
        self,
        message: str,
        *,
        committed: Mapping[str, int] | None = None,
        rolled_back: Sequence[str] = (),
        unknown: Sequence[str] = (),
        failures: Mapping[str, BaseException] | None = None,
        rejected: Mapping[str, int] | None = None,
        record: int | None = None,
        line: int | None = None,
        detail: str | None = None,
        hint: str | None = None,
    ) -> None:
        self.committed = dict(committed or {})
        self.rolled_back = tuple(rolled_back)
        self.unknown = tuple(unknown)
        self.failures = dict(failures or {})
        self.rejected = dict(rejected or {})
        self.record = record
        self.line = line
        super().__init__(message, detail=detail or self._account(), hint=hint)

    def _account(self) -> str:
        parts = [f"{shard}: {summary(error)}" for shard, error in self.failures.items()]
        if self.committed:
            parts.append("committed: " + ", ".join(f"{s} {n} rows" for s, n in self.committed.items()))
        if self.unknown:
            parts.append("commit not answered: " + ", ".join(self.unknown))
        if self.rolled_back:
            parts.append("rolled back, nothing loaded: " + ", ".join(self.rolled_back))
        return "; ".join(parts)


class InitRefused(ShardpoolError):
    """The server is not one on which this topology's schema may be installed; nothing was changed there."""


class EditRefused(ShardpoolError):
    """An edit of the topology that cannot be made as things are; says so when something of it was begun."""


class ResultTooLarge(ShardpoolError):
    """The answer has more bytes than the router's `max_result_bytes`; the connection that it came on was cut."""


class DistributedDeadlock(ShardpoolError, psycopg.errors.DeadlockDetected):
    """The transaction waited on one shard for another one, which waits for it on another shard: it was made to fail.

    `detail` names the statements. Nothing of the transaction is applied; `router.run()` makes it again.
    """


class TransactionForgotten(ShardpoolError):
    """The transaction over several shards is so old that its record may have been dropped: its outcome is not known."""


class BadMigration(ShardpoolError):
    """The folder of migrations, or the call, has to be changed; nothing was sent to any shard."""

    exit_code = 2


class MigrationError(ShardpoolError):
    """A migration did not get to its end on every shard.

    `report`, a `schema.Report`, says how far each has come; it is None where that is not known.
    """

    def __init__(self, message: str, *, detail: str | None = None, hint: str | None = None, report: Any = None) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.report = report


class MoveRefused(ShardpoolError):
    """A move that cannot be begun, or a step that cannot be made, as things are. Nothing was lost; see the hint.

    `problems` are all that was found, each with what to do.
    """

    def __init__(
        self,
        message: str,
        *,
        detail: str | None = None,
        hint: str | None = None,
        problems: Sequence[str] = (),
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.problems = tuple(problems)


class MoveStopped(ShardpoolError):
    """A move that has stopped on the way because it was asked to: it is taken up again, or undone, by a command."""


class LocalError(ShardpoolError):
    """A local fleet could not be started, found or stopped."""


class LocalMisuse(LocalError):
    """A local fleet was named or asked for as it cannot be: change the call."""

    exit_code = 2


def summary(error: BaseException) -> str:
    """An exception in one line: message and detail of our own, the first line of another."""
    if isinstance(error, ShardpoolError) and error.detail:
        return f"{error.message} ({error.detail})"
    return first_line(error)


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its class name."""
    text = str(error).strip()
    return shown(text.splitlines()[0], _SHOWN_LINE) if text else type(error).__name__
