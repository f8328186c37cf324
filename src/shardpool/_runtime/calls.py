"""The calls of a fleet's verbs, told to who listens; nothing is made of a call while nobody does."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Protocol

from .counts import Counts


@dataclass(slots=True)
class CallRecord:
    """One call of a verb, as far as it is known: filled in where plans are made and connections are used.

    `subject` is the statement, or the table.
    """

    verb: str
    subject: Any = None
    strategy: str | None = None
    shards: set[str] = field(default_factory=set)


# That of the verb that runs; kept by who listens.
current_call: ContextVar[CallRecord | None] = ContextVar("shardpool_call", default=None)


class Listener(Protocol):
    """Who wants to know of calls."""

    def during(self, record: CallRecord) -> AbstractContextManager[Any]:
        """Around the call."""

    def stream(self, rows: Any, record: CallRecord) -> Any:
        """The rows of a stream, which works while they are asked for."""

    def async_stream(self, rows: Any, record: CallRecord) -> Any:
        """As `stream`, of rows that are awaited."""


class Calls:
    """The calls of one fleet. `counts` are how often each strategy was taken."""

    def __init__(self, strategies: Iterable[str]) -> None:
        self.counts = Counts(strategies)
        self.listener: Listener | None = None

    def begin(self, verb: str, subject: Any = None) -> AbstractContextManager[Any]:
        """Around a call; gives its record when somebody listens, else None."""
        listener = self.listener
        return _NOBODY if listener is None else listener.during(CallRecord(verb, subject))

    def stream(self, rows: Any, subject: Any) -> Any:
        """The rows, told of when somebody listens."""
        listener = self.listener
        return rows if listener is None else listener.stream(rows, CallRecord("stream", subject))

    def async_stream(self, rows: Any, subject: Any) -> Any:
        """As `stream`, of rows that are awaited."""
        listener = self.listener
        return rows if listener is None else listener.async_stream(rows, CallRecord("stream", subject))

    def took(self, strategy: str) -> None:
        """The strategy by which a statement is answered."""
        self.counts.add(strategy)
        if self.listener is not None and (record := current_call.get()) is not None:
            record.strategy = strategy


_NOBODY: AbstractContextManager[None] = nullcontext()
