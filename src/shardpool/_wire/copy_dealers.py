"""Rows dealt out to the buffers of their shards as COPY reads them: loops of C over a batch at a time. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter
from typing import Any, Protocol

from psycopg._copy_base import format_row_binary, format_row_text  # the two that psycopg's own Copy calls for each row

from .copy_types import Check, check_moments
from .csv_blocks import CsvBlock, CsvForm, CsvRecords


class Dealer(Protocol):
    """Puts a batch of rows into the buffers; raises what is wrong with one of them, and none has been put then."""

    def deal(self, batch: Any) -> None: ...


class RowDealer:
    """Deals out rows of Python values.

    `lookup` gives the buffer of each key; without it every row goes into all `buffers`. `check` looks at the rows of a
    batch, and gives those that are sent; columns `moments` may hold texts that are moments. `told` are values that
    every row has besides its own.
    """

    def __init__(
        self,
        buffers: Sequence[bytearray],
        lookup: Callable[[list[Any]], Iterable[bytearray]] | None,
        positions: Sequence[int],
        *,
        width: int,
        transformer: Any,
        binary: bool,
        check: Check | None,
        moments: Sequence[int],
        told: tuple[Any, ...],
    ) -> None:
        self._buffers = buffers
        self._lookup = lookup
        self._key_of = itemgetter(*positions) if positions else None
        self._width = width
        self._transformer = transformer
        self._format_row = format_row_binary if binary else format_row_text
        self._check = check
        self._moments = moments
        self._told = told

    def deal(self, batch: list[Sequence[Any]]) -> None:
        if set(map(len, batch)) != {self._width}:
            wrong = next(row for row in batch if len(row) != self._width)
            raise ValueError(f"{len(wrong)} values for {self._width} columns")
        if self._check is not None:
            batch = self._check(batch)
        for place in self._moments:
            check_moments(row[place] for row in batch)
        if self._lookup is not None and self._key_of is not None:
            places = [self._lookup(list(map(self._key_of, batch)))]
        else:
            places = [repeat(buffer) for buffer in self._buffers]
        if self._told:
            batch = [(*row, *self._told) for row in batch]
        for buffers in places:
            deque(map(self._format_row, batch, repeat(self._transformer), buffers), maxlen=0)


class CsvDealer:
    """Deals out records of a CSV file as they are.

    As `RowDealer`, but `told` are texts, and `lookup` gives a list of `parts`, one for each buffer: what is put there
    goes into the buffer.
    """

    def __init__(
        self,
        buffers: Sequence[bytearray],
        parts: Sequence[list[str]],
        lookup: Callable[[Sequence[Any]], Sequence[list[str]]] | None,
        positions: Sequence[int],
        *,
        form: CsvForm,
        moments: Sequence[int],
        told: tuple[str | None, ...],
    ) -> None:
        self._buffers = buffers
        self._parts = parts
        self._lookup = lookup
        self._positions = positions
        self._moments = moments
        self._behind = "".join([form.delimiter + form.written(value) for value in told])
        # Whether a record has gone out in several lines.
        self._is_folded = False

    def deal(self, block: CsvBlock) -> None:
        texts = [text + self._behind for text in block.texts] if self._behind else block.texts
        if self._lookup is None:
            for part in self._parts:
                part += texts
        else:
            deque(map(list.append, self._lookup(block.keys(self._positions)), texts), maxlen=0)
        found = [(block.end.join([*part, ""])).encode() for part in self._parts]
        for part in self._parts:
            part.clear()
        if any(b"\0" in data for data in found):
            raise ValueError("PostgreSQL's text holds no NUL character")
        if self._moments and any(map(_may_name_a_time, found)):
            for at in self._moments:
                check_moments(value for value in block.column(at) if value)
        for buffer, data in zip(self._buffers, found, strict=True):
            buffer += data
        self._is_folded = self._is_folded or block.is_folded

    def refused(self, lines: Mapping[int, int], records: CsvRecords) -> dict[int, RefusedRecord]:
        """The records that end on these lines, by the numbers of the buffers; deals the file out again, on paper.

        Those that cannot be told are left out.
        """
        if records.again is None:
            return {} if self._is_folded else {at: RefusedRecord(line) for at, line in lines.items()}
        found: dict[int, RefusedRecord] = {}
        number_by_part = {id(part): number for number, part in enumerate(self._parts)}
        counts = dict.fromkeys(lines, (0, 0))
        before = 0
        for block in records.again():
            if len(found) == len(lines):
                break
            parts = None if self._lookup is None else self._lookup(block.keys(self._positions))
            for place, text in enumerate(block.texts):
                for at in lines if parts is None else (number_by_part[id(parts[place])],):
                    if at in lines and at not in found:
                        count, line = counts[at]
                        # The server knows what ends a line when it has read the first record.
                        line += 1 + text.count("\n" if count and block.end == "\n" else "\r")
                        counts[at] = count + 1, line
                        if line >= lines[at]:
                            found[at] = RefusedRecord(count + 1, before + place + 1, block.lines[place])
            before += len(block)
        return found


def _may_name_a_time(data: bytes) -> bool:
    """Whether a field may be now, today, tomorrow or yesterday; no is said sooner than by a look at each of them."""
    if not any(letter in data for letter in b"wWyY"):
        return False
    data = data.replace(b'"', b"").lower()
    return b"ow" in data or b"day" in data


@dataclass(frozen=True, slots=True)
class RefusedRecord:
    """A record that a server has refused: its number among those of its shard and of the file, and its line, from 1."""

    number: int
    record: int | None = None
    line: int | None = None
