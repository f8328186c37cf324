"""A statement as libpq is sent it, and what a connection has prepared of such statements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_PREPARED_MAX = 100


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement ready to be sent: text with `$n`, and what PQsendQueryParams takes beside it."""

    text: bytes
    values: Sequence[Any] | None
    types: Sequence[int] = ()
    formats: Sequence[Any] = ()
    result_format: int = 0

    @property
    def identity(self) -> tuple[bytes, tuple[int, ...]]:
        return self.text, tuple(self.types)


class Prepared:
    """The statements prepared on one connection by scatters, and how often the others were run."""

    __slots__ = ("_counts", "_names", "_next")

    def __init__(self) -> None:
        self._counts: dict[tuple[bytes, tuple[int, ...]], int] = {}
        self._names: dict[tuple[bytes, tuple[int, ...]], bytes] = {}
        self._next = 0

    def name(self, statement: Statement) -> bytes | None:
        return self._names.get(statement.identity)

    def is_due(self, statement: Statement, threshold: int | None) -> bool:
        """Count one more run; True when it is time to prepare. Full at `_PREPARED_MAX`: later ones run unprepared."""
        if threshold is None or len(self._names) >= _PREPARED_MAX:
            return False
        count = self._counts.get(statement.identity, 0)
        if len(self._counts) > 10 * _PREPARED_MAX:
            self._counts.clear()
        self._counts[statement.identity] = count + 1
        return count >= threshold

    def add(self, statement: Statement, name: bytes) -> None:
        self._counts.pop(statement.identity, None)
        self._names[statement.identity] = name

    def forget(self, statement: Statement) -> None:
        self._names.pop(statement.identity, None)

    def clear(self) -> None:
        """No name is given again: the server may still have it."""
        self._counts.clear()
        self._names.clear()

    def new_name(self) -> bytes:
        self._next += 1
        return b"_shardpool_%d" % self._next


def forget_prepared(conn: Any) -> None:
    """For a server that may have thrown away some of what was prepared by the protocol."""
    conn._prepared.clear()
    prepared_of(conn).clear()


def prepared_of(conn: Any) -> Prepared:
    """The connection's own record of statements that scatters prepared on it."""
    try:
        prepared: Prepared = conn._shardpool_prepared
    except AttributeError:
        prepared = conn._shardpool_prepared = Prepared()
    return prepared
