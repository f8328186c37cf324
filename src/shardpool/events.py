"""What a router tells those who observe it: frozen records, one class for each kind of event. No I/O, no clock.

An observer is called in the thread or task in which the thing happened, also in the router's background thread: it has
to be quick, must not raise (what it raises is logged and forgotten) and must not call the router. No event holds a
parameter, a key, a password or the text of a statement.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

_log = logging.getLogger("shardpool")
# Silent unless the program that uses it has set logging up.
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointEvent(Event):
    """Something that happened at one endpoint of one shard."""

    shard: str
    endpoint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(EndpointEvent):
    """A connection was made and checked, in `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectFailed(EndpointEvent):
    """A connection could not be made; `error` is one line."""

    seconds: float
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOpened(EndpointEvent):
    """Calls are refused from now on; `cause` is one line."""

    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerClosed(EndpointEvent):
    """A probe found the endpoint well again, after `seconds` of refusing."""

    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PrimaryChanged(Event):
    """Another node of a shard is its primary now; `endpoint` is None while there is none."""

    shard: str
    before: str | None
    endpoint: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused(EndpointEvent):
    """A call was refused at once; `reason` is `"busy"` or `"unavailable"`."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlineCut(EndpointEvent):
    """A call's socket was shut at its deadline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retried(EndpointEvent):
    """A call is made once more after an error of that SQLSTATE, or None when the connection was lost."""

    sqlstate: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewerEpochSeen(EndpointEvent):
    """A server said that its owners are of a newer epoch than the topology's: it has to be reloaded.

    `keyspaces` are those of which it has another map: calls to them are refused until that is done.
    """

    epoch: int
    keyspaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LongPlan(Event):
    """A statement of so many characters was planned, in `seconds`.

    An `AsyncRouter` plans it in a thread, beside its event loop. Shorter ones take less than some milliseconds, are
    planned where they come, and are not told.
    """

    characters: int
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded(Event):
    """Another topology is in force."""

    before: int
    epoch: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadFailed(Event):
    """The topology file could not be taken over; the old one stays in force. `error` is one line."""

    epoch: int
    error: str


class Observer(Protocol):
    """Anything with this method: `Router(…, observers=[it])`."""

    def observe(self, event: Event) -> None:
        """Called once for each event."""


class Log:
    """Writes to the logger `shardpool` what a person who runs the service wants to find there: changes, not calls."""

    def observe(self, event: Event) -> None:
        match event:
            case BreakerOpened():
                _log.warning("%s/%s: calls are refused: %s", event.shard, event.endpoint, event.cause)
            case BreakerClosed():
                _log.warning("%s/%s: well again after %.1f s", event.shard, event.endpoint, event.seconds)
            case PrimaryChanged():
                _log.warning("%s: the primary is %s, was %s", event.shard, event.endpoint or "none", event.before)
            case ReloadFailed():
                _log.error("the topology file is not taken over, epoch %d goes on: %s", event.epoch, event.error)
            case Reloaded():
                _log.info("topology of epoch %d in force, after %d", event.epoch, event.before)


class Observers:
    """All observers of a router as one, which never raises."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self._observers = tuple(observers)

    def add(self, observer: Observer) -> None:
        """Tell one more from now on."""
        self._observers = (*self._observers, observer)

    def remove(self, observer: Observer) -> None:
        """Tell it no more."""
        self._observers = tuple(other for other in self._observers if other is not observer)

    def observe(self, event: Event) -> None:
        for observer in self._observers:
            try:
                observer.observe(event)
            except Exception:
                _log.exception("an observer failed on %s", type(event).__name__)
