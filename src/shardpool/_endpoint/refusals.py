"""The errors of calls that got no connection: nothing of them was sent."""

from __future__ import annotations

from ..errors import DeadlineExceeded, OtherMap, ShardBusy, ShardUnavailable, first_line
from ..topology import Endpoint


class Retired(Exception):
    """The pool was replaced by a reload between the look-up and its use: look it up again."""


def unusable(
    shard: str,
    endpoint: Endpoint,
    why: str,
    detail: str,
    hint: str | None,
    error_class: type[ShardUnavailable] = ShardUnavailable,
) -> ShardUnavailable:
    """No connection can be made, for a reason of ours."""
    return error_class(
        f"shard {shard} cannot be used: {why}",
        shard=shard,
        endpoint=endpoint.name,
        phase="connect",
        detail=f"{endpoint.address}: {detail}",
        hint=hint,
    )


def unavailable(shard: str, endpoint: Endpoint, cause: Exception) -> ShardUnavailable:
    """The shard cannot be reached, or refuses calls, for that cause.

    Each caller gets an exception of its own: a shared one would collect the tracebacks of all of them.
    """
    kind = OtherMap if isinstance(cause, OtherMap) else ShardUnavailable
    if isinstance(cause, ShardUnavailable):
        message, detail, hint = cause.message, cause.detail, cause.hint
    else:
        message = f"shard {shard} cannot be reached"
        detail = f"{endpoint.address}: {first_line(cause)}"
        hint = "The other shards go on working. See check() for the whole fleet."
    error = kind(message, shard=shard, endpoint=endpoint.name, phase="connect", detail=detail, hint=hint)
    error.__cause__ = cause
    return error


def busy(shard: str, endpoint: Endpoint, in_use: int, waiting: int) -> ShardBusy:
    """The pool and its queue are full."""
    return ShardBusy(
        f"shard {shard} is busy",
        shard=shard,
        endpoint=endpoint.name,
        phase="wait",
        detail=f"{in_use} connections are in use and {waiting} callers wait.",
        hint="Retry later, or raise pool.max_size or pool.max_waiting of the shard.",
    )


def overdue(shard: str, endpoint: Endpoint, detail: str, error: Exception | None) -> DeadlineExceeded:
    """No connection was had in time; `error` is the last one of connecting."""
    return DeadlineExceeded(
        f"no connection to shard {shard} within the deadline",
        shard=shard,
        endpoint=endpoint.name,
        phase="wait",
        detail=detail + (f"; last error: {first_line(error)}" if error else "") + ".",
    )
