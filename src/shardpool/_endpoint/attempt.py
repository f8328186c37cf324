"""Connections that do not wait for a server that is gone: neither when they are made, nor when a call is cancelled."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from time import monotonic
from typing import Any

import psycopg

from .._runtime.deadlines import Deadline
from .._runtime.sockets import shut
from ..errors import ShardUnavailable

# Seconds for which a call that is cancelled waits for its server to be told; then its connection is cut.
_CANCEL_SECONDS = 0.4


# The attribute of a connection that says whether there is a pooler in front of its server.
POOLED = "_shardpool_pooled"


class Unanswered(ShardUnavailable):
    """The server has let us in, and then said nothing."""


class GivenUp(psycopg.OperationalError):
    """Nobody wants the connection any more. It says nothing about the server."""


class Attempt:
    """It ends at `deadline` (monotonic seconds), or when it is given up; noticed within a tenth of a second."""

    __slots__ = ("deadline", "given_up", "steps")

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.given_up = False
        self.steps: Generator[Any, Any, Any] | None = None

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
            if self.steps is not None:
                # A task that is cancelled leaves a connection that is half made, which its error would keep open.
                self.steps.close()


_current: ContextVar[Attempt | None] = ContextVar("shardpool_attempt", default=None)


@cache
def bounded(connection_class: type[Any]) -> type[Any]:
    """A subclass of which `connect()` ends with the attempt that has begun, and cancelling does not wait for long.

    psycopg's own limit for an attempt is of whole seconds, and cannot be moved. It waits for each step of a connection
    that is being made, for a tenth of a second at a time; so the step is where an end is noticed, in threads and in
    tasks. A call that is cancelled, or interrupted, waits up to five seconds for the server to be told, and again as
    long for its answer.
    """

    class Bounded(connection_class):  # type: ignore[misc]
        @classmethod
        def _connect_gen(cls, *args: Any, **kwargs: Any) -> Any:
            steps = super()._connect_gen(*args, **kwargs)
            attempt = _current.get()
            if attempt is None:
                return steps
            attempt.steps = steps
            return _until_over(steps, attempt)

    cancel: Any = _cancel_task if issubclass(connection_class, psycopg.AsyncConnection) else _cancel_thread
    Bounded._try_cancel = cancel
    Bounded.__name__ = Bounded.__qualname__ = connection_class.__name__
    Bounded.__module__ = connection_class.__module__
    return Bounded


async def _cancel_task(conn: Any, *, timeout: float = 0.0) -> None:
    try:
        await conn.cancel_safe(timeout=_CANCEL_SECONDS)
    except BaseException as error:
        _shut_after(conn, error)
    else:
        _shut_after(conn, None)


def _cancel_thread(conn: Any, *, timeout: float = 0.0) -> None:
    try:
        conn.cancel_safe(timeout=_CANCEL_SECONDS)
    except BaseException as error:
        _shut_after(conn, error)
    else:
        _shut_after(conn, None)


def _shut_after(conn: Any, error: BaseException | None) -> None:
    """Unless the request has been taken up: one that comes late would end what the next caller runs."""
    if error is not None or is_pooled(conn):
        shut(conn)
    if error is not None and not isinstance(error, Exception):
        raise error


def is_pooled(conn: Any) -> bool:
    """Whether there is a connection pooler in front of the server: it may have heard what the server has not."""
    return conn.__dict__.get(POOLED, False) is True


def _until_over(steps: Generator[Any, Any, Any], attempt: Attempt) -> Generator[Any, Any, Any]:
    try:
        wanted = next(steps)
        while True:
            ready = yield wanted
            if attempt.given_up:
                raise GivenUp("given up")
            if attempt.is_over():
                raise psycopg.errors.ConnectionTimeout("the server did not let us in in time")
            wanted = steps.send(ready)
    except StopIteration as end:
        return end.value
