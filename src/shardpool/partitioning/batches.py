"""Fast paths from many keys to their buckets' targets: loops of C over keys of one exact type.

A batch that is not wholly plain goes to `lookup`, key by key, which knows all that a key may be, and raises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from struct import error as StructError
from typing import Any, TypeVar
from uuid import UUID

from ..hashing import hash_key, murmur3
from ..keys import KeyType, KeyValue, pack_bigint

T = TypeVar("T")
Encode = Callable[[Sequence[Any]], Iterable[bytes] | None]
"""The bytes that are hashed of keys of one type; None where they are not all plain. What it gives may raise late."""

# Out of the range of bigint; half of a surrogate pair; more digits than Python reads.
_TOO_LATE = (StructError, ValueError)


def hash_batch(
    key_type: KeyType,
    buckets: int,
    pinned: Mapping[KeyValue, int],
    targets: Sequence[T],
    lookup: Callable[[Any], T],
    digest: Callable[[bytes], int] = murmur3,
) -> Callable[[Sequence[Any]], list[T]]:
    """The targets of many keys of one part by a murmur3 hash, at half of what `lookup` takes for each of them."""
    encoders = _ENCODERS.get(key_type, {})
    # Only the keys that share a hash bucket with a pinned one are looked at twice.
    doubtful = frozenset(hash_key(key, (key_type,), "murmur3") % buckets for key in pinned)

    def batch(keys: Sequence[Any]) -> list[T]:
        types = set(map(type, keys))
        encode = encoders.get(types.pop()) if len(types) == 1 else None
        encoded = encode(keys) if encode is not None else None
        if encoded is None:
            return list(map(lookup, keys))
        try:
            if not doubtful:
                return [targets[number % buckets] for number in map(digest, encoded)]
            buckets_of_keys = [number % buckets for number in map(digest, encoded)]
        except _TOO_LATE:
            return list(map(lookup, keys))
        if doubtful.isdisjoint(buckets_of_keys):
            return [targets[bucket] for bucket in buckets_of_keys]
        return [
            lookup(key) if bucket in doubtful else targets[bucket]
            for key, bucket in zip(keys, buckets_of_keys, strict=True)
        ]

    return batch


def _integers(keys: Sequence[int]) -> Iterable[bytes]:
    return map(pack_bigint, keys)


def _digits(keys: Sequence[str]) -> Iterable[bytes] | None:
    """Plain digits, as in a CSV file."""
    text = "".join(keys)
    if text.isdigit() and text.isascii() and all(keys):
        return map(pack_bigint, map(int, keys))
    return None


def _texts(keys: Sequence[str]) -> Iterable[bytes] | None:
    return None if "\0" in "".join(keys) else map(str.encode, keys)


def _uuids(keys: Sequence[UUID]) -> Iterable[bytes]:
    return [key.int.to_bytes(16, "big") for key in keys]


_SHAPE = str.maketrans(dict.fromkeys("123456789abcdefABCDEF", "0"))
_UUID = "00000000-0000-0000-0000-000000000000"


def _uuid_texts(keys: Sequence[str]) -> Iterable[bytes] | None:
    """The form in which PostgreSQL writes a uuid, in letters of any case."""
    text = "".join(keys)
    if set(map(len, keys)) != {len(_UUID)} or text.translate(_SHAPE) != _UUID * len(keys):
        return None
    data = bytes.fromhex(text.replace("-", ""))
    return [data[at : at + 16] for at in range(0, len(data), 16)]


def _bytes(keys: Sequence[bytes]) -> Iterable[bytes]:
    return keys


_ENCODERS: dict[KeyType, dict[type, Encode]] = {
    "bigint": {int: _integers, str: _digits},
    "text": {str: _texts},
    "uuid": {UUID: _uuids, str: _uuid_texts},
    "bytea": {bytes: _bytes},
}
