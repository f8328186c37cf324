"""The INSERT of rows that are finished: made by a shard, or taken away from one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..text.template import Template

ROWS = 2**30
"""The number of the parameter in whose place finished rows are put."""


@dataclass(frozen=True, slots=True)
class Finish:
    """An INSERT of finished rows, each value as a text, in the place of one parameter; `nothing` inserts no row."""

    rows: Template
    nothing: Template

    def filled(self, rows: Sequence[Sequence[str | None]], values: Sequence[Any]) -> tuple[str, list[Any]]:
        """The INSERT of these rows, and its parameters, for psycopg; `values` are the statement's own parameters."""
        params: list[Any] = []

        def place(number: int) -> str:
            if number == ROWS:
                params.extend(value for row in rows for value in row)
                return "), (".join([", ".join(["%s"] * len(row)) for row in rows])
            params.append(values[number - 1])
            return "%s"

        return filled(self.rows if rows else self.nothing, place), params

    def __str__(self) -> str:
        return self.rows.fill(lambda number: "…" if number == ROWS else f"${number}")


def filled(found: Template, place: Callable[[int], str]) -> str:
    """The SQL of a template as psycopg takes it, with `place(n)` for `$n`."""
    return "".join(
        part.replace("%", "%%") if isinstance(part, str) else place(part) if part else "now()" for part in found.parts
    )
