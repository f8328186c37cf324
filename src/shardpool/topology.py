"""What the fleet is, as values: shards and their endpoints, keyspaces and their owners, tables and where they live.

Everything here is frozen and pure. `config.py` makes a `Topology` from a file; a router holds one and swaps it whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby
from typing import Literal, NoReturn

from .errors import MissingKey, UnknownKeyspace, UnknownShard, UnknownTable, nearest, shown
from .partitioning import KeyType, Partitioning
from .partitioning.owner_map import map_digest

Role = Literal["primary", "replica", "node"]
Pooler = Literal["none", "session", "transaction"]
Control = Literal["required", "none"]
Follows = Literal["shards", "file"]
Reset = Literal["dirty", "always", "never"]
MoveState = Literal["copying", "guarded", "moved"]


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
    """Size and ages of one endpoint's pool, in seconds; `max_waiting` callers may queue. See `Endpoint.reset`."""

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

    @property
    def is_written(self) -> bool:
        """Whether writes go to it: its server must be no standby."""
        return self.role == "primary"

    @property
    def is_asked(self) -> bool:
        """Whether its server is asked if writes go to it."""
        return self.role == "node"

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
        return self.primary.is_asked

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


@dataclass(frozen=True, slots=True)
class RunningMove:
    """Rows on their way from shard `source` to shard `target`: buckets of a keyspace, or the whole of a single table.

    `buckets` are ascending ranges, both ends included, of the keyspace's present numbers; a table has none, and no
    keyspace. `copying`: the source owns the rows, and the target may hold some of them. `guarded`: they are handed
    over, and the token on the shards says who owns them. `moved`: the target owns them, and the source holds copies.
    """

    number: int
    source: str
    target: str
    state: MoveState
    keyspace: str | None = None
    buckets: tuple[tuple[int, int], ...] = ()
    table: str | None = None

    @property
    def owner(self) -> str:
        """Who owns the rows by the file; while they are `guarded` the shards know better."""
        return self.target if self.state == "moved" else self.source

    @property
    def bucket_numbers(self) -> Iterator[int]:
        """The buckets, one by one."""
        return (bucket for first, last in self.buckets for bucket in range(first, last + 1))

    @property
    def what(self) -> str:
        """What moves, in words."""
        if self.table is not None:
            return f"table {self.table.removeprefix('public.')}"
        ranges = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in self.buckets)
        return f"bucket{'' if ranges.isdigit() else 's'} {ranges} of keyspace {self.keyspace}"

    def __str__(self) -> str:
        return f"move {self.number} ({self.what}, {self.source} → {self.target}, {self.state})"


@dataclass(frozen=True, slots=True)
class Lookup:
    """A column whose values are unique over the fleet; in `entries`, a table of `keyspace`, stand value and key."""

    table: str
    column: str
    keyspace: str
    entries: str

    @property
    def name(self) -> str:
        """`users.email`, as the file has it."""
        return f"{self.table.removeprefix('public.')}.{self.column}"


@dataclass(frozen=True)
class Keyspace:
    """Tables sharded by the same partition key in the same way: equal keys are colocated.

    `partitioning` maps key to bucket; `owners`, sorted and without gap, map bucket to shard.
    `tables` maps qualified table name to its key columns, in the order of the key's parts.
    `moves` are those of its buckets that are on their way to another shard; the entries of `lookups` are tables of it.
    """

    name: str
    partitioning: Partitioning
    owners: tuple[OwnerRange, ...]
    tables: Mapping[str, tuple[str, ...]]
    moves: tuple[RunningMove, ...] = ()
    lookups: tuple[Lookup, ...] = ()

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
        moves = [(move.number, move.buckets, move.source, move.target, move.state) for move in self.moves]
        return map_digest(self.partitioning, self.shard_by_bucket, moves)

    @cached_property
    def move_by_bucket(self) -> Mapping[int, RunningMove]:
        """The move of each bucket that is on its way to another shard; the others are not in it."""
        return {bucket: move for move in self.moves for bucket in move.bucket_numbers}

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
    """The whole fleet at one epoch. Mappings keep the order of the file; `timeout` is in seconds.

    `follows` says whether a running router learns of newer topologies from the shards, or from its file alone.
    `table_moves` are the moves of single tables; those of buckets are their keyspace's. `id_block` is how many numbers
    of a sequence a router draws at once.
    """

    fleet: str
    epoch: int
    shards: Mapping[str, Shard]
    keyspaces: Mapping[str, Keyspace] = field(default_factory=dict)
    reference_tables: tuple[str, ...] = ()
    single_tables: Mapping[str, str] = field(default_factory=dict)
    control: Control = "required"
    timeout: float = 5.0
    table_moves: tuple[RunningMove, ...] = ()
    follows: Follows = "shards"
    id_block: int = 1000

    @cached_property
    def moves(self) -> Mapping[int, RunningMove]:
        """All moves that are running, by their number."""
        running = [*self.table_moves, *(move for keyspace in self.keyspaces.values() for move in keyspace.moves)]
        return {move.number: move for move in sorted(running, key=lambda move: move.number)}

    @cached_property
    def placements(self) -> Mapping[str, Placement]:
        """Qualified table name → where its rows are."""
        placement_by_table: dict[str, Placement] = {}
        for keyspace in self.keyspaces.values():
            for table, columns in keyspace.tables.items():
                placement_by_table[table] = Sharded(keyspace.name, columns)
        placement_by_table.update({table: Reference() for table in self.reference_tables})
        placement_by_table.update({table: Single(shard) for table, shard in self.single_tables.items()})
        return placement_by_table

    @cached_property
    def lookups(self) -> Mapping[str, tuple[Lookup, ...]]:
        """The columns of each table whose values are unique over the fleet, by its qualified name."""
        by_table: dict[str, tuple[Lookup, ...]] = {}
        for lookup in (lookup for keyspace in self.keyspaces.values() for lookup in keyspace.lookups):
            by_table[lookup.table] = (*by_table.get(lookup.table, ()), lookup)
        return by_table

    @cached_property
    def default_keyspace(self) -> Keyspace | None:
        """The only one that has tables of the user's own, or the only one there is."""
        found = [space for space in self.keyspaces.values() if len(space.tables) > len(space.lookups)]
        found = found if len(found) == 1 else [*self.keyspaces.values()]
        return found[0] if len(found) == 1 else None

    @property
    def numbering_shard(self) -> str:
        """The name of the shard whose sequences number rows for the whole fleet: the first one."""
        return next(iter(self.shards))

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
        if self.default_keyspace is not None:
            return self.default_keyspace
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


def owner_ranges(shard_by_bucket: Sequence[str], epoch_by_bucket: Sequence[int]) -> tuple[OwnerRange, ...]:
    """The shortest list of ranges that says the same as the two sequences."""
    ranges: list[OwnerRange] = []
    first = 0
    for (shard, epoch), buckets in groupby(zip(shard_by_bucket, epoch_by_bucket, strict=True)):
        last = first + sum(1 for _ in buckets) - 1
        ranges.append(OwnerRange(first, last, shard, epoch))
        first = last + 1
    return tuple(ranges)
