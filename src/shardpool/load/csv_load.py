"""`load_csv`: a CSV file into a table of the fleet, by `copy_into`, with the file's own lines in every error."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import compress
from pathlib import Path
from time import monotonic
from typing import Literal

from .._async.router import AsyncRouter
from .._wire.csv_blocks import CsvBlock, CsvRecords, Row, quoted
from ..errors import LoadError
from ..topology import Sharded
from .csv_file import CsvFile

_SPECIAL = frozenset('",\r\n')
# Records are read ahead of those that are placed by at most one batch: the lines of so many are remembered.
_LINES_KEPT = 4096

OnNullKey = Literal["error", "skip", "collect"]


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What a load has put where. `skipped` rows had no key; `seconds` is the time of the whole load."""

    table: str
    rows_by_shard: dict[str, int] = field(default_factory=dict)
    skipped: int = 0
    seconds: float = 0.0

    @property
    def rows(self) -> int:
        """Rows of the file that are loaded; those of a reference table are on every shard, and count once."""
        return self._rows

    _rows: int = 0


async def load_csv(
    router: AsyncRouter,
    table: str,
    file: CsvFile,
    *,
    on_null_key: OnNullKey = "error",
    collect_into: Path | None = None,
    timeout: float | None = None,
    progress: Callable[[int], None] | None = None,
) -> LoadReport:
    """Load a file, each row to the shard of its key: all of it, or on failure nothing of it, as `copy_into` says.

    Records go to the servers as they stand in the file, where each column's own type reads them; only the key is read
    here. A row without a key is an error, is left out and counted, or is written into the CSV file `collect_into`.
    Raises `LoadError` with `line`, the line of the file, when a row is to blame.
    """
    if collect_into is not None and file.is_at(collect_into):
        raise LoadError(
            f"rows without a key cannot be written to {collect_into}: it is the file that is loaded",
            hint="Name another file for them.",
        )
    columns = file.columns()
    placement = router.topology.placement(table)
    keys = placement.key_columns if isinstance(placement, Sharded) else ()
    sieve = _Sieve([columns.index(key) for key in keys if key in columns], len(columns), on_null_key)
    again = partial(sieve.sifted, file) if file.can_be_read_again else None
    started = monotonic()
    with sieve.collecting(collect_into, columns):
        records = CsvRecords(file.form.sent, sieve.counted(file), again)
        try:
            rows_by_shard = await router.copy_into(
                table, records, columns=columns, binary=False, timeout=timeout, progress=progress
            )
        except LoadError as error:
            raise _located(error, table, file, sieve) from error.__cause__
    return LoadReport(table, rows_by_shard, sieve.skipped, monotonic() - started, sieve.kept)


class _Sieve:
    """Keeps the records that have a key, and counts or collects the others."""

    def __init__(self, positions: list[int], width: int, on_null_key: OnNullKey) -> None:
        self.positions = positions
        self.width = width
        self.skipped = 0
        self.kept = 0
        self._on_null_key = on_null_key
        self.write: Callable[[Row], object] = lambda row: None
        # The number of the first record of a block, from 1, and the lines of its records.
        self._recent: deque[tuple[int, Sequence[int]]] = deque()

    def counted(self, file: CsvFile) -> Iterator[CsvBlock]:
        """What is kept of the file, while it is told what was not."""
        for block in file.blocks():
            kept, left = self._divided(block)
            self.skipped += len(left)
            for line, row in zip(left.lines, left.rows(), strict=True):
                if len(row) != self.width:
                    raise LoadError(f"{file.name}:{line}: {len(row)} fields where there are {self.width}", line=line)
                self.write(row)
            self._recent.append((self.kept + 1, kept.lines))
            self.kept += len(kept)
            while self._recent[0][0] + len(self._recent[0][1]) <= self.kept - _LINES_KEPT:
                self._recent.popleft()
            if kept:
                yield kept

    def sifted(self, file: CsvFile) -> Iterator[CsvBlock]:
        """What is kept of the file."""
        return (self._divided(block)[0] for block in file.blocks())

    def _divided(self, block: CsvBlock) -> tuple[CsvBlock, CsvBlock]:
        """The records with a key, and those without one where they are not an error."""
        columns = [block.column(at) for at in self.positions] if self._on_null_key != "error" else []
        if not any(None in column for column in columns):
            return block, block[:0]
        has_key = [None not in parts for parts in zip(*columns, strict=True)]
        numbers = range(len(block))
        return block.picked(list(compress(numbers, has_key))), block.picked(
            list(compress(numbers, [not has for has in has_key]))
        )

    def line_of(self, record: int, file: CsvFile) -> int | None:
        """The line on which a record (1-based) that was kept begins; None where it can no longer be told."""
        for first, lines in self._recent:
            if first <= record < first + len(lines):
                return lines[record - first]
        if file.can_be_read_again:
            for block in self.sifted(file):
                if record <= len(block):
                    return block.lines[record - 1]
                record -= len(block)
        return None

    def collecting(self, path: Path | None, columns: list[str]) -> _Collecting:
        return _Collecting(self, path if self._on_null_key == "collect" else None, columns)


class _Collecting:
    """The file into which a sieve writes the rows that it does not keep, while it is open."""

    def __init__(self, sieve: _Sieve, path: Path | None, columns: list[str]) -> None:
        self._sieve = sieve
        self._path = path
        self._columns = columns

    def __enter__(self) -> None:
        if self._path is not None:
            try:
                self._file = self._path.open("w", newline="", encoding="utf-8")
            except OSError as error:
                raise LoadError(f"{self._path} cannot be written: {error.strerror}") from error
            self._write(tuple(self._columns))
            self._sieve.write = self._write

    def _write(self, row: Row) -> None:
        """As PostgreSQL's COPY writes CSV; the csv module cannot keep NULL and empty text apart."""
        self._file.write(",".join("" if field is None else _quoted(field) for field in row) + "\r\n")

    def __exit__(self, *raised: object) -> None:
        if self._path is not None:
            self._file.close()


def _quoted(field: str) -> str:
    """Text as a field of CSV, in quotes where it would be read otherwise without."""
    return field if field and not _SPECIAL.intersection(field) else quoted(field)


def _located(error: LoadError, table: str, file: CsvFile, sieve: _Sieve) -> LoadError:
    """The same error, with the line of the file that is to blame where one is."""
    if error.line is None and error.record is not None:
        error.line = sieve.line_of(error.record, file)
    if error.line is not None and not error.message.startswith(file.name):
        return LoadError(
            f"{file.name}:{error.line}: {error.detail}",
            committed=error.committed,
            rolled_back=error.rolled_back,
            unknown=error.unknown,
            failures=error.failures,
            rejected=error.rejected,
            record=error.record,
            line=error.line,
            detail=f"nothing was loaded into {table}: all shards were rolled back.",
            hint="Correct the line, or leave it out, and load again.",
        )
    return error
