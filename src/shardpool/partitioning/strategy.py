"""What every strategy of partitioning gives: a key's bucket in Python and in SQL, and what depends on that. Pure.

A bucket is a number from 0 to `bucket_count - 1`; of shards a strategy knows only where the file names
them. What a value must be to be a key is said in `keys.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

from ..errors import InvalidKey, KeyNotCovered, nearest
from ..keys import (
    ENCODING_VERSION,
    KEY_TYPES,
    LONGEST_SHOWN,
    KeyType,
    KeyValue,
    canonical_key,
    key_parts,
    key_text,
    shown,
)
from ..patches import Operation, Path
from .sql import guard

T = TypeVar("T")
Lookup = Callable[[Any], T]

MAX_BUCKETS = 65536


class Piece(NamedTuple):
    """Keys that are in one bucket before a change and in one after it; None is no bucket. `what` says which keys."""

    what: str
    before: int | None
    after: int | None


class Partitioning(ABC):
    """A strategy with its values: it maps keys to buckets.

    `kind` is its name in the file, `owner_path` where a keyspace of the file has a mapping by shard. `is_ordered`: a
    bucket holds the keys between two, and `buckets_between` can be asked.
    """

    kind: ClassVar[str]
    owner_path: ClassVar[Path] = ()
    is_ordered: ClassVar[bool] = False
    key_types: tuple[KeyType, ...]

    # -- keys ----------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def bucket_count(self) -> int:
        """How many buckets there are."""

    @abstractmethod
    def bucket(self, key: object) -> int:
        """The key's bucket; raises `InvalidKey`, and `KeyNotCovered` for a key that none holds."""

    def bucket_or_none(self, key: object) -> int | None:
        """The key's bucket; None for a key that none holds. Raises `InvalidKey`."""
        try:
            return self.bucket(key)
        except KeyNotCovered:
            return None

    @abstractmethod
    def describe_bucket(self, bucket: int) -> str:
        """The bucket in words; raises `IndexError` when there is none of that number."""

    @abstractmethod
    def bucket_in(self, other: Partitioning, bucket: int) -> int | None:
        """The bucket of `other` that holds exactly the keys of this one's `bucket`, or None."""

    @abstractmethod
    def fast_lookup(self, targets: Sequence[T], coerced: Lookup[T]) -> Lookup[T]:
        """`make_lookup`'s closure: the target of a key of the exact type, `coerced` for all that it does not know."""

    def batch_lookup(self, targets: Sequence[T], lookup: Lookup[T]) -> Callable[[Sequence[Any]], list[T]]:
        """`make_batch_lookup`'s closure; `lookup` is that of one key."""
        return lambda keys: list(map(lookup, keys))

    def buckets_between(self, low: object = None, high: object = None) -> range:
        """The buckets with keys from `low`, included, to `high`, excluded, where the strategy `is_ordered`."""
        raise TypeError(f"{self.kind} has no order of keys")

    def buckets_compared(self, operator: str, key: KeyValue) -> range:
        """The buckets with keys that are `<`, `<=`, `>` or `>=` than one, where the strategy `is_ordered`."""
        raise TypeError(f"{self.kind} has no order of keys")

    # -- SQL -----------------------------------------------------------------------------------------------------

    def bucket_expression(self, columns: Sequence[str]) -> str:
        """The bucket of the key in these columns (SQL expressions of the key types), as an integer.

        NULL where `bucket` raises: a NULL part, a key that no bucket holds, a date that Python cannot write.
        """
        checks = " AND ".join(map(guard, columns, self.key_types))
        return f"CASE WHEN {checks} THEN ({self._bucket_sql(columns)})::integer END"

    @abstractmethod
    def _bucket_sql(self, columns: Sequence[str]) -> str:
        """`bucket` as SQL, for keys that Python can have."""

    # -- what it is, to be stored and compared -------------------------------------------------------------------

    def contract(self) -> dict[str, Any]:
        """How keys become buckets, as far as it never changes: pins, bounds and listed keys may, and are not in it."""
        return {
            "kind": self.kind,
            "key_types": [*self.key_types],
            "encoding": ENCODING_VERSION,
            **self.fixed(),
        }

    def fixed(self) -> dict[str, Any]:
        """What of its values never changes."""
        return {}

    @abstractmethod
    def variable(self) -> dict[str, Any]:
        """What of its values may change: keys, in their order, and facts."""

    @property
    @abstractmethod
    def special_keys(self) -> tuple[KeyValue | None, ...]:
        """The keys by which it differs from another of the same contract; None is whatever is not among the others."""

    @abstractmethod
    def pieces(self, after: Any) -> Iterator[Piece]:
        """All keys, in pieces that have one bucket in this one and one in `after`, which is of the same contract."""

    # -- moves ---------------------------------------------------------------------------------------------------

    @property
    def bucket_by_own_key(self) -> Mapping[KeyValue, int]:
        """The keys that have a bucket to themselves, which are canonical."""
        return {}

    @abstractmethod
    def written_move(self, buckets: Sequence[int], ranges: Sequence[tuple[int, int]]) -> Mapping[str, Any] | None:
        """Ascending buckets, which are these ranges, as a move in the file has them; None where one cannot say them."""

    # -- the file ------------------------------------------------------------------------------------------------

    @abstractmethod
    def drained(
        self,
        fields: Mapping[str, Any],
        root: Path,
        shard_by_bucket: Sequence[str],
        name: str,
        others: Sequence[str],
        lost: Sequence[int],
    ) -> Iterator[Operation]:
        """The buckets `lost` of shard `name` go to the others, evenly, in a keyspace's `fields` at `root`."""

    @abstractmethod
    def written(self, shard_by_bucket: Sequence[str]) -> dict[str, Any]:
        """What a keyspace's fields say of it and of the owners of its buckets, but for its key and its tables."""

    @staticmethod
    @abstractmethod
    def shard_places(fields: Mapping[str, Any]) -> Iterator[tuple[Path, Any]]:
        """Where a keyspace's `fields` name a shard as a value, and that shard."""


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

    return partitioning.fast_lookup(kept, coerced)


