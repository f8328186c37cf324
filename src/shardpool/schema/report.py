"""What a run tells while it goes on, and what it has done at its end: values, without I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ShardpoolError, first_line, summary
from .state import Direction

Happening = Literal[
    "connect",  # connections are being made
    "wait",  # for another runner
    "locked",  # the shard is ours
    "begin",  # a migration; its record comes next where it has one
    "step",  # is sent next
    "stepped",  # is done and recorded
    "blocked",  # a statement waits for the locks of others
    "retry",  # it waited for too long, and is tried again
    "mend",  # what a killed build has left is put right
    "commit",  # all of a migration is done, its COMMIT comes next
    "applied",
    "reverted",
    "output",  # a line of a program, or a notice of the server
    "done",  # nothing is left to do on this shard
    "failed",
]


@dataclass(frozen=True, slots=True)
class Happened:
    """One thing on one shard. `step` counts from 1; `seconds` is how long it took, or how long it will be waited."""

    what: Happening
    shard: str
    version: str = ""
    label: str = ""
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    detail: str = ""


Progress = Callable[[Happened], None]

Outcome = Literal["done", "nothing to do", "failed", "not begun"]


@dataclass(slots=True)
class ShardReport:
    """What a run has done on one shard. `done` are the migrations that got to their end, with their seconds."""

    shard: str
    outcome: Outcome = "not begun"
    done: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    error: BaseException | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "outcome": self.outcome,
            "done": [{"version": version, "seconds": round(took, 4)} for version, took in self.done.items()],
            "seconds": round(self.seconds, 4),
            "error": error_text(self.error) if self.error is not None else None,
        }


@dataclass(frozen=True, slots=True)
class MigrationReport:
    """What a run has done on every shard; `ok` when it got to its end everywhere."""

    direction: Direction | str
    shards: Mapping[str, ShardReport]
    seconds: float

    @property
    def ok(self) -> bool:
        return all(shard.outcome in ("done", "nothing to do") for shard in self.shards.values())

    @property
    def changed(self) -> int:
        """How many migrations were run, on all shards together."""
        return sum(len(shard.done) for shard in self.shards.values())

    @property
    def failures(self) -> dict[str, BaseException]:
        return {name: shard.error for name, shard in self.shards.items() if shard.error is not None}

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "ok": self.ok,
            "direction": self.direction,
            "seconds": round(self.seconds, 3),
            "shards": {name: shard.as_dict() for name, shard in self.shards.items()},
        }


def error_text(error: BaseException) -> str:
    """An error in one line, with the hint where there is one."""
    text = summary(error) if isinstance(error, ShardpoolError) else first_line(error)
    hint = error.hint if isinstance(error, ShardpoolError) else None
    return f"{text} HINT: {hint}" if hint else text
