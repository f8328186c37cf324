"""The hash functions that choose a bucket: murmur3, and PostgreSQL's own partition hash.

PostgreSQL's is Bob Jenkins' lookup3 (burtleburtle.net/bob/c/lookup3.c) with a 64-bit seed and result, as its
`hash_any_extended` defines it; `PARTITION BY HASH` hashes each part with one fixed seed and combines them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import mmh3

from .keys import KeyType, KeyValue, days, encode_canonical, key_parts, microseconds

HashFunction = Literal["murmur3", "postgres"]

PARTITION_SEED = 8816678312871386365
COMBINE_CONSTANT = 5305509591434766563

murmur3: Callable[[bytes], int] = mmh3.mmh3_32_uintdigest
"""murmur3 x86_32 with seed 0, as an unsigned 32-bit number."""

_M32 = 0xFFFFFFFF
_M64 = 0xFFFFFFFFFFFFFFFF
_START = 0x9E3779B9 + 3923095


def hash_key(key: KeyValue, key_types: tuple[KeyType, ...], function: HashFunction) -> int:
    """The hash of a canonical key: unsigned, of 32 bits by murmur3 and of 64 bits by postgres."""
    if function == "murmur3":
        return murmur3(encode_canonical(key, key_types))
    return postgres_partition_hash(key, key_types)


def postgres_partition_hash(key: KeyValue, key_types: tuple[KeyType, ...]) -> int:
    """The unsigned 64-bit number whose remainder is the partition of `PARTITION BY HASH` (a text column's collation
    being deterministic and the database's encoding UTF8)."""
    row = 0
    for key_type, part in zip(key_types, key_parts(key), strict=True):
        row = _combine(row, _POSTGRES[key_type](part))
    return row


def lookup3(data: bytes, seed: int) -> int:
    """`hash_any_extended` of a little-endian server: the unsigned 64-bit hash of bytes."""
    a, b, c = _seeded(len(data), seed)
    whole = len(data) - len(data) % 12
    for at in range(0, whole, 12):
        a = (a + int.from_bytes(data[at : at + 4], "little")) & _M32
        b = (b + int.from_bytes(data[at + 4 : at + 8], "little")) & _M32
        c = (c + int.from_bytes(data[at + 8 : at + 12], "little")) & _M32
        a, b, c = _mix(a, b, c)
    a += int.from_bytes(data[whole : whole + 4], "little")
    b += int.from_bytes(data[whole + 4 : whole + 8], "little")
    # The lowest byte of c holds the length, so the last bytes begin at its second.
    c += int.from_bytes(data[whole + 8 :], "little") << 8
    return _final(a & _M32, b & _M32, c & _M32)


def _int4(value: int) -> int:
    a, b, c = _seeded(4, PARTITION_SEED)
    return _final((a + value) & _M32, b, c)


def _int8(value: int) -> int:
    # The high half is folded in such a way that an int4 hashes alike as an int8.
    high = value >> 32
    return _int4((value ^ (high if value >= 0 else ~high)) & _M32)


_POSTGRES: dict[KeyType, Callable[[Any], int]] = {
    "bigint": _int8,
    "text": lambda value: lookup3(value.encode(), PARTITION_SEED),
    "uuid": lambda value: lookup3(value.bytes, PARTITION_SEED),
    "bytea": lambda value: lookup3(value, PARTITION_SEED),
    "date": lambda value: _int4(days(value)),
    "timestamptz": lambda value: _int8(microseconds(value)),
}


def _combine(row: int, part: int) -> int:
    return row ^ (part + COMBINE_CONSTANT + (row << 54) + (row >> 7)) & _M64


def _seeded(length: int, seed: int) -> tuple[int, int, int]:
    start = (_START + length) & _M32
    if not seed:
        return start, start, start
    return _mix((start + (seed >> 32)) & _M32, (start + seed) & _M32, start)


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a, c = (a - c) & _M32 ^ _rotated(c, 4), (c + b) & _M32
    b, a = (b - a) & _M32 ^ _rotated(a, 6), (a + c) & _M32
    c, b = (c - b) & _M32 ^ _rotated(b, 8), (b + a) & _M32
    a, c = (a - c) & _M32 ^ _rotated(c, 16), (c + b) & _M32
    b, a = (b - a) & _M32 ^ _rotated(a, 19), (a + c) & _M32
    c, b = (c - b) & _M32 ^ _rotated(b, 4), (b + a) & _M32
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - _rotated(b, 14)) & _M32
    a = ((a ^ c) - _rotated(c, 11)) & _M32
    b = ((b ^ a) - _rotated(a, 25)) & _M32
    c = ((c ^ b) - _rotated(b, 16)) & _M32
    a = ((a ^ c) - _rotated(c, 4)) & _M32
    b = ((b ^ a) - _rotated(a, 14)) & _M32
    c = ((c ^ b) - _rotated(b, 24)) & _M32
    return b << 32 | c


def _rotated(x: int, bits: int) -> int:
    return (x << bits | x >> (32 - bits)) & _M32
