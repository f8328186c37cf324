"""Where the fleet stands: migrations by shards, what deviates first. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..topology import Topology
from .files import Folder, Migration
from .plan import Obstacle, row_problems, shards_of
from .report import error_text
from .state import LockHolder, MigrationRow, ShardState

PENDING, NOT_FOR_IT, UNKNOWN = "pending", "-", "?"


@dataclass(frozen=True, slots=True)
class Line:
    """One migration on every shard. `here` is `applied`, `baseline`, `pending`, `-`, `?`, or how far it has come."""

    version: str
    label: str
    here: Mapping[str, str]
    phase: str = "expand"

    @property
    def is_even(self) -> bool:
        """Whether it is the same on every shard that it is for, and is known there."""
        told_here = {("applied" if at == "baseline" else at) for at in self.here.values() if at != NOT_FOR_IT}
        return len(told_here) <= 1 and told_here <= {"applied", PENDING}

    @property
    def is_applied(self) -> bool:
        return all(at in ("applied", "baseline", NOT_FOR_IT) for at in self.here.values())


@dataclass(frozen=True, slots=True)
class Status:
    """`lines` are in the order of the versions; `problems` are what keeps `up` from running."""

    fleet: str
    shards: tuple[str, ...]
    lines: tuple[Line, ...]
    problems: tuple[Obstacle, ...]
    unreached: Mapping[str, BaseException]
    running: Mapping[str, LockHolder]

    @property
    def deviations(self) -> tuple[Line, ...]:
        """The migrations that are not the same everywhere."""
        return tuple(line for line in self.lines if not line.is_even)

    @property
    def pending(self) -> tuple[Line, ...]:
        """The migrations that are not on all shards yet."""
        return tuple(line for line in self.lines if not line.is_applied)

    @property
    def ok(self) -> bool:
        """Whether every migration is on every shard that it is for."""
        return not (self.pending or self.problems or self.unreached)

    @property
    def needs_looking_at(self) -> bool:
        """Whether there is more than migrations that are not run yet."""
        return bool(self.deviations or self.problems or self.unreached)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "fleet": self.fleet,
            "ok": self.ok,
            "shards": list(self.shards),
            "problems": [
                {"shard": p.shard or None, "version": p.version or None, "problem": p.message, "hint": p.hint or None}
                for p in self.problems
            ],
            "unreached": {shard: error_text(error) for shard, error in self.unreached.items()},
            "running": {shard: {"pid": r.pid, "by": r.application} for shard, r in self.running.items()},
            "migrations": [
                {"version": line.version, "name": line.label, "phase": line.phase, "shards": dict(line.here)}
                for line in self.lines
            ],
        }


def status(folder: Folder, topology: Topology, states: Mapping[str, ShardState]) -> Status:
    """The matrix of files, and of what the shards know beyond them."""
    lines = [_line(migration, topology, states) for migration in folder.migrations]
    known = {migration.version for migration in folder.migrations}
    beyond: dict[str, MigrationRow] = {}
    for state in states.values():
        beyond.update({version: row for version, row in state.rows.items() if version not in known})
    lines += [_line_beyond(version, row, states) for version, row in sorted(beyond.items())]
    by_version = {migration.version: migration for migration in folder.migrations}
    problems = [Obstacle(f"migrations.sum: {problem}") for problem in folder.sum_problems]
    for state in states.values():
        for row in state.rows.values():
            problems.extend(row_problems(state.shard, row, by_version.get(row.version)))
    return Status(
        topology.fleet,
        tuple(states),
        tuple(lines),
        tuple(problems),
        {name: state.error for name, state in states.items() if state.error is not None},
        {name: state.running for name, state in states.items() if state.running is not None},
    )


def _line(migration: Migration, topology: Topology, states: Mapping[str, ShardState]) -> Line:
    mine = shards_of(migration, topology)
    here = {
        name: _here(state, state.rows.get(migration.version)) if name in mine else NOT_FOR_IT
        for name, state in states.items()
    }
    return Line(migration.version, migration.label, here, migration.phase)


def _line_beyond(version: str, row: MigrationRow, states: Mapping[str, ShardState]) -> Line:
    here = {name: _here(state, state.rows.get(version), NOT_FOR_IT) for name, state in states.items()}
    if row.origin is None:
        here = {name: at if at in (NOT_FOR_IT, UNKNOWN) else f"{at}, no file" for name, at in here.items()}
    return Line(version, f"{version}_{row.name}" if row.origin is None else f"{row.origin}: {row.name}", here)


def _here(state: ShardState, row: MigrationRow | None, absent: str = PENDING) -> str:
    if state.error is not None:
        return UNKNOWN
    return absent if row is None else row.describe
