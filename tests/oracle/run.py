"""Many statements, and what became of them."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

from shardpool import Router

from .compare import Different, compare
from .generator import Case


@dataclass
class Tally:
    """Numbers of a run. `answered` leaves out what the plain server itself refuses, always or by its plan."""

    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    strategies: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    refused_sql: dict[str, str] = field(default_factory=dict)
    slowest: list[tuple[float, int, str]] = field(default_factory=list)

    @property
    def asked(self) -> int:
        return self.outcomes.total() - self.outcomes["error"] - self.outcomes["unclear"]

    @property
    def answered(self) -> float:
        return self.outcomes["same"] / self.asked if self.asked else 1.0

    def summary(self, seconds: float) -> str:
        count = self.outcomes.total()
        lines = [
            f"{count} statements in {seconds:.1f} s, {1000 * seconds / max(count, 1):.1f} ms each: "
            + ", ".join(f"{name} {number}" for name, number in self.outcomes.most_common()),
            f"answered: {100 * self.answered:.2f} % of those that one server answers",
        ]
        for title, found in (("refused", self.refused), ("errors of one server", self.errors)):
            lines += [f"{title}:"] if found else []
            for message, number in found.most_common(25):
                lines.append(f"  {number:6} {message}")
                if message in self.refused_sql:
                    lines.append(f"         such as {self.refused_sql[message][:3000]}")
        lines.append("strategies: " + (", ".join(f"{name} {n}" for name, n in self.strategies.most_common()) or "-"))
        lines.append("kinds: " + ", ".join(f"{name} {number}" for name, number in self.kinds.most_common()))
        lines += [f"slow: {took:.2f} s, number {number}: {sql[:200]}" for took, number, sql in self.slowest[:5]]
        return "\n".join(lines)


def ask(
    tally: Tally, plain: psycopg.Connection[Any], other: Router | psycopg.Connection[Any], case: Case, number: int
) -> None:
    """One case, counted; a wrong answer is counted and raised."""
    begun = time.perf_counter()
    tally.kinds[case.kind] += 1
    try:
        outcome = compare(plain, other, case.sql, case.params, ordered=case.ordered, inexact=case.inexact)
    except Different as wrong:
        tally.outcomes["wrong"] += 1
        tally.wrong.append(f"{number} ({case.kind}): {wrong}")
        raise
    finally:
        tally.slowest.append((time.perf_counter() - begun, number, case.sql))
        tally.slowest.sort(reverse=True)
        del tally.slowest[8:]
    tally.outcomes[outcome.kind] += 1
    if outcome.strategy is not None:
        tally.strategies[outcome.strategy] += 1
    if outcome == "refused":
        kind = re.sub(r"\d+", "N", outcome.message)
        tally.refused[kind] += 1
        tally.refused_sql.setdefault(kind, case.sql)
    if outcome == "error":
        tally.errors[outcome.message] += 1
