"""One call of a verb, as its caller made it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from psycopg.rows import RowFactory

from ._runtime.deadlines import Deadline

Params = Sequence[Any] | Mapping[str, Any]


# Not frozen: that takes three times as long to make, on the path of every statement.
@dataclass(slots=True)
class Call:
    """A statement with its parameters and options; `deadline` is in monotonic seconds.

    `missing` is None where shards may not be missing; else those that are, with their errors, are written there.
    `within` is the session of the transaction that it is a part of, if there is one. An INSERT gives its columns `new`
    numbers that no row has.
    """

    query: Any
    params: Params | None
    deadline: Deadline
    readonly: bool = False
    binary: bool = False
    row_factory: RowFactory[Any] | None = None
    fanout: Literal["one", "some", "all"] = "all"
    strategy: str | None = None
    atomic: bool = False
    missing: dict[str, BaseException] | None = None
    within: Any = None
    new: frozenset[str] = frozenset()

    def numbered(self, query: str, params: Params, new: frozenset[str]) -> Call:
        """The call with its numbers; in an eighth of the time of `dataclasses.replace`."""
        return Call(
            query,
            params,
            self.deadline,
            self.readonly,
            self.binary,
            self.row_factory,
            self.fanout,
            self.strategy,
            self.atomic,
            self.missing,
            self.within,
            new,
        )
