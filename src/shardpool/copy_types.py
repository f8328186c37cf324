"""Which Python values can go into a column by binary COPY, where the type sent must be the column's own."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

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


def fits_binary(oids: Sequence[int], row: Sequence[Any]) -> bool:
    """Whether binary COPY takes this row into columns of these types; NULLs fit everywhere."""
    return all(_fits(oid, value) for oid, value in zip(oids, row, strict=False))


def _fits(oid: int, value: Any) -> bool:
    types = _PYTHON_TYPES.get(oid)
    if types is None:
        return False
    if oid in (1114, 1184) and isinstance(value, dt.datetime):
        return (value.tzinfo is not None) == (oid == 1184)
    return value is None or type(value) in types


# psycopg cuts an int that is too large for these to its low bytes: it would arrive as another number.
_NARROW = {21: 15, 23: 31}


def range_check(oids: Sequence[int], columns: Sequence[str]) -> Callable[[Sequence[Any]], None] | None:
    """A check of a row that binary COPY needs before it is encoded; it raises `OverflowError`. None: none is needed."""
    narrow = [(at, 1 << _NARROW[oid]) for at, oid in enumerate(oids) if oid in _NARROW]
    if not narrow:
        return None

    def check(row: Sequence[Any]) -> None:
        for at, limit in narrow:
            value = row[at]
            if value is not None and not -limit <= value < limit:
                raise OverflowError(f"{value} is out of range for column {columns[at]}")

    return check
