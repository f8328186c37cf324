"""Owners of hash buckets: `{s0: 0-1023, s1: [1024-2000, 2003]}` → the shard of every bucket, each exactly once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ._nodes import YamlNode
from ._problems import Problems

_BUCKETS = re.compile(r"\s*([0-9]{1,9})\s*(?:-\s*([0-9]{1,9})\s*)?")
_SHOWN_GAPS = 5


@dataclass(frozen=True, slots=True)
class _Entry:
    first: int
    last: int
    shard: str
    node: YamlNode


def read_owners(owners: YamlNode, buckets: int, problems: Problems) -> list[str] | None:
    """The shard of each bucket, by its number; None when that is not clear."""
    shards: list[str | None] = [None] * buckets
    good = not owners.damaged
    entries = [_entry(shard, node, buckets, problems) for shard, node in _written(owners)]
    # By first bucket, so that an overlap is told once, at the later of two neighbours.
    for entry in sorted(filter(None, entries), key=lambda entry: (entry.first, entry.node.line, entry.node.column)):
        good &= _claim(shards, entry, problems)
    if None in entries or not good:
        return None
    gaps = list(_gaps(shards))
    if gaps:
        shown = ", ".join(gaps[:_SHOWN_GAPS]) + (
            f" and {len(gaps) - _SHOWN_GAPS} more ranges" if gaps[_SHOWN_GAPS:] else ""
        )
        problems.add_at_key(
            owners, f"no shard owns {'bucket' if shown.isdigit() else 'buckets'} {shown}", "Add them to a shard."
        )
        return None
    return [shard for shard in shards if shard is not None]


def bucket_ranges(node: YamlNode, buckets: int, problems: Problems) -> list[int] | None:
    """The buckets that are written as `0-63`, `7`, or a list of these, ascending; None when it is not clear."""
    entries = [_entry("", part, buckets, problems) for part in (node.items if isinstance(node.value, list) else [node])]
    known = [entry for entry in entries if entry is not None]
    if not known or len(known) < len(entries):
        if not entries:
            problems.add(node, "must name a bucket", "Write 7, 0-1023, or a list of these.")
        return None
    return sorted({bucket for entry in known for bucket in range(entry.first, entry.last + 1)})


def _written(owners: YamlNode) -> Iterator[tuple[str, YamlNode]]:
    for shard, node in owners.fields.items():
        for part in node.items if isinstance(node.value, list) else [node]:
            yield str(shard), part


def _entry(shard: str, node: YamlNode, buckets: int, problems: Problems) -> _Entry | None:
    match = _BUCKETS.fullmatch(node.text) if isinstance(node.value, str | int) else None
    if match is None:
        problems.add(node, "is neither a bucket nor a range of buckets", "Write 7, 0-1023, or a list of these.")
        return None
    first = int(match[1])
    last = int(match[2]) if match[2] else first
    if first > last:
        problems.add(node, f"the range {first}-{last} goes backwards", f"Write {last}-{first}.")
        return None
    if last >= buckets:
        problems.add(node, f"bucket {last} does not exist", f"There are {buckets} buckets: 0 to {buckets - 1}.")
        return None
    return _Entry(first, last, shard, node)


def _claim(shards: list[str | None], entry: _Entry, problems: Problems) -> bool:
    """Give the entry's buckets to its shard; those that have an owner already are a problem."""
    taken = [bucket for bucket in range(entry.first, entry.last + 1) if shards[bucket] is not None]
    if taken:
        others = " and ".join(dict.fromkeys(str(shards[bucket]) for bucket in taken))
        again = " twice" if others == entry.shard else f" and by {entry.shard}"
        message = f"{_span(taken[0], taken[-1])} {'is' if len(taken) == 1 else 'are'} owned by {others}{again}"
        problems.add(entry.node, message, "Every bucket has exactly one owner.")
        return False
    shards[entry.first : entry.last + 1] = [entry.shard] * (entry.last - entry.first + 1)
    return True


def _span(first: int, last: int) -> str:
    return f"bucket {first}" if first == last else f"buckets {first}-{last}"


def _gaps(shards: list[str | None]) -> Iterator[str]:
    start: int | None = None
    for bucket, shard in enumerate([*shards, "end"]):
        if shard is None and start is None:
            start = bucket
        elif shard is not None and start is not None:
            yield str(start) if start == bucket - 1 else f"{start}-{bucket - 1}"
            start = None
