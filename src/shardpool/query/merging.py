"""Rows of several shards put together without a server, by the bytes that the servers sent: nothing is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from ..errors import ShardpoolError
from .pins import Const
from .plan import SortKey

_INT64 = range(-(2**63), 2**63)
_INVERTED = bytes(255 - value for value in range(256))


class NotHere(ShardpoolError):
    """The values are of a form that is not put together here: the statement has to be pulled."""


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
    width, count = pgresult.nfields, pgresult.ntuples
    get = pgresult.get_value
    columns = []
    for key in keys:
        number = key.column if key.column >= 0 else width + key.column
        columns.append(_column_keys([get(row, number) for row in range(count)], key, binary))
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _column_keys(values: list[bytes | None], key: SortKey, binary: bool) -> list[Any]:
    """Each value with a number before it that puts NULL first or last."""
    decode = _comparable(key, binary)
    null = (0, None) if key.nulls_first else (2, None)
    return [null if value is None else (1, decode(value)) for value in values]


def _comparable(key: SortKey, binary: bool) -> Callable[[bytes], Any]:
    if key.decoder == "bytes":
        # A longer text comes after its beginning, so the other way round before it: 0xFF ends what is inverted.
        return (lambda data: data.translate(_INVERTED) + b"\xff") if key.descending else bytes
    if key.decoder == "integer":
        number = _signed if binary else int
    else:
        number = _signed if binary else _signed_hex
    return (lambda data: -number(data)) if key.descending else number


def _signed(data: bytes) -> int:
    return int.from_bytes(data, "big", signed=True)


def _signed_hex(data: bytes) -> int:
    """Of a bytea as text: `\\x0000…`."""
    return int.from_bytes(bytes.fromhex(data[2:].decode()), "big", signed=True)


def merged_order(pgresults: Sequence[Any], keys: Sequence[SortKey], binary: bool) -> list[tuple[int, int]]:
    """The rows of sorted answers in their common order, as (number of the answer, number of the row)."""
    found = [
        (key, number, row)
        for number, pgresult in enumerate(pgresults)
        for row, key in enumerate(row_keys(pgresult, keys, binary))
    ]
    # Sorting of runs that are sorted already is a merge.
    found.sort()
    return [(number, row) for _, number, row in found]


def added(pgresults: Sequence[Any], ways: Sequence[str]) -> list[bytes | None]:
    """One value for each column: the sum, the least or the greatest of the shards' values, as text."""
    return [
        _added([found.get_value(0, column) for found in pgresults], way, pgresults[0].ftype(column))
        for column, way in enumerate(ways)
    ]


def _added(values: Sequence[bytes | None], way: str, oid: int) -> bytes | None:
    present = [int(value) for value in values if value is not None]
    if not present:
        return None
    found = sum(present) if way == "sum" else min(present) if way == "min" else max(present)
    if oid == 20 and found not in _INT64:
        raise psycopg.errors.NumericValueOutOfRange("bigint out of range")
    return str(found).encode()
