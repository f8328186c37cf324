"""What the fleet is, as values: shards and their endpoints, keyspaces and their owners, tables and where they live.

Everything here is frozen and pure. `config.py` makes a `Topology` from a file; a router holds one and swaps it whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Literal, NoReturn

from .errors import MissingKey, UnknownKeyspace, UnknownShard, UnknownTable, nearest, shown
from .owner_map import map_digest
from .partitioning import KeyType, Partitioning

Role = Literal["primary", "replica", "node"]
Pooler = Literal["none", "session", "transaction"]
Control = Literal["required", "none"]
Reset = Literal["dirty", "always", "never"]


class Secret:
    """A password that no repr, log or error shows; `reveal()` is called only where a connection is made."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a password is not pickled: hand on the path of the topology file, or read it again there")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Size and ages of one endpoint's pool; times in seconds. `max_waiting` callers may queue beyond `max_size`.

    `reset` says when a session is reset before its next caller; see `Endpoint.reset`.
    """

    min_size: int = 0
    max_size: int = 10
    max_waiting: int = 1000
    max_lifetime: float = 3600.0
    max_idle: float = 600.0
    reset: Reset | None = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place to connect to. `params` are libpq keywords other than the password, sorted by name.

    A `node` is a primary or a replica: which of them is found by asking it.
    """

    name: str
    role: Role
    params: tuple[tuple[str, str], ...]
    password: Secret | None = None
    password_file: str | None = None
    max_lag: float | None = None
    pooler: Pooler = "none"
    pool: PoolSettings = field(default_factory=PoolSettings)

    def param(self, keyword: str, default: str = "") -> str:
        """The value of a libpq keyword, or the default."""
        return dict(self.params).get(keyword, default)

    @property
    def reset(self) -> Reset:
        """When a session is reset before its next caller; behind a transaction pooler it is nobody's, and never is."""
        return self.pool.reset or ("never" if self.pooler == "transaction" else "dirty")

    @property
    def address(self) -> str:
        """`host:port/dbname`, for people; never a password."""
        return f"{self.param('host', 'localhost')}:{self.param('port', '5432')}/{self.param('dbname')}"


@dataclass(frozen=True, slots=True)
class Shard:
    """One PostgreSQL database: a primary and its replicas, or nodes; the first stands in the primary's place."""

    name: str
    primary: Endpoint
    replicas: tuple[Endpoint, ...] = ()

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return (self.primary, *self.replicas)

    @property
    def finds_primary(self) -> bool:
        """Whether its endpoints are nodes of which one is the primary, found by asking."""
        return self.primary.role == "node"

    @property
    def writable(self) -> Endpoint:
        """The primary; of nodes an endpoint of all their addresses, at which libpq asks for the primary."""
        if not self.finds_primary:
            return self.primary
        defaults = {"host": "localhost", "port": "5432"}
        where = {key: ",".join(node.param(key, value) for node in self.endpoints) for key, value in defaults.items()}
        params = {**dict(self.primary.params), **where, "target_session_attrs": "primary"}
        return replace(self.primary, name="primary", role="primary", params=tuple(sorted(params.items())))


@dataclass(frozen=True, slots=True)
class OwnerRange:
    """Buckets `first` to `last`, both included, belong to `shard` since `epoch`."""

    first: int
    last: int
    shard: str
    epoch: int


@dataclass(frozen=True)
class Keyspace:
    """Tables sharded by the same partition key in the same way: equal keys are colocated.

    `partitioning` maps key to bucket; `owners`, sorted and without gap, map bucket to shard.
    `tables` maps qualified table name to its key columns, in the order of the key's parts.
    """

    name: str
    partitioning: Partitioning
    owners: tuple[OwnerRange, ...]
    tables: Mapping[str, tuple[str, ...]]

    @property
    def key_types(self) -> tuple[KeyType, ...]:
        return self.partitioning.key_types

    @cached_property
    def shard_by_bucket(self) -> tuple[str, ...]:
        """The owning shard's name of every bucket, by its number."""
        return tuple(entry.shard for entry in self.owners for _ in range(entry.first, entry.last + 1))

    @cached_property
    def epoch_by_bucket(self) -> tuple[int, ...]:
        """The epoch since which each bucket has its owner, by its number."""
        return tuple(entry.epoch for entry in self.owners for _ in range(entry.first, entry.last + 1))

    @cached_property
    def map_digest(self) -> str:
        """Which key is on which shard, to be compared; see `owner_map.map_digest`."""
        return map_digest(self.partitioning, self.shard_by_bucket)

    @cached_property
    def owning_shards(self) -> frozenset[str]:
        """The names of the shards that own a bucket."""
        return frozenset(entry.shard for entry in self.owners)

    def shard_names(self) -> tuple[str, ...]:
        """The shards that own a bucket, in the order of their first one."""
        return tuple(dict.fromkeys(entry.shard for entry in self.owners))


@dataclass(frozen=True, slots=True)
class Sharded:
    """A table whose rows are placed by key."""

    keyspace: str
    key_columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """A table with a full copy on every shard."""


@dataclass(frozen=True, slots=True)
class Single:
    """A table that lives on one named shard."""

    shard: str


Placement = Sharded | Reference | Single


def qualified(table: str) -> str:
    """`orders` → `public.orders`; a name that has a schema stays as it is."""
    return table if "." in table else f"public.{table}"


