"""Which Python values can go into a column by binary COPY, where the type sent must be the column's own."""

from __future__ import annotations

import datetime as dt
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from operator import itemgetter
from typing import Any

from .query.purity import names_a_time

# Built-in type oids, as in PostgreSQL's pg_type.dat, and the exact Python types whose binary form psycopg makes.
# real is not among them: a float that is too large for it would arrive as infinity, where text is refused.
_PYTHON_TYPES: dict[int, tuple[type, ...]] = {
    16: (bool,),  # boolean
    17: (bytes, bytearray, memoryview),  # bytea
    20: (int,),  # bigint
    21: (int,),  # smallint
    23: (int,),  # integer
    25: (str,),  # text
    701: (float,),  # double precision
    1042: (str,),  # character(n)
    1043: (str,),  # character varying
    1082: (dt.date,),  # date
    1114: (dt.datetime,),  # timestamp
    1184: (dt.datetime,),  # timestamp with time zone
    1700: (Decimal, int),  # numeric
    2950: (uuid.UUID,),  # uuid
}


# What is sent of this type by binary COPY is the very bytes that it is given.
BYTES = 17

# psycopg has no binary form of character(n): the server reads it like that of text.
_SENT_AS = {1042: 25}


def sent_types(oids: Sequence[int]) -> list[int]:
    """The types as which psycopg is to encode values for binary COPY into columns of these types."""
    return [_SENT_AS.get(oid, oid) for oid in oids]


def unfit(oids: Sequence[int], rows: Sequence[Sequence[Any]]) -> tuple[int, int] | None:
    """The first place, (row, column), whose value binary COPY does not take into a column of this type; None: it does.

    NULL fits into every column of a type that has a binary form here.
    """
    for at, oid in enumerate(oids):
        types = _PYTHON_TYPES.get(oid)
        if types is None:
            return 0, at
        for number, row in enumerate(rows):
            if at < len(row) and row[at] is not None and not _fits(oid, types, row[at]):
                return number, at
    return None


def _fits(oid: int, types: tuple[type, ...], value: Any) -> bool:
    if oid in (1114, 1184) and isinstance(value, dt.datetime):
        return (value.tzinfo is not None) == (oid == 1184)
    return type(value) in types


# psycopg cuts an int that is too large for these to its low bytes: it would arrive as another number. Struct's letters.
_NARROW = {21: "h", 23: "i"}
_BOOLEAN = 16
_TRUTH = frozenset((bool, type(None)))


def range_check(oids: Sequence[int], columns: Sequence[str]) -> Callable[[Sequence[Sequence[Any]]], None]:
    """A check of rows that binary COPY needs before they are encoded; it raises `OverflowError` and `TypeError`."""
    narrow = [(itemgetter(at), _NARROW[oid], columns[at]) for at, oid in enumerate(oids) if oid in _NARROW]
    booleans = [(itemgetter(at), columns[at]) for at, oid in enumerate(oids) if oid == _BOOLEAN]

    def check(rows: Sequence[Sequence[Any]]) -> None:
        for values_of, letter, column in narrow:
            try:
                # Packing all of them and throwing the bytes away is the quickest check of their range: 20 ns a value.
                struct.pack(f"{len(rows)}{letter}", *map(values_of, rows))
            except struct.error:
                _check_each(map(values_of, rows), letter, column)
        for values_of, column in booleans:
            # psycopg takes whatever is true in Python for true, the text 'f' too.
            if not _TRUTH.issuperset(map(type, map(values_of, rows))):
                raise TypeError(f"not a boolean for column {column}")

    return check


def _check_each(values: Iterable[Any], letter: str, column: str) -> None:
    limit = 1 << (8 * struct.calcsize(letter) - 1)
    for value in values:
        if value is not None and not -limit <= value < limit:
            raise OverflowError(f"{value} is out of range for column {column}")


# date, time, timetz, timestamp, timestamptz; their arrays and ranges.
_MOMENTS = frozenset((1082, 1083, 1266, 1114, 1184, 1182, 1183, 1270, 1115, 1185, 3912, 3908, 3910))


def moments(oids: Sequence[int]) -> list[int]:
    """The numbers, from 0, of the columns that are moments."""
    return [place for place, oid in enumerate(oids) if oid in _MOMENTS]


def check_moments(values: Iterable[Any]) -> None:
    """Raise `ValueError` for a text that each server reads as a moment of its own."""
    for value in values:
        if type(value) is str and not value[:1].isdigit() and names_a_time(value.encode()):
            raise ValueError(f"{value!r} is another moment on each shard: give the time itself")
