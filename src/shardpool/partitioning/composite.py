"""Keys of several parts: each part is encoded behind its length. Python and its twin in SQL. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from struct import Struct
from struct import error as StructError
from typing import Any, TypeVar

from ..hashing import murmur3
from ..keys import EPOCH_ORDINAL, EXACT_TYPES, KeyType, pack_length

T = TypeVar("T")

_pack_part = Struct("<Iq").pack


def composite_lookup(
    key_types: tuple[KeyType, ...],
    buckets: int,
    targets: Sequence[T],
    coerced: Callable[[Any], T],
    digest: Callable[[bytes], int] = murmur3,
) -> Callable[[Any], T]:
    """The lookup of a murmur3 hash of several parts."""
    if not _PREFIXED.keys() >= set(key_types):
        return coerced
    if len(key_types) == 2:
        return _pair(key_types, buckets, targets, coerced)
    types = tuple(EXACT_TYPES[key_type] for key_type in key_types)
    encoders = [_PREFIXED[key_type] for key_type in key_types]

    def lookup(key: Any) -> T:
        if type(key) is tuple and tuple(map(type, key)) == types:
            try:
                encoded = b"".join([encode(part) for encode, part in zip(encoders, key, strict=True)])
            except (StructError, ValueError):  # out of range, NUL, or half of a surrogate pair
                return coerced(key)
            return targets[digest(encoded) % buckets]
        return coerced(key)

    return lookup


def _pair(
    key_types: tuple[KeyType, ...],
    buckets: int,
    targets: Sequence[T],
    coerced: Callable[[Any], T],
    digest: Callable[[bytes], int] = murmur3,
) -> Callable[[Any], T]:
    first_type, second_type = (EXACT_TYPES[key_type] for key_type in key_types)
    encode_first, encode_second = (_PREFIXED[key_type] for key_type in key_types)

    def lookup(key: Any) -> T:
        if type(key) is tuple and len(key) == 2:
            first, second = key
            if type(first) is first_type and type(second) is second_type:
                try:
                    return targets[digest(encode_first(first) + encode_second(second)) % buckets]
                except (StructError, ValueError):
                    return coerced(key)
        return coerced(key)

    return lookup


def _prefixed_text(text: str) -> bytes:
    if "\0" in text:
        raise ValueError("NUL")
    data = text.encode()
    return pack_length(len(data)) + data


_PREFIXED: dict[KeyType, Callable[[Any], bytes]] = {
    "bigint": partial(_pack_part, 8),
    "text": _prefixed_text,
    "uuid": lambda value: b"\x10\0\0\0" + value.int.to_bytes(16, "big"),
    "bytea": lambda value: pack_length(len(value)) + value,
    "date": lambda value: _pack_part(8, value.toordinal() - EPOCH_ORDINAL),
}


def encoded_sql(columns: Sequence[str]) -> str:
    """`encode_canonical` as SQL."""
    return " || ".join(f"shardpool.key_part(shardpool.encode_key({column}))" for column in columns)
