"""Rows of several shards put together without a server, by the bytes that the servers sent: nothing is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import psycopg

from ..errors import ShardpoolError
from .pins import Const
from .plan import SortKey

# By decoder, the oids of the types whose values compare so: int2, int4, int8; bool, uuid, text, varchar.
_TYPES = {"integer": (21, 23, 20), "bytes": (16, 2950, 25, 1043)}
_TEXT = (25,)
_ADDED = (20, 21, 23, 1700)
_INT64 = range(-(2**63), 2**63)
# The first hexadecimal digit of a negative number; "!" is before all digits, with which the others begin.
_NEGATIVE = ord("8")
_INVERTED = bytes(255 - value for value in range(256))


class NotHere(ShardpoolError):
    """The values are of a form that is not put together here: a server has to do it.

    `lasting`: so it will be the next time, whatever the parameters are.
    """

    def __init__(self, message: str, *, lasting: bool = False) -> None:
        super().__init__(message)
        self.lasting = lasting


def bound_value(const: Const | None, params: Sequence[Any]) -> int | None:
    """The number that LIMIT or OFFSET is; None for no bound. Raises `NotHere` for what only a server can read."""
    if const is None:
        return None
    value = params[const.param - 1] if const.param else const.value
    if value is None:
        return None
    if type(value) is not int or value < 0:
        raise NotHere("LIMIT and OFFSET are read here only as integers")
    return value


def row_keys(pgresult: Any, keys: Sequence[SortKey], binary: bool) -> list[Any]:
    """What the rows of a result are compared by, row by row."""
    width = pgresult.nfields
    rows = range(pgresult.ntuples)
    get = pgresult.get_value
    columns = []
    for key in keys:
        number = key.column if key.column >= 0 else width + key.column
        if pgresult.ftype(number) not in _TYPES.get(key.decoder, _TEXT):
            raise NotHere("the values are of another type than was thought", lasting=True)
        columns.append(_column_keys([get(row, number) for row in rows], key, binary))
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _column_keys(values: list[bytes | None], key: SortKey, binary: bool) -> list[Any]:
    """Values that compare as the server compares them; NULL is before or after all."""
    null = _FIRST if key.nulls_first else _LAST
    if None in values:
        present = iter(_comparable([value for value in values if value is not None], key, binary))
        return [null if value is None else next(present) for value in values]
    return _comparable(values, key, binary)  # type: ignore[arg-type]


class _First:
    """Before everything else."""

    def __lt__(self, other: object) -> bool:
        return other is not self

    def __gt__(self, other: object) -> bool:
        return False


class _Last:
    """After everything else."""

    def __lt__(self, other: object) -> bool:
        return False

    def __gt__(self, other: object) -> bool:
        return other is not self


_FIRST, _LAST = _First(), _Last()


def _comparable(values: list[bytes], key: SortKey, binary: bool) -> list[Any]:
    if key.decoder == "bytes":
        # A longer text comes after its beginning, so the other way round before it: 0xFF ends what is inverted.
        return [value.translate(_INVERTED) + b"\xff" for value in values] if key.descending else values
    if key.decoder == "integer":
        numbers = list(map(_signed if binary else int, values))
        return [-number for number in numbers] if key.descending else numbers
    # Hexadecimal digits of two's complement: after the sign they sort as the number does.
    signed = [value if value[0] < _NEGATIVE else b"!" + value for value in values]
    return [value.translate(_INVERTED) for value in signed] if key.descending else signed


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def merged_order(pgresults: Sequence[Any], keys: Sequence[SortKey], binary: bool) -> list[tuple[int, int]]:
    """The rows of sorted answers in their common order, as (number of the answer, number of the row)."""
    places = [(number, row) for number, found in enumerate(pgresults) for row in range(found.ntuples)]
    found_keys = [key for found in pgresults for key in row_keys(found, keys, binary)]
    # Sorting of runs that are sorted already is a merge.
    return list(map(places.__getitem__, sorted(range(len(places)), key=found_keys.__getitem__)))


def added(pgresults: Sequence[Any], ways: Sequence[str]) -> list[bytes | None]:
    """One value for each column: the sum, the least or the greatest of the shards' values, as text."""
    return [
        _added([found.get_value(0, column) for found in pgresults], way, pgresults[0].ftype(column))
        for column, way in enumerate(ways)
    ]


def _added(values: Sequence[bytes | None], way: str, oid: int) -> bytes | None:
    if oid not in _ADDED:
        raise NotHere("the values are of another type than was thought", lasting=True)
    present = [int(value) for value in values if value is not None]
    if not present:
        return None
    found = sum(present) if way == "sum" else min(present) if way == "min" else max(present)
    if oid == 20 and found not in _INT64:
        raise psycopg.errors.NumericValueOutOfRange("bigint out of range")
    return str(found).encode()
