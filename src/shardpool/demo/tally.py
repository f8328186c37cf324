"""Counts made in Python of the rows that were read, to compare the shards' answers with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

from .data import Row, SourceTable

_COUNTED = {"flights": ("tailnum", "carrier"), "planes": ("tailnum",), "weather": ("day",)}


class Tally:
    """`rows` by table, and how often each value of the columns above was read."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self._counts: defaultdict[tuple[str, str], Counter[Any]] = defaultdict(Counter)

    def counting(self, source: SourceTable, rows: Iterator[Row]) -> Iterator[Row]:
        """The same rows, counted as they pass."""
        columns = _COUNTED.get(source.table, ())
        counters = [(source.columns.index(column), self.by(source.table, column)) for column in columns]
        for row in rows:
            for position, counter in counters:
                counter[row[position]] += 1
            yield row

    def by(self, table: str, column: str) -> Counter[Any]:
        """Rows of the table by the value of the column."""
        return self._counts[table, column]
