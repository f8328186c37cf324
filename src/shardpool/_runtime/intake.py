"""What the answers of one call may bring in, in bytes: the kernel tells while they come, before memory is full."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import ResultTooLarge
from .sockets import received, shut

# The key of the intake that a connection's answers count for, in its __dict__.
INTAKE = "_shardpool_intake"
# Reads of a socket between two looks: an answer that takes fewer is never looked at.
_READS = 4


@dataclass(slots=True)
class AnswerLimits:
    """What one call may bring: rows and bytes from the shards to one of them, and bytes in all to the caller."""

    max_pull_rows: int
    max_pull_bytes: int
    max_result_bytes: int | None


class Intake:
    """The bytes that have come for one call, over all its connections: at `most` so many may."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[Any, int] = {}
        self._size = 0

    def excess(self, conn: Any) -> ResultTooLarge | None:
        """What is wrong when more has come. What had come on a connection before its first look does not count."""
        now = received(conn)
        if now is None:
            return None
        self._size += now - self._seen.get(conn, now)
        self._seen[conn] = now
        if self._size <= self._most:
            return None
        return ResultTooLarge(
            f"the answer has more than {self._most / 2**20:,.0f} MiB: it was given up",
            hint="Select less of it, read it with stream(), or raise max_result_bytes of the router.",
        )


def look(conn: Any, reads: int) -> None:
    """After so many reads of an answer: shut the connection and raise `ResultTooLarge` when more has come than may."""
    if reads % _READS:
        return
    intake: Intake | None = conn.__dict__.get(INTAKE)
    error = None if intake is None else intake.excess(conn)
    if error is not None:
        shut(conn)
        raise error


def with_outcome(error: ResultTooLarge, may_be_applied: bool) -> ResultTooLarge:
    """The error, with a word on what the statement may have done."""
    if may_be_applied:
        error.detail = "The statement may have been applied."
    return error
