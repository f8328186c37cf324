"""An attempt to connect that ends when it is told to; psycopg's own limit is of whole seconds, and cannot be moved."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from time import monotonic
from typing import Any

import psycopg

from .errors import ShardUnavailable


class Unanswered(ShardUnavailable):
    """The server has let us in, and then said nothing."""


class Attempt:
    """It ends at `deadline` (monotonic seconds), or when it is given up; noticed within a tenth of a second."""

    __slots__ = ("deadline", "given_up")

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.given_up = False

    def is_over(self) -> bool:
        return self.given_up or monotonic() >= self.deadline

    @contextmanager
    def begun(self) -> Iterator[None]:
        """In this block `connect()` of a class made by `bounded` is this attempt."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


_current: ContextVar[Attempt | None] = ContextVar("shardpool_attempt", default=None)


@cache
def bounded(connection_class: type[Any]) -> type[Any]:
    """The class with a `connect()` that ends with the attempt that has begun; connections are of the class itself.

    psycopg waits for each step of a connection that is being made, for a tenth of a second at a time; so the step is
    where an end is noticed, in threads and in tasks.
    """

    class Bounded(connection_class):  # type: ignore[misc]
        @classmethod
        def _connect_gen(cls, *args: Any, **kwargs: Any) -> Any:
            steps = connection_class._connect_gen(*args, **kwargs)
            attempt = _current.get()
            return steps if attempt is None else _until_over(steps, attempt)

    Bounded.__name__ = Bounded.__qualname__ = connection_class.__name__
    return Bounded


def _until_over(steps: Generator[Any, Any, Any], attempt: Attempt) -> Generator[Any, Any, Any]:
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if attempt.is_over():
                raise psycopg.errors.ConnectionTimeout("the server did not let us in in time")
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value
    finally:
        steps.close()
