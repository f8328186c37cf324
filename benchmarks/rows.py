"""The result: a row per case, with its target and whether it was met; as a table and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .harness import Measured

_UNITS = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9))


@dataclass(frozen=True, slots=True)
class Target:
    """What a case is to reach: at most `most`, or at least `least`."""

    most: float | None = None
    least: float | None = None

    def __str__(self) -> str:
        return f"≤ {self.most:g}" if self.most is not None else f"≥ {self.least:g}"

    def is_met(self, value: float) -> bool:
        return value <= self.most if self.most is not None else value >= (self.least or 0.0)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result. `judged` is the value that the target is compared with, when there is a target."""

    subject: str
    case: str
    ours: str
    baseline: str = ""
    baseline_name: str = ""
    ratio: float | None = None
    paired_ratio: float | None = None
    target: str = ""
    met: bool | None = None
    rounds: int | None = None


def compare(
    subject: str, case: str, ours: Measured, baseline: Measured, name: str, target: Target | None = None
) -> Row:
    """Ours against a baseline, as times; the target is for the median of the ratios of each round."""
    paired = ours.paired_ratio(baseline)
    return Row(
        subject,
        case,
        _spread(ours),
        _spread(baseline),
        name,
        ours.ratio(baseline),
        paired,
        f"{target}x" if target else "",
        target.is_met(paired) if target else None,
        len(ours.seconds),
    )


def compare_rates(
    subject: str, case: str, ours: Measured, baseline: Measured, name: str, target: Target | None = None
) -> Row:
    """As `compare`, of seconds per row, shown as rows per second: more is better."""
    paired = baseline.paired_ratio(ours)
    return Row(
        subject,
        case,
        _rate(ours),
        _rate(baseline),
        name,
        baseline.ratio(ours),
        paired,
        f"{target}x" if target else "",
        target.is_met(paired) if target else None,
        len(ours.seconds),
    )


def alone(subject: str, case: str, ours: Measured, most: float | None = None) -> Row:
    """A time by itself, with a target in seconds."""
    target = "" if most is None else f"≤ {shown(most)}"
    met = None if most is None else ours.median <= most
    return Row(subject, case, _spread(ours), target=target, met=met, rounds=len(ours.seconds))


def shown(seconds: float) -> str:
    """A time in the unit that suits it, with three digits."""
    for unit, size in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _spread(measured: Measured) -> str:
    low, high = measured.quartiles
    unit, size = next((entry for entry in _UNITS if measured.median >= entry[1]), _UNITS[-1])
    return f"{measured.median / size:.3g} {unit} ({low / size:.3g}–{high / size:.3g})"


def _rate(measured: Measured) -> str:
    low, high = measured.quartiles
    return f"{1e-3 / measured.median:.0f} k rows/s ({1e-3 / high:.0f}–{1e-3 / low:.0f})"


_HEADERS = ("subject", "case", "ours (quartiles)", "baseline (quartiles)", "is", "ratio", "paired", "target", "")


def table(rows: Sequence[Row]) -> str:
    """The rows under their headers, aligned."""
    lines = [_HEADERS, *map(_cells, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADERS))]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    met = {None: "", True: "met", False: "NOT MET"}[row.met]
    ratios = tuple("" if value is None else f"{value:.3g}" for value in (row.ratio, row.paired_ratio))
    return (row.subject, row.case, row.ours, row.baseline, row.baseline_name, *ratios, row.target, met)


def write(file: Path, rows: Iterable[Row], facts: dict[str, Any]) -> None:
    """The rows as JSON, with what they were measured on."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {**facts, "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """What tells whether two results can be compared at all."""
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
    }
