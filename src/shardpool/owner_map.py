"""Which key is on which shard, as a text short enough to be compared on each new connection. Pure.

What is kept here must give the same text for ever: shards store it, and routers of other versions compare it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from .keys import ENCODING_VERSION, KeyValue, key_parts, key_text
from .partitioning import Hash, Partitioning, Range


def contract(partitioning: Partitioning) -> dict[str, Any]:
    """How keys become buckets, as far as it never changes: pins, bounds and listed values may, and are not in it."""
    facts: dict[str, Any] = {
        "kind": type(partitioning).__name__.lower(),
        "key_types": list(partitioning.key_types),
        "encoding": ENCODING_VERSION,
    }
    if isinstance(partitioning, Hash):
        facts |= {"function": partitioning.function, "buckets": partitioning.buckets}
    return facts


def map_digest(partitioning: Partitioning, shard_by_bucket: Sequence[str]) -> str:
    """`BUCKETS-OWNERS`, each the first 16 hexadecimal digits of a SHA-256.

    The first is of all that makes a key's bucket: contract, pins, bounds and listed keys in their order. The second is
    of the owners. Two topologies with the same digest send every key to the same shard.
    """
    return f"{_digest([contract(partitioning), _special_keys(partitioning)])}-{_digest(owner_runs(shard_by_bucket))}"


def divides_alike(one: str, other: str) -> bool:
    """Whether two digests are of maps that give each key a bucket of the same number."""
    return one.partition("-")[0] == other.partition("-")[0]


def owner_runs(shard_by_bucket: Iterable[str]) -> list[tuple[int, int, str]]:
    """The owners in the shortest ranges: first bucket, last bucket, shard."""
    found: list[tuple[int, int, str]] = []
    first = 0
    for shard, buckets in groupby(shard_by_bucket):
        last = first + sum(1 for _ in buckets) - 1
        found.append((first, last, shard))
        first = last + 1
    return found


def _special_keys(partitioning: Partitioning) -> list[Any]:
    if isinstance(partitioning, Hash):
        return [*map(_shown, partitioning.pinned)]
    if isinstance(partitioning, Range):
        return [*map(_shown, partitioning.bounds)]
    return [*map(_shown, partitioning.values), *([None] if partitioning.default else [])]


def _shown(key: KeyValue | None) -> list[str] | None:
    return None if key is None else [key_text(part) for part in key_parts(key)]


def _digest(facts: Any) -> str:
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
