"""Which Python values can go into a column by binary COPY, where the type sent must be the column's own.

What is sent so is stored as text COPY would have it stored, or refused.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import struct
import uuid
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import chain
from operator import itemgetter
from typing import Any

from ..query.analysis.purity import names_a_time
from .reals import EXACT, as_read, check_reals

BOOLEAN, BYTES, TEXT, VARCHAR, CHARACTER, REAL, INET, CIDR = 16, 17, 25, 1043, 1042, 700, 869, 650
# Types that the server reads from the same text in both formats: any value is sent by its text. All enums are one here,
# https://www.postgresql.org/docs/current/datatype-pseudo.html.
JSON, JSONB, ENUM = 114, 3802, 3500
_TEXTUAL = frozenset((TEXT, VARCHAR, CHARACTER, JSON, JSONB, ENUM))

# Other built-in types, as in PostgreSQL's pg_type.dat, and the exact Python types that have a binary form.
_PYTHON_TYPES: dict[int, tuple[type, ...]] = {
    BOOLEAN: (bool,),
    BYTES: (bytes, bytearray, memoryview),
    20: (int,),  # bigint
    21: (int,),  # smallint
    23: (int,),  # integer
    REAL: (float, int),
    701: (float, int),  # double precision
    1082: (dt.date,),  # date
    1083: (dt.time,),  # time
    1114: (dt.datetime,),  # timestamp
    1184: (dt.datetime,),  # timestamp with time zone
    1186: (dt.timedelta,),  # interval
    1700: (Decimal, int),  # numeric
    2950: (uuid.UUID,),  # uuid
    INET: (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Interface, ipaddress.IPv6Interface),
    CIDR: (ipaddress.IPv4Network, ipaddress.IPv6Network),
    TEXT: (str,),
    VARCHAR: (str,),
}

ELEMENTS = {
    1000: BOOLEAN,
    1001: BYTES,
    1005: 21,
    1007: 23,
    1016: 20,
    1009: TEXT,
    1015: VARCHAR,
    1022: 701,
    1115: 1114,
    1182: 1082,
    1185: 1184,
    1231: 1700,
    2951: 2950,
}
"""The types of arrays that have a binary form here, by the types of their elements."""


def sent_types(oids: Sequence[int], rows: Sequence[Sequence[Any]]) -> list[int]:
    """The types as which values are to be encoded for binary COPY into columns of these types, by the first rows.

    A text is sent by psycopg's own way, which takes nothing but `str`, where no row has anything else.
    """
    return [
        oid if oid not in (TEXT, VARCHAR, CHARACTER) else TEXT if _are_texts(rows, at) else ENUM
        for at, oid in enumerate(oids)
    ]


def _are_texts(rows: Sequence[Sequence[Any]], at: int) -> bool:
    return {type(row[at]) for row in rows if at < len(row)} <= {str, type(None)}


def unfit(oids: Sequence[int], rows: Sequence[Sequence[Any]]) -> tuple[int, int] | None:
    """The first place, (row, column), whose value binary COPY does not take into a column of this type; None: it does.

    NULL fits into every column of a type that has a binary form here.
    """
    for at, oid in enumerate(oids):
        if oid in _TEXTUAL:
            continue
        if oid not in _PYTHON_TYPES and oid not in ELEMENTS:
            return 0, at
        for number, row in enumerate(rows):
            if at < len(row) and row[at] is not None and not _fits(oid, row[at]):
                return number, at
    return None


def _fits(oid: int, value: Any) -> bool:
    if oid in ELEMENTS:
        try:
            _, items = shape(value)
            check_elements(ELEMENTS[oid], [item for item in items if item is not None])
        except (TypeError, ValueError):
            return False
        return True
    if type(value) not in _PYTHON_TYPES[oid]:
        return False
    if oid in (1114, 1184):
        return (value.tzinfo is not None) == (oid == 1184)
    if oid == REAL and type(value) is int:
        return -EXACT <= value <= EXACT
    return oid != 1083 or value.tzinfo is None


def shape(array: Any) -> tuple[list[int], list[Any]]:
    """How many items an array has in each dimension, and all of them; raises `TypeError` and `ValueError`."""
    if type(array) is not list:
        raise TypeError(f"not a list: a {type(array).__name__}")
    if not array:
        return [], []
    sizes, items = [len(array)], array
    while list in (types := set(map(type, items))):
        lengths = set(map(len, items)) if len(types) == 1 else set()
        if len(lengths) != 1 or 0 in lengths:
            raise ValueError("lists within a list that are not of one length")
        sizes += lengths
        items = list(chain.from_iterable(items))
    return sizes, items


def plain_types(oid: int) -> frozenset[type]:
    """The types whose every value fits into an element of this type, but for its range."""
    return frozenset(_PYTHON_TYPES[oid]) if oid not in (1114, 1184) else frozenset()


def check_elements(oid: int, items: Sequence[Any]) -> None:
    """Raise `TypeError` unless all of these, none of which is NULL, are of one type that has a binary form."""
    types = set(map(type, items))
    if len(types) > 1 or not types.issubset(_PYTHON_TYPES[oid]):
        raise TypeError(f"an array of {', '.join(sorted(found.__name__ for found in types))}")
    if oid in (1114, 1184) and not all(_fits(oid, item) for item in items):
        raise TypeError("moments with and without a time zone")


# psycopg cuts an int that is too large for these to its low bytes: it would arrive as another number. Struct's letters.
_NARROW = {21: "h", 23: "i"}
_TRUTH = frozenset((bool, type(None)))


Check = Callable[[list[Sequence[Any]]], list[Sequence[Any]]]


def range_check(oids: Sequence[int], columns: Sequence[str]) -> Check:
    """A check of rows that binary COPY needs before they are encoded; it raises `OverflowError` and `TypeError`.

    It gives the rows as they are to be sent.
    """
    narrow = [(itemgetter(at), _NARROW[oid], columns[at]) for at, oid in enumerate(oids) if oid in _NARROW]
    booleans = [(itemgetter(at), columns[at]) for at, oid in enumerate(oids) if oid == BOOLEAN]
    reals = [(at, columns[at]) for at, oid in enumerate(oids) if oid == REAL]

    def check(rows: list[Sequence[Any]]) -> list[Sequence[Any]]:
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
        for at, column in reals:
            values = list(map(itemgetter(at), rows))
            if None in values:
                values = [value for value in values if value is not None]
            if check_reals(values, column):
                rows = [(*row[:at], row[at] and as_read(row[at]), *row[at + 1 :]) for row in rows]
        return rows

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
