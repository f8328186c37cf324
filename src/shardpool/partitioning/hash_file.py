"""Owners of hash buckets as the topology file has them: `{s0: 0-1023, s1: [1024-2000, 2003]}`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..errors import EditRefused
from ..patches import Insert, Operation, Path, Put, Remove
from .owner_map import owner_runs
from .strategy import dealt

# Ranges of buckets that are written entry by entry.
_MANY = 16


def written_owners(shard_by_bucket: Sequence[str]) -> dict[str, Any]:
    """The owners as the file has them, in the shortest ranges."""
    written: dict[str, list[str | int]] = {}
    for first, last, shard in owner_runs(shard_by_bucket):
        written.setdefault(shard, []).append(written_range(first, last))
    return {shard: entries[0] if len(entries) == 1 else entries for shard, entries in written.items()}


def rehashed(
    owners: Any, path: Path, name: str, others: Sequence[str], hashed: Sequence[int], left: Sequence[int]
) -> Iterator[Operation]:
    """The hash buckets go to the others; `left` are those that stay."""
    for target, gained in zip(others, dealt(hashed, len(others)), strict=True):
        if gained:
            yield from _gained(owners, path, target, gained)
    if hashed and left:
        entries = [written_range(*entry) for entry in runs(left)]
        yield Put((*path, name), entries[0] if len(entries) == 1 else entries)
    elif name in owners and not left:
        yield Remove((*path, name))


def _gained(owners: Any, path: Path, shard: str, buckets: Sequence[int]) -> Iterator[Operation]:
    """More buckets for a shard: a range that one of its entries touches is widened, any other is a new entry.

    Many of them at once are written as the shortest list that there is.
    """
    there = owners.get(shard)
    written = list(there) if isinstance(there, list) else [] if there is None else [there]
    ranges: list[tuple[int, int]] = [_range(entry) for entry in written]
    gained = runs(buckets)
    if len(gained) > _MANY:
        owned = sorted({bucket for first, last in (*ranges, *gained) for bucket in range(first, last + 1)})
        values = [written_range(*entry) for entry in runs(owned)]
        yield Put((*path, shard), values[0] if len(values) == 1 else values)
        return
    changed: set[int] = set()
    for first, last in gained:
        at = next((at for at, (low, high) in enumerate(ranges) if high + 1 == first or last + 1 == low), None)
        if at is None:
            ranges.append((first, last))
            changed.add(len(ranges) - 1)
        else:
            ranges[at] = (min(first, ranges[at][0]), max(last, ranges[at][1]))
            changed.add(at)
    values = [written_range(*entry) for entry in ranges]
    if not isinstance(there, list):
        yield Put((*path, shard), values[0] if len(values) == 1 else values)
        return
    for at in sorted(changed):
        yield Put((*path, shard, at), values[at]) if at < len(written) else Insert((*path, shard), at, values[at])


def _range(entry: Any) -> tuple[int, int]:
    first, _, last = str(entry).partition("-")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise EditRefused(
            "the owners of buckets are written with a variable", hint="Write the buckets out, and run it again."
        ) from None


def runs(buckets: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending buckets as ranges, first and last included."""
    ranges: list[tuple[int, int]] = []
    for bucket in buckets:
        if ranges and ranges[-1][1] + 1 == bucket:
            ranges[-1] = (ranges[-1][0], bucket)
        else:
            ranges.append((bucket, bucket))
    return ranges


def written_range(first: int, last: int) -> str | int:
    """Buckets as the file has them: `7`, `0-1023`."""
    return first if first == last else f"{first}-{last}"
