"""How a move is made, and what it tells while it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import time
from typing import Any, Literal

from ..operations.barrier import Straggler

Stragglers = Literal["wait", "terminate"]


@dataclass(frozen=True)
class MoveOptions:
    """How a move is made.

    `stragglers`: what becomes of sessions that work by an older topology `straggler_seconds` after a new one is in
    force: `terminate` ends them, `wait` stops the move. `pause_limit` is for how many seconds writers of the rows may
    be held up. `throttle` is in bytes a second. `window` is the time of day in which rows may be handed over.
    `patience` is for how many seconds a server may be away. `addresses` say how the servers of shards are reached by
    other servers, HOST:PORT, where that is not as the topology says. `roles` are more roles of the database under which
    routers or other programs use the tables, and declare their epoch. `timeout` bounds each edit of the topology.
    `finish`: the rows are deleted on the source as soon as they are handed over.
    """

    stragglers: Stragglers = "wait"
    straggler_seconds: float = 30.0
    pause_limit: float = 0.2
    throttle: float | None = None
    window: tuple[time, time] | None = None
    patience: float = 300.0
    addresses: Mapping[str, str] = field(default_factory=dict)
    roles: Sequence[str] = ()
    timeout: float = 120.0
    finish: bool = False
    author: str | None = None

    @property
    def terminates(self) -> bool:
        return self.stragglers == "terminate"


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a move is: a step, and what is known of it. `rows` of about `total` are copied, compared or deleted."""

    number: int
    step: str
    rows: int = 0
    total: int = 0
    bytes: int = 0
    stragglers: Sequence[Straggler] = ()
    note: str = ""
    told: Mapping[str, Any] = field(default_factory=dict)


Say = Callable[[Progress], None]


def quiet(progress: Progress) -> None:
    """Tell nobody."""
