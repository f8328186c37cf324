"""What the demo found, as values that turn into JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class DemoStep:
    """One step and the seconds it took; `rows` where a rate makes sense."""

    name: str
    seconds: float
    note: str = ""
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class DemoTable:
    """A table: how its rows are placed, how many were read, and how many each shard says that it has."""

    name: str
    placement: str
    rows_read: int
    rows_by_shard: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class NoTail:
    """The flights whose source has no tail number: their stand-in key, and where that is."""

    key: str
    bucket: int
    shard: str
    flights: int
    departed: int


@dataclass(frozen=True, slots=True)
class Plane:
    """One plane with its flights, from one statement on one shard."""

    tailnum: str
    bucket: int
    shard: str
    description: str
    flights: int
    miles: int


@dataclass(frozen=True, slots=True)
class Lookups:
    """Times of single look-ups, one after another: of the route alone, and with the answer of the server."""

    keys: int
    route_us: float
    queries: int
    median_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Period:
    """The weather from `first` to `last`, both included: the shards asked, hours and mean °F by airport."""

    first: str
    last: str
    shards: tuple[str, ...]
    hours: int
    temperature_by_origin: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Carrier:
    """The flights of a carrier over all shards; `delay` is the mean on arrival in minutes."""

    name: str
    flights: int
    delay: float | None


@dataclass(frozen=True, slots=True)
class Batch:
    """A concurrent batch: so many transactions, each on the shard of its key."""

    items: int
    concurrency: int
    per_second: float


@dataclass(frozen=True, slots=True)
class Expectation:
    """A number from the files against the same number from the shards."""

    what: str
    expected: int
    found: int

    @property
    def ok(self) -> bool:
        return self.expected == self.found


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found on the fleet while it was up."""

    postgres: str
    tables: tuple[DemoTable, ...]
    no_tail: NoTail
    plane: Plane
    lookups: Lookups
    period: Period
    carriers: tuple[Carrier, ...]
    batch: Batch
    check: Mapping[str, Any]
    expectations: tuple[Expectation, ...]

    @property
    def ok(self) -> bool:
        return all(expectation.ok for expectation in self.expectations)


@dataclass(frozen=True, slots=True)
class DemoReport:
    """A whole run; `topology` is the path of its file when the fleet stays up."""

    fleet: str
    shards: tuple[str, ...]
    steps: tuple[DemoStep, ...]
    seconds: float
    findings: Findings
    topology: str | None = None

    @property
    def ok(self) -> bool:
        return self.findings.ok

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        whole = asdict(self)
        findings = whole.pop("findings")
        for entry, expectation in zip(findings["expectations"], self.findings.expectations, strict=True):
            entry["ok"] = expectation.ok
        return {"ok": self.ok, **whole, **findings}
