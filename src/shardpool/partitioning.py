"""Partitionings map keys to buckets and know nothing of shards: `Hash`, `Range`, `List`.

A bucket is a number from 0 to `bucket_count - 1`. What a value must be to be a key is said in `keys.py`.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, TypeVar, assert_never

from .errors import InvalidKey, KeyNotCovered, nearest
from .hashing import HashFunction, hash_key
from .keys import (
    ENCODING_VERSION,
    KEY_TYPES,
    LONGEST_SHOWN,
    KeyPart,
    KeyType,
    KeyValue,
    canonical_key,
    encode_key,
    key_parts,
    key_text,
    shown,
)
from .lookups import bigint_batch, hash_lookup, list_lookup, range_lookup

__all__ = [
    "ENCODING_VERSION",
    "KEY_TYPES",
    "MAX_BUCKETS",
    "Hash",
    "HashFunction",
    "KeyPart",
    "KeyType",
    "KeyValue",
    "List",
    "Partitioning",
    "Range",
    "canonical_key",
    "encode_key",
    "key_text",
    "make_lookup",
]

T = TypeVar("T")

MAX_BUCKETS = 65536
_LONGEST_NAMED_LIST = 20


@dataclass(frozen=True)
class Hash:
    """Bucket = hash of the encoded key mod `buckets`; pinned key i has the bucket `buckets + i` to itself.

    Raises `ValueError` when a pinned key is no key, or twice there, or `buckets` is not 1 to 65536.
    """

    key_types: tuple[KeyType, ...]
    function: HashFunction = "murmur3"
    buckets: int = 4096
    pinned: tuple[KeyValue, ...] = ()

    def __post_init__(self) -> None:
        _check_key_types(self.key_types)
        if self.function not in ("murmur3", "postgres"):
            raise ValueError(f"unknown hash function {shown(self.function)}: murmur3 or postgres")
        if type(self.buckets) is not int or not 1 <= self.buckets <= MAX_BUCKETS:
            raise ValueError(f"buckets must be 1 to {MAX_BUCKETS}, not {shown(self.buckets)}")
        object.__setattr__(self, "pinned", _distinct_keys(self.pinned, self.key_types, "pinned key"))

    @property
    def bucket_count(self) -> int:
        return self.buckets + len(self.pinned)

    @cached_property
    def bucket_by_pinned(self) -> Mapping[KeyValue, int]:
        """The buckets of the pinned keys, which are canonical."""
        return {key: self.buckets + at for at, key in enumerate(self.pinned)}

    def bucket(self, key: object) -> int:
        """The key's bucket; raises `InvalidKey`."""
        value = canonical_key(key, self.key_types)
        pinned = self.bucket_by_pinned.get(value)
        return self.hash_bucket(value) if pinned is None else pinned

    def hash_bucket(self, key: KeyValue) -> int:
        """The bucket that a canonical key has by its hash, pinned or not."""
        return hash_key(key, self.key_types, self.function) % self.buckets

    def describe_bucket(self, bucket: int) -> str:
        """The bucket in words; raises `IndexError` when there is none of that number."""
        _check_bucket(bucket, self.bucket_count)
        if bucket >= self.buckets:
            return f"pinned key {_shown_key(self.pinned[bucket - self.buckets])}"
        return f"hash bucket {bucket} of {self.buckets}"

    def bucket_in(self, other: Partitioning, bucket: int) -> int | None:
        """The bucket of `other` that holds exactly the keys of this one's `bucket`, or None."""
        _check_bucket(bucket, self.bucket_count)
        if not isinstance(other, Hash) or other.key_types != self.key_types:
            return None
        if bucket >= self.buckets:
            return other.bucket_by_pinned.get(self.pinned[bucket - self.buckets])
        if (other.function, other.buckets) != (self.function, self.buckets):
            return None
        return None if bucket in self._buckets_pinned_apart(other) else bucket

    def _buckets_pinned_apart(self, other: Hash) -> set[int]:
        apart = self.bucket_by_pinned.keys() ^ other.bucket_by_pinned.keys()
        return {self.hash_bucket(key) for key in apart}


