"""Values in JSON that say all that PostgreSQL says: what JSON has of its own, and PostgreSQL's text of the rest."""

from __future__ import annotations

import json
from decimal import Decimal
from functools import cache
from math import isfinite
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg.adapt import AdaptersMap, Buffer, Loader, Transformer
from psycopg.pq import Format
from psycopg.types.string import TextLoader

if TYPE_CHECKING:
    from ..result import Result

# boolean, the integers, oid; the texts have no other form, and arrays are lists of what their elements are.
# What Python makes of so many digits takes it too long: it refuses them.
_DIGITS = 1000
_OWN = ("bool", "int2", "int4", "int8", "oid")


def json_rows(result: Result) -> list[list[Any]]:
    """The rows as JSON has them: an interval, a date before Christ, NaN and infinity as PostgreSQL writes them."""
    encoding = result._transformer.encoding
    transformer = Transformer(_Exact())
    loads = [transformer.get_loader(column.type_code, Format.TEXT).load for column in result.description or ()]
    return [
        [
            None if value is None else load(bytes(value).decode(encoding).encode())
            for load, value in zip(loads, row, strict=True)
        ]
        for row in result.raw()
    ]


class _Exact:
    """Adapters of their own, and no connection: the text is UTF-8."""

    connection = None

    @property
    def adapters(self) -> AdaptersMap:
        return _adapters()


class _Float(Loader):
    def load(self, data: Buffer) -> Any:
        return _number(bytes(data).decode())


class _ExactJson(Loader):
    def load(self, data: Buffer) -> Any:
        return json.loads(bytes(data), parse_float=_number, parse_int=_whole)


def _number(text: str) -> float | str:
    """A number when it says just that, else its text: JSON has neither NaN nor infinity."""
    value = float(text)
    return value if isfinite(value) and Decimal(repr(value)) == Decimal(text) else text


def _whole(text: str) -> int | str:
    return int(text) if len(text) < _DIGITS else text


@cache
def _adapters() -> AdaptersMap:
    adapters = AdaptersMap(psycopg.adapters)
    for info in psycopg.adapters.types:
        if info.name not in _OWN:
            adapters.register_loader(info.oid, TextLoader)
    for name, loader in (("float4", _Float), ("float8", _Float), ("json", _ExactJson), ("jsonb", _ExactJson)):
        adapters.register_loader(name, loader)
    return adapters
