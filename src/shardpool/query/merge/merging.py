"""Rows of several shards put together without a server, by the bytes that the servers sent: nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import repeat
from operator import itemgetter, neg
from typing import Any

import psycopg

from ...errors import ShardpoolError
from ..analysis.pins import Const
from ..plans.plan import SortKey
from .merger import Merger

# By decoder, the oids of the types whose values compare so: int2, int4, int8; bool, uuid, text, varchar.
_TYPES = {"integer": (21, 23, 20), "bytes": (16, 2950, 25, 1043)}
_TEXT = (25,)
_ADDED = (20, 21, 23, 1700)
_INT64 = range(-(2**63), 2**63)
# The first hexadecimal digit of a negative number; "!" is before all digits, with which the others begin.
_NEGATIVE = ord("8")
_ZERO = b"0"
_BLOCK_ROWS = 1000
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


def row_keys(
    parts: Iterable[tuple[Any, range]],
    keys: Sequence[SortKey],
    binary: bool,
    decoded: Sequence[Sequence[Any]] | None = None,
) -> list[Any]:
    """What these rows of the results of one answer are compared by, row by row.

    `decoded` are the rows as Python has them, where it has integers as they are.
    """
    parts = list(parts)
    if not parts:
        return []
    width = parts[0][0].nfields
    columns = []
    for key in keys:
        number = key.column if key.column >= 0 else width + key.column
        if parts[0][0].ftype(number) not in _TYPES.get(key.decoder, _TEXT):
            raise NotHere("the values are of another type than was thought", lasting=True)
        values: list[Any] = []
        if decoded is not None and key.decoder == "integer" and key.column >= 0:
            columns.append(_column_keys(list(map(itemgetter(number), decoded)), key, _directed))
            continue
        for found, rows in parts:
            values += map(found.get_value, rows, repeat(number))
        columns.append(_column_keys(values, key, _comparable_binary if binary else _comparable_text))
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _column_keys(values: list[Any], key: SortKey, comparable: Callable[[list[Any], SortKey], list[Any]]) -> list[Any]:
    """Values that compare as the server compares them; NULL is before or after all."""
    null = _FIRST if key.nulls_first else _LAST
    if None in values:
        present = iter(comparable([value for value in values if value is not None], key))
        return [null if value is None else next(present) for value in values]
    return comparable(values, key)


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


def _comparable_text(values: list[bytes], key: SortKey) -> list[Any]:
    return _directed(list(map(int, values)), key) if key.decoder == "integer" else _comparable(values, key)


def _comparable_binary(values: list[bytes], key: SortKey) -> list[Any]:
    return _directed(list(map(_signed, values)), key) if key.decoder == "integer" else _comparable(values, key)


def _directed(numbers: list[int], key: SortKey) -> list[int]:
    return list(map(neg, numbers)) if key.descending else numbers


def _comparable(values: list[bytes], key: SortKey) -> list[bytes]:
    if key.decoder == "bytes":
        # A longer text comes after its beginning, so the other way round before it: 0xFF ends what is inverted.
        return [value.translate(_INVERTED) + b"\xff" for value in values] if key.descending else values
    # Hexadecimal digits of two's complement: after the sign they sort as the number does.
    if max(values, default=_ZERO)[0] >= _NEGATIVE:
        values = [value if value[0] < _NEGATIVE else b"!" + value for value in values]
    return [value.translate(_INVERTED) for value in values] if key.descending else values


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def merged_order(
    pgresults: Sequence[Any], keys: Sequence[SortKey], binary: bool, *, block: int = _BLOCK_ROWS
) -> list[tuple[int, int]]:
    """The rows of sorted answers in their common order, as (number of the answer, number of the row).

    Of each answer the keys of a `block` of rows are held at a time.
    """
    merger = Merger(len(pgresults))
    starts = [0] * len(pgresults)
    order: list[tuple[int, int]] = []
    while True:
        for number in merger.wanted:
            found, start = pgresults[number], starts[number]
            rows = range(start, min(start + block, found.ntuples))
            if rows:
                merger.feed(number, row_keys([(found, rows)], keys, binary), list(zip(repeat(number), rows)))
                starts[number] = rows.stop
            else:
                merger.finish(number)
        ready = merger.next()
        if not ready:
            return order
        order += ready


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
    total = sum(present) if way == "sum" else min(present) if way == "min" else max(present)
    if oid == 20 and total not in _INT64:
        raise psycopg.errors.NumericValueOutOfRange("bigint out of range")
    return str(total).encode()
