"""Which key is on which shard, as a text short enough to be compared on each new connection. Pure.

What is kept here must give the same text for ever: shards store it, and routers of other versions compare it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from ..keys import KeyValue, key_parts, key_text
from .strategy import Partitioning


def map_digest(partitioning: Partitioning, shard_by_bucket: Sequence[str], moves: Sequence[object] = ()) -> str:
    """`BUCKETS-OWNERS`, or `BUCKETS-OWNERS-MOVES`, each the first 16 hexadecimal digits of a SHA-256.

    The first is of all that makes a key's bucket: contract, pins, bounds and listed keys in their order. The second is
    of the owners, the third of what is on its way to another shard: it is there only while something is. Two topologies
    with the same digest send every key to the same shard, and ask the same shards to guard it.
    """
    buckets = [partitioning.contract(), [*map(_shown, partitioning.special_keys)]]
    parts = [buckets, owner_runs(shard_by_bucket)]
    return "-".join(map(_digest, [*parts, *([moves] if moves else [])]))


def divides_alike(one: str, other: str) -> bool:
    """Whether two digests are of maps that give each key a bucket of the same number."""
    return one.partition("-")[0] == other.partition("-")[0]


def owns_alike(one: str, other: str) -> bool:
    """Whether two digests are of maps that give each key the same owner, whatever is on its way."""
    return one.split("-")[:2] == other.split("-")[:2]


def owner_runs(shard_by_bucket: Iterable[str]) -> list[tuple[int, int, str]]:
    """The owners in the shortest ranges: first bucket, last bucket, shard."""
    ranges: list[tuple[int, int, str]] = []
    first = 0
    for shard, buckets in groupby(shard_by_bucket):
        last = first + sum(1 for _ in buckets) - 1
        ranges.append((first, last, shard))
        first = last + 1
    return ranges


def _shown(key: KeyValue | None) -> list[str] | None:
    return None if key is None else [key_text(part) for part in key_parts(key)]


def _digest(facts: Any) -> str:
    text = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]
