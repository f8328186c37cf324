"""The encoding of protobuf (https://protobuf.dev/programming-guides/encoding): as much of it as trees have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_VARINT, _BYTES, _WIDTHS = 0, 2, {1: 8, 5: 4}


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a message: their numbers, each with an int, or with the bytes of a text or a message."""
    place, end = 0, len(data)
    while place < end:
        tag, place = _varint(data, place)
        form = tag & 7
        if form == _VARINT:
            value, place = _varint(data, place)
            yield tag >> 3, value
        else:
            size, place = _varint(data, place) if form == _BYTES else (_WIDTHS[form], place)
            yield tag >> 3, data[place : place + size]
            place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7


def varint(value: int) -> bytes:
    """An int; a negative one is written as of 64 bits."""
    if 0 <= value < 0x80:
        return _SMALL[value]
    value &= 0xFFFF_FFFF_FFFF_FFFF
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


_SMALL = [bytes((value,)) for value in range(0x80)]


def int_tag(number: int) -> bytes:
    """What stands before the int of a field."""
    return varint(number << 3 | _VARINT)


def bytes_tag(number: int) -> bytes:
    """What stands before the size and the bytes of a field."""
    return varint(number << 3 | _BYTES)
