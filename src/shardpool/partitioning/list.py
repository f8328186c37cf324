"""List: a bucket holds one key, the last one all that are not listed. Python and its twin in SQL. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import KeyNotCovered, nearest
from ..keys import EXACT_TYPES, KeyType, KeyValue, canonical_key, plain_key
from ..patches import Insert, Operation, Path, Put, Remove
from .sql import position
from .strategy import (
    MAX_BUCKETS,
    Lookup,
    Partitioning,
    Piece,
    T,
    check_bucket,
    check_key_types,
    dealt,
    distinct_keys,
    shown_key,
    written_key,
)

_LONGEST_NAMED_LIST = 20


@dataclass(frozen=True)
class List(Partitioning):
    """Bucket i holds the one key `values[i]`; with `default` a last bucket holds all keys that are not listed.

    Raises `ValueError` when a value is no key or twice there, or nothing is listed and there is no default.
    """

    kind = "list"
    owner_path = ("list",)

    key_types: tuple[KeyType, ...]
    values: tuple[KeyValue, ...]
    default: bool = False

    def __post_init__(self) -> None:
        check_key_types(self.key_types)
        object.__setattr__(self, "values", distinct_keys(self.values, self.key_types, "listed value"))
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
            f"the key {shown_key(value)} is not listed",
            hint=self._hint(value) + " Or give the keyspace a default.",
        )

    def _hint(self, value: KeyValue) -> str:
        # The nearest of 100 names takes 5 ms to find: too long for each key of a batch that is not listed.
        if len(self.values) > _LONGEST_NAMED_LIST:
            return f"{len(self.values)} values are listed, from {shown_key(self.values[0])} on."
        return nearest(shown_key(value), map(shown_key, self.values))

    def describe_bucket(self, bucket: int) -> str:
        """The bucket in words; raises `IndexError` when there is none of that number."""
        check_bucket(bucket, self.bucket_count)
        if bucket == len(self.values):
            return "every key that is not listed"
        return f"key {shown_key(self.values[bucket])}"

    def bucket_in(self, other: Partitioning, bucket: int) -> int | None:
        """The bucket of `other` that holds exactly the keys of this one's `bucket`, or None."""
        check_bucket(bucket, self.bucket_count)
        if not isinstance(other, List) or other.key_types != self.key_types:
            return None
        if bucket < len(self.values):
            return other.bucket_by_value.get(self.values[bucket])
        same = other.default and other.bucket_by_value.keys() == self.bucket_by_value.keys()
        return len(other.values) if same else None

    def fast_lookup(self, targets: Sequence[T], coerced: Lookup[T]) -> Lookup[T]:
        return _list_lookup(self.key_types, self.bucket_by_value, targets, coerced)

    def _bucket_sql(self, columns: Sequence[str]) -> str:
        default = len(self.values)
        if not self.values:
            return str(default)
        number = position(self.values, self.key_types, columns)
        return f"COALESCE({number}, {default})" if self.default else number

    def variable(self) -> dict[str, Any]:
        return {"values": self.values, "default": self.default}

    @property
    def special_keys(self) -> tuple[KeyValue | None, ...]:
        return (*self.values, None) if self.default else self.values

    def pieces(self, after: List) -> Iterator[Piece]:
        for key in dict.fromkeys([*self.values, *after.values]):
            yield Piece(f"key {plain_key(key)}", self.bucket_or_none(key), after.bucket_or_none(key))
        yield Piece("every other key", self._default_bucket, after._default_bucket)

    @property
    def _default_bucket(self) -> int | None:
        return len(self.values) if self.default else None

    @property
    def bucket_by_own_key(self) -> Mapping[KeyValue, int]:
        return self.bucket_by_value

    def written_move(self, buckets: Sequence[int], ranges: Sequence[tuple[int, int]]) -> Mapping[str, Any] | None:
        if buckets[-1] < len(self.values):
            return {"keys": [written_key(self.values[bucket]) for bucket in buckets]}
        return {"default": True} if len(buckets) == 1 else None

    def drained(
        self,
        fields: Mapping[str, Any],
        root: Path,
        shard_by_bucket: Sequence[str],
        name: str,
        others: Sequence[str],
        lost: Sequence[int],
    ) -> Iterator[Operation]:
        written = fields["list"].get(name) or []
        # Keys are numbered through the shards, in the order of the file.
        mine = [at for at, shard in enumerate(shard_by_bucket[: len(self.values)]) if shard == name]
        numbers = [number for number, at in enumerate(mine) if at in set(lost)]
        for target, share in zip(others, dealt(numbers, len(others)), strict=True):
            gained = [written[number] for number in share]
            there = fields["list"].get(target)
            if gained and there is None:
                yield Put((*root, "list", target), gained)
            elif gained:
                for number, key in enumerate(gained):
                    yield Insert((*root, "list", target), len(there) + number, key)
        if name in fields["list"] and len(numbers) == len(mine):
            yield Remove((*root, "list", name))
        else:
            for number in reversed(numbers):
                yield Remove((*root, "list", name, number))
        if len(self.values) in lost:
            yield Put((*root, "default"), others[0])

    def written(self, shard_by_bucket: Sequence[str]) -> dict[str, Any]:
        keys: dict[str, list[Any]] = {}
        for value, shard in zip(self.values, shard_by_bucket, strict=False):
            keys.setdefault(shard, []).append(written_key(value))
        return {"list": keys, **({"default": shard_by_bucket[-1]} if self.default else {})}

    @staticmethod
    def shard_places(fields: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
        if "default" in fields:
            yield ("default",), fields["default"]


def _list_lookup(
    key_types: tuple[KeyType, ...], buckets: Mapping[Any, int], targets: Sequence[T], coerced: Lookup[T]
) -> Lookup[T]:
    """The lookup of a list; keys that are not listed go to `coerced`, for the default or the refusal."""
    if len(key_types) > 1 or key_types[0] == "timestamptz":
        return coerced
    exact = EXACT_TYPES[key_types[0]]

    def lookup(key: Any) -> T:
        if type(key) is exact and (bucket := buckets.get(key)) is not None:
            return targets[bucket]
        return coerced(key)

    return lookup