@dataclass(frozen=True)
class Topology:
    """The whole fleet at one epoch. Mappings keep the order of the file; `timeout` is in seconds."""

    fleet: str
    epoch: int
    shards: Mapping[str, Shard]
    keyspaces: Mapping[str, Keyspace] = field(default_factory=dict)
    reference_tables: tuple[str, ...] = ()
    single_tables: Mapping[str, str] = field(default_factory=dict)
    control: Control = "required"
    timeout: float = 5.0

    @cached_property
    def placements(self) -> Mapping[str, Placement]:
        """Qualified table name → where its rows are."""
        found: dict[str, Placement] = {}
        for keyspace in self.keyspaces.values():
            for table, columns in keyspace.tables.items():
                found[table] = Sharded(keyspace.name, columns)
        found.update({table: Reference() for table in self.reference_tables})
        found.update({table: Single(shard) for table, shard in self.single_tables.items()})
        return found

    def placement(self, table: str) -> Placement:
        """Where a table's rows are; raises `UnknownTable` with the nearest names."""
        try:
            return self.placements[qualified(table)]
        except KeyError:
            known = [name.removeprefix("public.") for name in self.placements]
            raise UnknownTable(
                f'table "{shown(table)}" is not in the topology of fleet {self.fleet}',
                hint=nearest(table, known),
            ) from None

    def shard(self, name: str) -> Shard:
        """A shard by name; raises `UnknownShard` with the nearest names."""
        try:
            return self.shards[name]
        except KeyError:
            raise UnknownShard(
                f'no shard "{shown(name)}" in fleet {self.fleet}', hint=nearest(name, self.shards)
            ) from None

    def keyspace(self, keyspace: str | None = None, *, table: str | None = None) -> Keyspace:
        """The keyspace of that name, of that table, or the only one there is."""
        if keyspace is not None:
            return self._keyspace_named(keyspace)
        if table is not None:
            return self._keyspace_of(table)
        if len(self.keyspaces) == 1:
            return next(iter(self.keyspaces.values()))
        raise MissingKey(
            f"fleet {self.fleet} has {len(self.keyspaces)} keyspaces, and none was named",
            hint="Pass keyspace=… or table=…. " + nearest("", self.keyspaces),
        )

    def _keyspace_named(self, name: str) -> Keyspace:
        try:
            return self.keyspaces[name]
        except KeyError:
            raise UnknownKeyspace(
                f'no keyspace "{shown(name)}" in fleet {self.fleet}', hint=nearest(name, self.keyspaces)
            ) from None

    def _keyspace_of(self, table: str) -> Keyspace:
        placement = self.placement(table)
        if not isinstance(placement, Sharded):
            kind = "a reference table" if isinstance(placement, Reference) else f"on {placement.shard} alone"
            raise MissingKey(
                f'table "{shown(table)}" is {kind}, so no key places its rows',
                hint="Use shard(name), or execute() without a key.",
            )
        return self.keyspaces[placement.keyspace]


def succeed(new: Topology, old: Topology) -> Topology:
    """The new topology with each owner entry's epoch carried over from the old where bucket and shard are unchanged.

    A move changes only its own entries, so an entry's epoch says since when the bucket is where it is.
    """
    keyspaces = {
        name: _carry_epochs(keyspace, old.keyspaces[name]) if name in old.keyspaces else keyspace
        for name, keyspace in new.keyspaces.items()
    }
    return replace(new, keyspaces=keyspaces)


def placements_differ(one: Topology, other: Topology) -> bool:
    """Whether a key or a table is anywhere else, or the set of shards is another; addresses and pools do not count."""

    def where(topology: Topology) -> object:
        keyspaces = {
            name: (keyspace.partitioning, keyspace.shard_by_bucket, dict(keyspace.tables))
            for name, keyspace in topology.keyspaces.items()
        }
        return tuple(topology.shards), keyspaces, topology.reference_tables, dict(topology.single_tables)

    return where(one) != where(other)


def _carry_epochs(new: Keyspace, old: Keyspace) -> Keyspace:
    partitioning = old.partitioning if old.partitioning == new.partitioning else new.partitioning
    epochs: list[int] = list(new.epoch_by_bucket)
    same = partitioning is old.partitioning
    for bucket, shard in enumerate(new.shard_by_bucket):
        was = bucket if same else partitioning_bucket_before(old, new, bucket)
        if was is not None and old.shard_by_bucket[was] == shard:
            epochs[bucket] = old.epoch_by_bucket[was]
    return replace(new, partitioning=partitioning, owners=owner_ranges(new.shard_by_bucket, epochs))


def partitioning_bucket_before(old: Keyspace, new: Keyspace, bucket: int) -> int | None:
    """The old keyspace's bucket with exactly the keys of the new one's `bucket`, or None."""
    return new.partitioning.bucket_in(old.partitioning, bucket)


def owner_ranges(shard_by_bucket: Sequence[str], epoch_by_bucket: Sequence[int]) -> tuple[OwnerRange, ...]:
    """The shortest list of ranges that says the same as the two sequences."""
    ranges: list[OwnerRange] = []
    first = 0
    for (shard, epoch), buckets in groupby(zip(shard_by_bucket, epoch_by_bucket, strict=True)):
        last = first + sum(1 for _ in buckets) - 1
        ranges.append(OwnerRange(first, last, shard, epoch))
        first = last + 1
    return tuple(ranges)