@dataclass(frozen=True)
class Range:
    """Bucket i holds the keys from `bounds[i - 1]`, included, to `bounds[i]`, excluded; a last bound of None is no end.

    Text is compared by code point, as PostgreSQL's collation "C" does. Raises `ValueError` when bounds do not ascend.
    """

    key_types: tuple[KeyType, ...]
    bounds: tuple[KeyValue | None, ...]

    def __post_init__(self) -> None:
        _check_key_types(self.key_types)
        if len(self.key_types) != 1:
            raise ValueError("a range has a key of one part")
        if not 1 <= len(self.bounds) <= MAX_BUCKETS:
            raise ValueError(f"a range has 1 to {MAX_BUCKETS} bounds")
        finite = self.bounds[:-1] if self.bounds[-1] is None else self.bounds
        ends = _distinct_keys(finite, self.key_types, "bound")
        for low, high in pairwise(ends):
            if not _precedes(low, high):
                raise ValueError(f"bounds must ascend: {_shown_key(high)} comes after {_shown_key(low)}")
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
                f"no range holds the key {_shown_key(value)}",
                hint=f"The ranges end below {_shown_key(self.ends[-1])}; add one to the topology.",
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
        _check_bucket(bucket, self.bucket_count)
        return (self.bounds[bucket - 1] if bucket else None), self.bounds[bucket]

    def describe_bucket(self, bucket: int) -> str:
        """The bucket in words; raises `IndexError` when there is none of that number."""
        match self.interval(bucket):
            case None, None:
                return "every key"
            case None, high:
                return f"keys below {_shown_key(high)}"
            case low, None:
                return f"keys from {_shown_key(low)}"
            case low, high:
                return f"keys from {_shown_key(low)} to below {_shown_key(high)}"

    def bucket_in(self, other: Partitioning, bucket: int) -> int | None:
        """The bucket of `other` that holds exactly the keys of this one's `bucket`, or None."""
        interval = self.interval(bucket)
        if not isinstance(other, Range) or other.key_types != self.key_types:
            return None
        return other._bucket_by_interval.get(interval)

    @cached_property
    def _bucket_by_interval(self) -> Mapping[tuple[KeyValue | None, KeyValue | None], int]:
        return {self.interval(bucket): bucket for bucket in range(self.bucket_count)}


@dataclass(frozen=True)
class List:
    """Bucket i holds the one key `values[i]`; with `default` a last bucket holds all keys that are not listed.

    Raises `ValueError` when a value is no key or twice there, or nothing is listed and there is no default.
    """

    key_types: tuple[KeyType, ...]
    values: tuple[KeyValue, ...]
    default: bool = False

    def __post_init__(self) -> None:
        _check_key_types(self.key_types)
        object.__setattr__(self, "values", _distinct_keys(self.values, self.key_types, "listed value"))
        if not 1 <= self.bucket_count <= MAX_BUCKETS:
            raise ValueError(f"a list has 1 to {MAX_BUCKETS} values, its default counted")

    @property
    def bucket_count(self) -> int:
        return len(self.values) + self.default

    @cached_property
    def bucket_by_value(self) -> Mapping[KeyValue, int]:
        """The buckets of the listed values, which are canonical."""
        return {value: bucket for bucket, value in enumerate(self.values)}

    def bucket(self, key: object) -> int:
        """The key's bucket; raises `InvalidKey`, and `KeyNotCovered` for a key not listed without a default."""
        value = canonical_key(key, self.key_types)
        bucket = self.bucket_by_value.get(value)
        if bucket is not None:
            return bucket
        if self.default:
            return len(self.values)
        raise KeyNotCovered(
            f"the key {_shown_key(value)} is not listed",
            hint=self._hint(value) + " Or give the keyspace a default.",
        )

    def _hint(self, value: KeyValue) -> str:
        # The nearest of 100 names takes 5 ms to find: too long for each key of a batch that is not listed.
        if len(self.values) > _LONGEST_NAMED_LIST:
            return f"{len(self.values)} values are listed, from {_shown_key(self.values[0])} on."
        return nearest(_shown_key(value), map(_shown_key, self.values))

    def describe_bucket(self, bucket: int) -> str:
        """The bucket in words; raises `IndexError` when there is none of that number."""
        _check_bucket(bucket, self.bucket_count)
        if bucket == len(self.values):
            return "every key that is not listed"
        return f"key {_shown_key(self.values[bucket])}"

    def bucket_in(self, other: Partitioning, bucket: int) -> int | None:
        """The bucket of `other` that holds exactly the keys of this one's `bucket`, or None."""
        _check_bucket(bucket, self.bucket_count)
        if not isinstance(other, List) or other.key_types != self.key_types:
            return None
        if bucket < len(self.values):
            return other.bucket_by_value.get(self.values[bucket])
        same = other.default and other.bucket_by_value.keys() == self.bucket_by_value.keys()
        return len(other.values) if same else None


