"""Sorted rows of several shards, merged as they come: of each shard no more is held than one chunk."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any


class Merger:
    """Feed it chunks of each source in their order; `next` gives the rows that nothing can come before any more.

    Rows up to the least of the sources' last keys are complete: they are sorted together, in the time that sorting of
    runs takes (https://github.com/python/cpython/blob/main/Objects/listsort.txt).
    """

    def __init__(self, sources: int) -> None:
        self._keys: list[list[Any]] = [[] for _ in range(sources)]
        self._rows: list[list[Any]] = [[] for _ in range(sources)]
        self._places = [0] * sources
        self._ended = [False] * sources

    @property
    def wanted(self) -> list[int]:
        """The sources that have to be fed, or ended, before `next`."""
        return [
            number
            for number, keys in enumerate(self._keys)
            if not self._ended[number] and self._places[number] == len(keys)
        ]

    def feed(self, source: int, keys: list[Any], rows: list[Any]) -> None:
        """The next rows of a source, with their keys."""
        self._keys[source], self._rows[source], self._places[source] = keys, rows, 0

    def finish(self, source: int) -> None:
        """There are no more rows of this source."""
        self._ended[source] = True

    def next(self) -> list[Any]:
        """The rows that come next, in order; none when all sources have ended and been given out."""
        lasts = [keys[-1] for number, keys in enumerate(self._keys) if not self._ended[number]]
        found_keys: list[Any] = []
        rows: list[Any] = []
        sources = 0
        for number, keys in enumerate(self._keys):
            place = self._places[number]
            end = bisect_right(keys, min(lasts), place) if lasts else len(keys)
            if end > place:
                sources += 1
                found_keys += keys[place:end]
                rows += self._rows[number][place:end]
                self._places[number] = end
        if sources <= 1:
            return rows
        order = sorted(range(len(rows)), key=found_keys.__getitem__)
        return list(map(rows.__getitem__, order))
