"""What errors on connections mean, on one shard and on several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from ..._runtime.intake import with_outcome
from ..._wire.request import Repetition, Request
from ...errors import (
    Applied,
    CommitUnknown,
    DeadlineExceeded,
    OtherMap,
    ResultTooLarge,
    ScatterError,
    ShardError,
    ShardUnavailable,
    first_line,
)
from ..fleet.pools import AsyncEndpointPool
from .checkout import is_lost

# The shards that a partial answer is without, and why.
Missing = dict[str, BaseException]


def is_outdated(error: BaseException | None) -> bool:
    """Whether what was prepared on the connection is gone, or gives other columns by now; nothing was done then."""
    if isinstance(error, psycopg.errors.InvalidSqlStatementName):
        # One that psycopg has prepared, and that a function of the user's has thrown away.
        return '"_pg3_' in (error.diag.message_primary or "")
    return (
        isinstance(error, psycopg.errors.FeatureNotSupported) and error.diag.source_function == "RevalidateCachedQuery"
    )


def is_lost_connection(error: BaseException) -> bool:
    """psycopg's error of a connection that broke: of class 08 or 57P, or of none."""
    if isinstance(error, ShardError):
        return False
    return isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(("08", "57P"))


def explain(
    error: BaseException | None, pool: AsyncEndpointPool, *, cut: bool, lost: bool, phase: str, may_be_applied: bool
) -> BaseException | None:
    """What an error on a connection of the pool means: `DeadlineExceeded`, `CommitUnknown`, or itself with a note."""
    pool.meter.failed(
        "DeadlineExceeded" if cut else "CommitUnknown" if lost and may_be_applied else type(error).__name__
    )
    where: dict[str, Any] = {"shard": pool.shard, "endpoint": pool.endpoint.name, "phase": phase}
    applied: Applied = "unknown" if may_be_applied else "no"
    cause = first_line(error) if error is not None else None
    if cut:
        pool.health.was_cut()
    elif lost:
        pool.health.was_lost(error)
    elif isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        pool.health.monitor.check_now()
    if cut:
        hint = "Look whether it was applied before you write it again." if may_be_applied else None
        return DeadlineExceeded(
            f"the deadline passed on shard {pool.shard}", detail=cause, hint=hint, applied=applied, **where
        )
    if lost and may_be_applied:
        return unknown(pool, phase, cause)
    if isinstance(error, psycopg.Error):
        error.add_note(f"on shard {pool.shard}, {pool.endpoint.name} at {pool.endpoint.address}")
    return error


def unknown(pool: AsyncEndpointPool, phase: str, cause: str | None) -> CommitUnknown:
    """The error of a write whose connection was lost."""
    return CommitUnknown(
        f"the connection to shard {pool.shard} was lost; whether the write was applied is not known",
        shard=pool.shard,
        endpoint=pool.endpoint.name,
        phase=phase,
        detail=cause,
        hint="Look before you write it again: it was neither confirmed nor refused.",
    )


def explained(request: Request, pool: AsyncEndpointPool, may_be_applied: bool) -> BaseException:
    """What the error of one request of several means."""
    if isinstance(request.error, ResultTooLarge):
        return with_outcome(request.error, may_be_applied)
    if isinstance(request.error, DeadlineExceeded):
        pool.health.was_cut()
        return request.error
    lost = is_lost(request.conn) or not request.reusable
    if isinstance(request, Repetition) and isinstance(request.error, psycopg.errors.ReadOnlySqlTransaction):
        # It writes after all, in a view, an operator or a cast; and may have done so the first time.
        return unknown(pool, "query", first_line(request.error))
    error = explain(request.error, pool, cut=False, lost=lost, phase="query", may_be_applied=may_be_applied)
    assert error is not None
    if error is not request.error:
        error.__cause__ = request.error
    return error


def overdue(name: str, pool: AsyncEndpointPool, *, reads: bool = False) -> Callable[[], DeadlineExceeded]:
    """Makes the error of a request whose time is over; what only `reads` has not been applied."""

    def error() -> DeadlineExceeded:
        pool.meter.failed("DeadlineExceeded")
        return DeadlineExceeded(
            f"the deadline passed on shard {name}",
            shard=name,
            endpoint=pool.endpoint.name,
            applied="no" if reads else "unknown",
            hint=None if reads else "Look whether it was applied before you write it again.",
        )

    return error


def several(failures: dict[str, BaseException], asked: int) -> BaseException:
    """One error for those of several shards.

    What is wrong with the statement or its data is told as one server would tell it: by psycopg's own error.
    """
    errors = list(failures.values())
    if all(isinstance(error, psycopg.Error) and error.sqlstate and not is_lost_connection(error) for error in errors):
        return errors[0]
    too_large = next((error for error in failures.values() if isinstance(error, ResultTooLarge)), None)
    if too_large is not None:
        return too_large
    error = ScatterError(f"{len(failures)} of {asked} shards failed", failures=failures)
    error.__cause__ = next(iter(failures.values()))
    return error


def may_be_missing(failures: dict[str, BaseException], asked: int) -> bool:
    """Whether the answer of the others is a partial one: some did answer, and none has found fault with the call."""
    return len(failures) < asked and all(is_absence(error) or is_lost_connection(error) for error in failures.values())


def as_missing(failures: dict[str, BaseException]) -> dict[str, BaseException]:
    """Why shards are missing, each as a `ShardError`."""
    return {name: error if isinstance(error, ShardError) else _gone(name, error) for name, error in failures.items()}


def _gone(name: str, error: BaseException) -> ShardUnavailable:
    gone = ShardUnavailable(
        f"the connection to shard {name} was lost", shard=name, phase="query", detail=first_line(error)
    )
    gone.__cause__ = error
    return gone


def is_absence(error: BaseException) -> bool:
    """Whether a shard that failed so may be left out of a partial answer.

    One that sends keys to other shards shows that the others' rows are not what is asked for.
    """
    return isinstance(error, ShardError) and not isinstance(error, OtherMap)


def nothing_begun(failures: dict[str, BaseException]) -> ScatterError:
    # What mends a shard is told first: the others can only be left out.
    mended = next((hint for error in failures.values() if (hint := getattr(error, "hint", None))), None)
    return ScatterError(
        f"nothing was begun: {len(failures)} of the shards gave no connection",
        failures=failures,
        hint=mended or "Name the shards that are well with shards=[…] to leave the others out.",
    )


def all_or_raise(
    names: Sequence[str], results: dict[str, Any], failures: dict[str, BaseException], missing: Missing | None
) -> dict[str, Any]:
    for error in failures.values():
        if not isinstance(error, Exception):
            raise error
    if missing is not None and may_be_missing(failures, len(names)):
        missing.update(as_missing(failures))
        return results
    if failures:
        raise ScatterError(
            f"{len(failures)} of {len(names)} shards failed", failures=failures, results=results
        ) from next(iter(failures.values()))
    return results
