"""Range: a bucket holds the keys between two bounds. Python and its twin in SQL. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, cast

from ..errors import KeyNotCovered
from ..keys import EXACT_TYPES, KeyType, KeyValue, canonical_key, plain_key
from ..patches import Operation, Path, Put
from .sql import array, collated
from .strategy import (
    MAX_BUCKETS,
    Lookup,
    Partitioning,
    Piece,
    T,
    check_bucket,
    check_key_types,
    distinct_keys,
    shown_key,
    written_key,
)

_MIN, _MAX = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class Range(Partitioning):
    """Bucket i holds the keys from `bounds[i - 1]`, included, to `bounds[i]`, excluded; a last bound of None is no end.

    Text is compared by code point, as PostgreSQL's collation "C" does. Raises `ValueError` when bounds do not ascend.
    """

    kind = "range"
    is_ordered = True

    key_types: tuple[KeyType, ...]
    bounds: tuple[KeyValue | None, ...]

    def __post_init__(self) -> None:
        check_key_types(self.key_types)
        if len(self.key_types) != 1:
            raise ValueError("a range has a key of one part")
        if not 1 <= len(self.bounds) <= MAX_BUCKETS:
            raise ValueError(f"a range has 1 to {MAX_BUCKETS} bounds")
        finite = self.bounds[:-1] if self.bounds[-1] is None else self.bounds
        ends = distinct_keys(finite, self.key_types, "bound")
        for low, high in pairwise(ends):
            if not cast(Any, low) < cast(Any, high):
                raise ValueError(f"bounds must ascend: {shown_key(high)} comes after {shown_key(low)}")
        object.__setattr__(self, "bounds", (*ends, None) if self.is_unbounded else ends)

    @property
    def bucket_count(self) -> int:
        return len(self.bounds)

    @property
    def is_unbounded(self) -> bool:
        """Whether the last interval has no end."""
        return self.bounds[-1] is None

    @cached_property
    def ends(self) -> tuple[Any, ...]:
        """The bounds that are keys; all but the last when that is None."""
        return self.bounds[:-1] if self.is_unbounded else self.bounds

    def bucket(self, key: object) -> int:
        """The key's interval; raises `InvalidKey`, and `KeyNotCovered` at or above the last bound."""
        value = canonical_key(key, self.key_types)
        bucket = bisect_right(self.ends, value)
        if bucket == len(self.bounds):
            raise KeyNotCovered(
                f"no range holds the key {shown_key(value)}",
                hint=f"The ranges end below {shown_key(self.ends[-1])}; add one to the topology.",
            )
        return bucket

    def buckets_between(self, low: object = None, high: object = None) -> range:
        """The buckets with keys from `low`, included, to `high`, excluded; None is no limit. Raises `InvalidKey`.

        Only buckets that exist are given: keys at or above a last bound have none, and `covers` says so.
        """
        first = 0 if low is None else bisect_right(self.ends, self._end(low))
        last = len(self.bounds) if high is None else bisect_left(self.ends, self._end(high)) + 1
        if low is not None and high is not None and not self._end(low) < self._end(high):
            return range(0)
        return range(first, max(first, min(last, len(self.bounds))))

    def covers(self, high: object = None) -> bool:
        """Whether every key below `high` (None: every key) has a bucket. Raises `InvalidKey`."""
        return self.is_unbounded or (high is not None and bool(self._end(high) <= self.ends[-1]))

    def _end(self, key: object) -> Any:
        return canonical_key(key, self.key_types)

    def interval(self, bucket: int) -> tuple[KeyValue | None, KeyValue | None]:
        """The bucket's lowest key and the first key above it; None is no limit. Raises `IndexError`."""
        check_bucket(bucket, self.bucket_count)
        return (self.bounds[bucket - 1] if bucket else None), self.bounds[bucket]

    def describe_bucket(self, bucket: int) -> str:
        """The bucket in words; raises `IndexError` when there is none of that number."""
        match self.interval(bucket):
            case None, None:
                return "every key"
            case None, high:
                return f"keys below {shown_key(high)}"
            case low, None:
                return f"keys from {shown_key(low)}"
            case low, high:
                return f"keys from {shown_key(low)} to below {shown_key(high)}"

    def bucket_in(self, other: Partitioning, bucket: int) -> int | None:
        """The bucket of `other` that holds exactly the keys of this one's `bucket`, or None."""
        interval = self.interval(bucket)
        if not isinstance(other, Range) or other.key_types != self.key_types:
            return None
        return other.bucket_by_interval.get(interval)

    @cached_property
    def bucket_by_interval(self) -> Mapping[tuple[KeyValue | None, KeyValue | None], int]:
        return {self.interval(bucket): bucket for bucket in range(self.bucket_count)}

    def buckets_compared(self, operator: str, key: KeyValue) -> range:
        every = range(self.bucket_count)
        if operator in (">", ">="):
            return every[bisect_right(self.ends, key) :]
        last = bisect_right(self.ends, key) if operator == "<=" else bisect_left(self.ends, key)
        return every[: last + 1]

    def fast_lookup(self, targets: Sequence[T], coerced: Lookup[T]) -> Lookup[T]:
        return _range_lookup(self.key_types[0], self.ends, targets, coerced)

    def _bucket_sql(self, columns: Sequence[str]) -> str:
        if not self.ends:
            return "0"
        key_type = self.key_types[0]
        # width_bucket counts the bounds that are not above the key, by binary search.
        number = f"pg_catalog.width_bucket({collated(columns[0], key_type)}, {array(self.ends, key_type)})"
        return number if self.is_unbounded else f"NULLIF({number}, {len(self.bounds)})"

    def variable(self) -> dict[str, Any]:
        return {"bounds": self.bounds}

    @property
    def special_keys(self) -> tuple[KeyValue | None, ...]:
        return self.bounds

    def pieces(self, after: Range) -> Iterator[Piece]:
        """Each piece between two ends of either; the pieces below the first and above the last end are among them."""
        ends: list[Any] = sorted({*self.ends, *after.ends})
        for start, end in zip([None, *ends], [*ends, None], strict=True):
            if start is None:
                yield Piece(f"keys below {plain_key(end)}" if end is not None else "every key", 0, 0)
                continue
            what = f"keys from {plain_key(start)}" + ("" if end is None else f" to below {plain_key(end)}")
            yield Piece(what, self.bucket_or_none(start), after.bucket_or_none(start))

    def written_move(self, buckets: Sequence[int], ranges: Sequence[tuple[int, int]]) -> Mapping[str, Any] | None:
        if len(ranges) > 1:
            return None
        ends = {"from": self.interval(buckets[0])[0], "below": self.interval(buckets[-1])[1]}
        return {"range": {name: written_key(key) for name, key in ends.items() if key is not None}}

    def drained(
        self,
        fields: Mapping[str, Any],
        root: Path,
        shard_by_bucket: Sequence[str],
        name: str,
        others: Sequence[str],
        lost: Sequence[int],
    ) -> Iterator[Operation]:
        for number, at in enumerate(lost):
            yield Put((*root, "range", at, "shard"), others[number % len(others)])

    def written(self, shard_by_bucket: Sequence[str]) -> dict[str, Any]:
        return {
            "range": [
                {**({} if bound is None else {"below": written_key(bound)}), "shard": shard}
                for bound, shard in zip(self.bounds, shard_by_bucket, strict=True)
            ]
        }

    @staticmethod
    def shard_places(fields: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
        yield from ((("range", at, "shard"), entry.get("shard")) for at, entry in enumerate(fields.get("range") or []))


def _range_lookup(key_type: KeyType, ends: Sequence[Any], targets: Sequence[T], coerced: Lookup[T]) -> Lookup[T]:
    """The lookup of a range whose finite bounds are `ends`; keys above the last are refused by `coerced`."""
    if key_type == "bigint":
        return _bigint_range(ends, targets, coerced)
    if key_type in ("text", "timestamptz"):  # text may hold what PostgreSQL's cannot, a datetime lack its zone
        return coerced
    exact = EXACT_TYPES[key_type]
    count = len(targets)

    def lookup(key: Any) -> T:
        if type(key) is exact and (bucket := bisect_right(ends, key)) < count:
            return targets[bucket]
        return coerced(key)

    return lookup


def _bigint_range(ends: Sequence[Any], targets: Sequence[T], coerced: Lookup[T]) -> Lookup[T]:
    count = len(targets)

    def lookup(key: Any) -> T:
        if type(key) is int and _MIN <= key <= _MAX and (bucket := bisect_right(ends, key)) < count:
            return targets[bucket]
        return coerced(key)

    return lookup
