"""`load_csv`: a CSV file into a table of the fleet, by `copy_into`, with the file's own lines in every error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Literal

import psycopg

from .._async.router import AsyncRouter
from ..errors import LoadError, first_line
from ..topology import Sharded
from .csv_file import CsvFile, Row

_SPECIAL = frozenset('",\r\n')

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

    Values go to the servers as text, so that each column's own type reads them. A row without a key is an error, is
    left out and counted, or is written into the CSV file `collect_into`. Raises `LoadError` with `line`, the line of
    the file, when a row is to blame.
    """
    if collect_into is not None and file.is_at(collect_into):
        raise LoadError(
            f"rows without a key cannot be written to {collect_into}: it is the file that is loaded",
            hint="Name another file for them.",
        )
    columns = file.columns()
    placement = router.topology.placement(table)
    keys = placement.key_columns if isinstance(placement, Sharded) else ()
    sieve = _Sieve([columns.index(key) for key in keys if key in columns], on_null_key)
    started = monotonic()
    with sieve.collecting(collect_into, columns):
        try:
            rows_by_shard = await router.copy_into(
                table, file.rows(sieve.keep), columns=columns, binary=False, timeout=timeout, progress=progress
            )
        except LoadError as error:
            raise _located(error, router, table, file, sieve) from error.__cause__
    return LoadReport(table, rows_by_shard, sieve.skipped, monotonic() - started, sieve.kept)


class _Sieve:
    """Keeps the rows that have a key, and counts or collects the others."""

    def __init__(self, positions: list[int], on_null_key: OnNullKey) -> None:
        self.positions = positions
        self.skipped = 0
        self.kept = 0
        self._on_null_key = on_null_key
        self._write: Callable[[Row], object] = lambda row: None

    def keep(self, row: Row) -> bool:
        if self._on_null_key != "error" and any(row[at] is None for at in self.positions):
            self.skipped += 1
            self._write(row)
            return False
        self.kept += 1
        return True

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
            self._sieve._write = self._write

    def _write(self, row: Row) -> None:
        """As PostgreSQL's COPY writes CSV; the csv module cannot keep NULL and empty text apart."""
        self._file.write(",".join("" if field is None else _quoted(field) for field in row) + "\r\n")

    def __exit__(self, *raised: object) -> None:
        if self._path is not None:
            self._file.close()


def _quoted(field: str) -> str:
    """Text as a field of CSV, in quotes where it would be read otherwise without."""
    if field and not _SPECIAL.intersection(field):
        return field
    return '"' + field.replace('"', '""') + '"'


def _located(error: LoadError, router: AsyncRouter, table: str, file: CsvFile, sieve: _Sieve) -> LoadError:
    """The same error, with the line of the file that is to blame where one is."""
    if error.line is None and error.record is not None:
        error.line = file.line_of(error.record)
    why = error.detail
    if error.line is None and error.rejected and file.can_be_read_again:
        error.line, shard = _first_rejected(error.rejected, router, table, file, sieve)
        why = _why(error.failures[shard])
    if error.line is not None and not error.message.startswith(file.name):
        return LoadError(
            f"{file.name}:{error.line}: {why}",
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


def _why(error: BaseException) -> str:
    """What a server said of the row: its message, and the detail that names the values."""
    detail = error.diag.message_detail if isinstance(error, psycopg.Error) else None
    return first_line(error) + (f" ({detail})" if detail else "")


def _first_rejected(
    rejected: dict[str, int], router: AsyncRouter, table: str, file: CsvFile, sieve: _Sieve
) -> tuple[int | None, str]:
    """The line of the first row that a server refused and its shard, found by dealing the file out again, on paper."""
    lookup = router._state.lookup_named(None, table) if sieve.positions else None
    counts = dict.fromkeys(rejected, 0)
    for record, row in enumerate(file.rows(sieve.keep), 1):
        if lookup is None:
            shards = list(rejected)
        else:
            key = tuple(row[at] for at in sieve.positions)
            shards = [lookup(key if len(key) > 1 else key[0]).shard]
        for shard in shards:
            if shard in counts:
                counts[shard] += 1
                if counts[shard] == rejected[shard]:
                    return file.line_of(record), shard
    return None, next(iter(rejected))
