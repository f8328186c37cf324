"""Binary forms of values for COPY that psycopg has not, or has not exactly: arrays, addresses, and types sent as text.

What text COPY would refuse, or store as another value than these would, raises `ValueError` or `OverflowError`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import cache, lru_cache
from ipaddress import IPv4Address
from itertools import chain, repeat
from typing import Any, ClassVar

from psycopg.abc import Buffer
from psycopg.adapt import AdaptersMap, Dumper, PyFormat, RecursiveDumper
from psycopg.pq import Format

from .copy_types import CIDR, ELEMENTS, ENUM, INET, JSON, JSONB, check_elements, plain_types, shape

# Elements of one size: the letters of struct for their length and their value, which it refuses when it does not fit.
_SIZES = {21: (2, "h"), 23: (4, "i"), 20: (8, "q"), 701: (8, "d")}
_AF_INET, _AF_INET6 = 2, 3
# An address: its family, the length of the prefix, that it is no cidr, and its bytes.
_IPV4_HEAD = bytes((_AF_INET, 32, False, 4))
_pack_length = struct.Struct(">i").pack
# Where psycopg's own dumpers of texts are, by how it is installed.
_OWN = frozenset(("psycopg.types.string", "psycopg_binary._psycopg", "psycopg_c._psycopg"))
_NULL = b"\xff\xff\xff\xff"


def register(adapters: AdaptersMap) -> None:
    """Let values that are sent as these types be dumped so."""
    dumpers: list[type[Dumper]] = [_Json, _Jsonb, _Enum, _Inet, _Cidr, *map(_array_of, ELEMENTS)]
    for dumper in dumpers:
        adapters.register_dumper(None, dumper)


class _Text(RecursiveDumper):
    """Any value by its text, which the server reads in both formats alike."""

    format = Format.BINARY
    version: ClassVar[bytes] = b""

    def __init__(self, cls: type, context: Any = None) -> None:
        super().__init__(cls, context)
        found: Any = self._tx.get_dumper("", PyFormat.TEXT)
        # Mostly they are texts; the dumper of another than psycopg may be chosen by the value.
        self._of_text = found.dump if type(found).__module__ in _OWN else None

    def dump(self, obj: Any) -> Buffer | None:
        if type(obj) is str and self._of_text is not None:
            text: bytes = self._of_text(obj)
            return self.version + text
        data = self._tx.get_dumper(obj, PyFormat.TEXT).dump(obj)
        return self.version + data if data is not None and self.version else data


class _Json(_Text):
    oid = JSON


class _Jsonb(_Text):
    oid = JSONB
    version = b"\x01"


class _Enum(_Text):
    oid = ENUM


class _Inet(Dumper):
    """https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/network.c, network_recv"""

    format = Format.BINARY
    oid = INET
    is_cidr: ClassVar[bool] = False

    def dump(self, obj: Any) -> Buffer | None:
        if type(obj) is IPv4Address:
            return _IPV4_HEAD + obj.packed
        if getattr(obj, "scope_id", None) is not None:
            raise ValueError(f"{obj} has a scope")
        family = _AF_INET if obj.version == 4 else _AF_INET6
        length, packed = self.parts(obj)
        return bytes((family, length, self.is_cidr, len(packed))) + packed

    @staticmethod
    def parts(obj: Any) -> tuple[int, bytes]:
        network = getattr(obj, "network", None)
        return obj.max_prefixlen if network is None else network.prefixlen, obj.packed


class _Cidr(_Inet):
    oid = CIDR
    is_cidr = True

    @staticmethod
    def parts(obj: Any) -> tuple[int, bytes]:
        return obj.prefixlen, obj.network_address.packed


class _Array(Dumper):
    """https://github.com/postgres/postgres/blob/master/src/backend/utils/adt/arrayfuncs.c, array_recv"""

    format = Format.BINARY
    element: ClassVar[int]
    # Types of elements that need no look at each.
    plain: ClassVar[frozenset[type]]

    def __init__(self, cls: type, context: Any = None) -> None:
        super().__init__(cls, context)
        self._element = context.adapters.get_dumper_by_oid(self.element, self.format)(cls, context)

    def dump(self, obj: Any) -> Buffer | None:
        types = set(map(type, obj)) if type(obj) is list else set()
        if len(types) == 1 and types.issubset(self.plain):
            return _head(1)(1, False, self.element, len(obj), 1) + self._elements(obj)
        sizes, items = shape(obj)
        present = [item for item in items if item is not None]
        check_elements(self.element, present)
        if len(present) == len(items):
            return self._packed(sizes, False, items)
        parts = [_NULL if item is None else self._elements([item]) for item in items]
        return b"".join([self._packed(sizes, True, []), *parts])

    def _packed(self, sizes: list[int], has_null: bool, items: list[Any]) -> bytes:
        head = _head(len(sizes))(len(sizes), has_null, self.element, *chain.from_iterable(zip(sizes, repeat(1))))
        return head + self._elements(items)

    def _elements(self, items: list[Any]) -> bytes:
        if self.element in _SIZES:
            size, letter = _SIZES[self.element]
            try:
                return _packer(letter, len(items))(*chain.from_iterable(zip(repeat(size), items)))
            except struct.error:
                raise OverflowError(f"out of range for an element: {items}") from None
        dump = self._element.dump
        return b"".join([part for data in map(dump, items) for part in (_pack_length(len(data)), data)])


@cache
def _array_of(oid: int) -> type[_Array]:
    return type(f"_Array{oid}", (_Array,), {"oid": oid, "element": ELEMENTS[oid], "plain": plain_types(ELEMENTS[oid])})


@cache
def _head(dimensions: int) -> Callable[..., bytes]:
    """Packs the number of dimensions, whether an element is NULL, their type; the size and the first number of each."""
    return struct.Struct(f">{3 + 2 * dimensions}i").pack


@lru_cache(maxsize=256)
def _packer(letter: str, count: int) -> Callable[..., bytes]:
    return struct.Struct(">" + f"i{letter}" * count).pack