Partitioning = Hash | Range | List


def make_lookup(partitioning: Partitioning, targets: Sequence[T]) -> Callable[[Any], T]:
    """`lookup(key)`, which gives `targets[partitioning.bucket(key)]` and raises what `bucket` raises, but sooner.

    Keys of the canonical type take a path of their own: a bigint by murmur3 takes 0.13 µs. Raises `ValueError` when
    there are not as many targets as buckets.
    """
    if len(targets) != partitioning.bucket_count:
        raise ValueError(f"{len(targets)} targets for {partitioning.bucket_count} buckets")
    kept = tuple(targets)

    def coerced(key: Any) -> T:
        return kept[partitioning.bucket(key)]

    match partitioning:
        case Hash(function="postgres"):
            return coerced
        case Hash(key_types, _, buckets):
            return hash_lookup(key_types, buckets, partitioning.bucket_by_pinned, kept, coerced)
        case Range(key_types):
            return range_lookup(key_types[0], partitioning.ends, kept, coerced)
        case List(key_types):
            return list_lookup(key_types, partitioning.bucket_by_value, kept, coerced)
        case _:
            assert_never(partitioning)


def make_batch_lookup(partitioning: Partitioning, targets: Sequence[T]) -> Callable[[Sequence[Any]], list[T]]:
    """`lookup(keys)`, which gives the target of each key; raises what `make_lookup`'s does, for the first bad key."""
    lookup = make_lookup(partitioning, targets)
    if isinstance(partitioning, Hash) and partitioning.key_types == ("bigint",) and partitioning.function == "murmur3":
        return bigint_batch(partitioning.buckets, partitioning.bucket_by_pinned, tuple(targets), lookup)
    return lambda keys: [lookup(key) for key in keys]


def _check_key_types(key_types: tuple[KeyType, ...]) -> None:
    if not key_types:
        raise ValueError("a key has at least one part")
    for key_type in key_types:
        if key_type not in KEY_TYPES:
            raise ValueError(f"unknown key type {shown(key_type)}: {nearest(str(key_type), KEY_TYPES)}")


def _distinct_keys(values: Iterable[object], key_types: tuple[KeyType, ...], what: str) -> tuple[KeyValue, ...]:
    keys: dict[KeyValue, None] = {}
    for value in values:
        try:
            key = canonical_key(value, key_types)
        except InvalidKey as error:
            raise ValueError(f"{what}: {error.message}") from error
        if key in keys:
            raise ValueError(f"{what} {_shown_key(key)} is there twice")
        keys[key] = None
    return tuple(keys)


def _precedes(low: Any, high: Any) -> bool:
    return bool(low < high)


def _check_bucket(bucket: int, count: int) -> None:
    if not 0 <= bucket < count:
        raise IndexError(f"no bucket {bucket}: they are 0 to {count - 1}")


def _shown_key(key: KeyValue | None) -> str:
    if key is None:
        return ""
    text = ", ".join(repr(part) if isinstance(part, str) else key_text(part) for part in key_parts(key))
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"
