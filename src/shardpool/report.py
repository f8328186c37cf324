"""What a check of the fleet found, as values that print and turn into JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `subject` is a shard, an endpoint (`s0/primary`), a table, or the fleet."""

    level: Level
    subject: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.level:8}{self.subject}: {self.message}" + (f"\n        HINT:  {self.hint}" if self.hint else "")


@dataclass(frozen=True, slots=True)
class ServerBudget:
    """Connections of one server: those that all processes may need, those that it gives to their role, those in use."""

    address: str
    shards: tuple[str, ...]
    needed: int
    available: int
    in_use: int


@dataclass(frozen=True, slots=True)
class Report:
    """All findings of one check, in the order of the topology, and what the servers have to give."""

    fleet: str
    epoch: int
    findings: tuple[Finding, ...] = field(default_factory=tuple)
    servers: tuple[ServerBudget, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing is an error; warnings may be there."""
        return not self.errors

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.level == "warning")

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "fleet": self.fleet,
            "epoch": self.epoch,
            "ok": self.ok,
            "servers": [asdict(server) for server in self.servers],
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        lines = [str(finding) for finding in self.findings]
        return "\n".join([f"fleet {self.fleet}, epoch {self.epoch}", *lines])