def make_batch_lookup(partitioning: Partitioning, targets: Sequence[T]) -> Callable[[Sequence[Any]], list[T]]:
    """`lookup(keys)`, which gives the target of each key; raises what `make_lookup`'s does, for the first bad key."""
    return partitioning.batch_lookup(tuple(targets), make_lookup(partitioning, targets))


def check_key_types(key_types: tuple[KeyType, ...]) -> None:
    """Raise `ValueError` for what are no types of a key."""
    if not key_types:
        raise ValueError("a key has at least one part")
    for key_type in key_types:
        if key_type not in KEY_TYPES:
            raise ValueError(f"unknown key type {shown(key_type)}: {nearest(str(key_type), KEY_TYPES)}")


def distinct_keys(values: Iterable[object], key_types: tuple[KeyType, ...], what: str) -> tuple[KeyValue, ...]:
    """The canonical keys; raises `ValueError` for a value that is none, or is there twice."""
    keys: dict[KeyValue, None] = {}
    for value in values:
        try:
            key = canonical_key(value, key_types)
        except InvalidKey as error:
            raise ValueError(f"{what}: {error.message}") from error
        if key in keys:
            raise ValueError(f"{what} {shown_key(key)} is there twice")
        keys[key] = None
    return tuple(keys)


def check_bucket(bucket: int, count: int) -> None:
    """Raise `IndexError` when there is no bucket of that number."""
    if not 0 <= bucket < count:
        raise IndexError(f"no bucket {bucket}: they are 0 to {count - 1}")


def shown_key(key: KeyValue | None) -> str:
    """A key as messages show it; nothing for None."""
    if key is None:
        return ""
    text = ", ".join(repr(part) if isinstance(part, str) else key_text(part) for part in key_parts(key))
    return text if len(text) <= LONGEST_SHOWN else text[: LONGEST_SHOWN - 1] + "…"


def dealt(items: Sequence[Any], shares: int) -> list[Sequence[Any]]:
    """In as many runs as there are shares, as even as can be."""
    ends = [len(items) * number // shares for number in range(shares + 1)]
    return [items[ends[number] : ends[number + 1]] for number in range(shares)]


def written_key(key: KeyValue) -> Any:
    """A canonical key as the file has it."""
    parts = [part if isinstance(part, int) else key_text(part) for part in key_parts(key)]
    return parts[0] if len(parts) == 1 else parts
