"""Pinned keys: each has a bucket to itself, behind those of the hash. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from ..keys import KeyType, KeyValue
from ..patches import Operation, Path, Put
from .sql import position

T = TypeVar("T")

_PINNED: Any = object()


def pinned_lookup(
    hash_buckets: Sequence[int],
    targets: Sequence[T],
    by_hash: Callable[[Sequence[Any]], Callable[[Any], Any]],
    coerced: Callable[[Any], T],
) -> Callable[[Any], T]:
    """The lookup of a hash some of whose keys are pinned: `hash_buckets` are those that they would have.

    `by_hash` makes the lookup of the hash alone.
    """
    marked: list[Any] = [*targets]
    for bucket in hash_buckets:
        marked[bucket] = _PINNED
    unpinned = by_hash(tuple(marked))

    # Only the keys that share a hash bucket with a pinned one are looked at twice.
    def lookup(key: Any) -> T:
        target: T = unpinned(key)
        return coerced(key) if target is _PINNED else target

    return lookup


def pinned_sql(
    pinned: Sequence[KeyValue], key_types: tuple[KeyType, ...], columns: Sequence[str], buckets: int, by_hash: str
) -> str:
    """The bucket of a key that may be pinned; `by_hash` is that of the others."""
    if not pinned:
        return by_hash
    return f"COALESCE({position(pinned, key_types, columns)} + {buckets}, {by_hash})"


def pins_in(pinned: Any) -> Iterator[tuple[Any, Any]]:
    """In the file: where each pinned key is written, and the key."""
    if isinstance(pinned, Mapping):
        yield from ((key, key) for key in pinned)
    elif pinned is not None:
        yield from ((at, entry["key"]) for at, entry in enumerate(pinned))


def owners_of_pins(pinned: Any) -> Iterator[tuple[Path, Any]]:
    """In the file: where the shard of each pinned key is written, and the shard."""
    if isinstance(pinned, Mapping):
        yield from (((key,), shard) for key, shard in pinned.items())
    elif pinned is not None:
        yield from (((at, "shard"), entry["shard"]) for at, entry in enumerate(pinned))


def repinned(fields: Any, root: Path, others: Sequence[str], numbers: Sequence[int]) -> Iterator[Operation]:
    """Other shards for the pins with these numbers, in the order of the file."""
    pinned = fields.get("pinned")
    keys = list(pinned) if isinstance(pinned, Mapping) else range(len(pinned or []))
    tail = () if isinstance(pinned, Mapping) else ("shard",)
    for number, at in enumerate(numbers):
        yield Put((*root, "pinned", keys[at], *tail), others[number % len(others)])
