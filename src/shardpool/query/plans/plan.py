"""Plans: where a statement goes and what is done with the answers. Printable data, without any parameter's value."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from ...errors import UnsupportedQuery
from ...topology import Reference, Sharded, Single, Topology
from ..analysis.alike import Touched
from ..analysis.listed import Listed
from ..analysis.pins import UNREAD, AssignedKeys, Both, Const, In, KeyAssignment, Pin, buckets
from ..analysis.placing import Check
from ..analysis.scopes import Occurrence
from ..text.rows import Rows, taken_apart
from ..text.statement import inner, kind, strings, walk
from ..text.template import Template
from .finish import Finish, filled
from .looked import Looked
from .numbered import Numbers
from .setting import Setting

COPIES_LOCK_CLASS = 1936747634
"""The first number of the two-number advisory locks on tables ("splr" in ASCII)."""


@dataclass(frozen=True, slots=True)
class Use:
    """One occurrence of a table, with the pins of its key by part."""

    table: str
    keyspace: str = ""
    pins: tuple[tuple[Pin, ...], ...] = ()
    shard: str = ""

    def shards(self, topology: Topology, params: Sequence[Any]) -> frozenset[str]:
        """The names of the shards on which its rows that matter lie."""
        return self.shards_of(topology, self.buckets(topology, params))

    def buckets(self, topology: Topology, params: Sequence[Any]) -> Set[int] | None:
        """The buckets of its rows that matter; None when it is all of them, or the table has none."""
        if not self.keyspace or not any(self.pins):
            return None
        return buckets(self.pins, topology.keyspaces[self.keyspace].partitioning, params)

    def shards_of(self, topology: Topology, buckets: Set[int] | None) -> frozenset[str]:
        """The names of the shards that have these buckets."""
        if not self.keyspace:
            return frozenset((self.shard,))
        keyspace = topology.keyspaces[self.keyspace]
        if buckets is None:
            return keyspace.owning_shards
        return frozenset(keyspace.shard_by_bucket[bucket] for bucket in buckets)

    def __str__(self) -> str:
        table = self.table.removeprefix("public.")
        if not self.keyspace:
            return f"{table} on {self.shard}"
        pins = [f"key {' and '.join(map(str, part))}" for part in self.pins if part]
        return f"{table}: {', '.join(pins)}" if pins else f"{table}: every key"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Rows that are brought to one shard, into a temporary table, before the final statement is run there.

    `query` is what each shard answers; each of the `filters` may be left out. `uses` are the numbers of the uses that
    need it. `key` are columns that are unique in it, `columns` new names for all of them. `definition` defines the
    columns of a table that a shard may not have at all. One that `is_joined` is read together with others; by the
    `probed` columns its rows are looked up for each row of others.
    """

    temp: str
    subject: str
    query: Template
    filters: tuple[Template, ...]
    uses: tuple[int, ...]
    key: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    definition: str = ""
    is_joined: bool = False
    probed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transferred:
    """Bring rows to one shard, and run `final` there: `combine` brings partial results, `pull` rows of tables.

    `lost_order` is what the order of a sorted subquery ends at. A plan that `goes_further` may evaluate for rows what
    one server does not: an error of their data has to be confirmed without that.
    """

    name: str
    transfers: tuple[Transfer, ...]
    final: str
    lost_order: str = ""
    goes_further: bool = False


@dataclass(frozen=True, slots=True)
class SortKey:
    """A column of what the shards answer by which rows are merged: its number, from the end when it is negative.

    `decoder` names how it is compared.
    """

    column: int
    decoder: str
    descending: bool
    nulls_first: bool


@dataclass(frozen=True, slots=True)
class Copies:
    """The reference table that is written, and others that the statement `read`s, as their writers name the locks.

    With `finish` one shard runs the statement, and `finish` writes the rows that it has made on the others; it has a
    parameter for each column of the table, of the values as texts. Rows that are `compared` have to be the same on all
    shards; where they are not, `mend` makes them so, if there is such a way.
    """

    table: str
    read: tuple[str, ...] = ()
    finish: str = ""
    mend: str = ""
    compared: bool = False

    @property
    def locks(self) -> list[str]:
        """SQL that waits for the other writers of the table and keeps them waiting, up to the end of the transaction.

        They have to come in one order on every shard: a copy would lack what a statement has not seen there. The tables
        that are read must stand still, too. Always in the same order, so that nobody waits in a circle.
        """
        names = sorted({self.table, *self.read}, key=_lock_number)
        return [lock_of(name, shared=name != self.table) for name in names]


def lock_of(table: str, *, shared: bool = False) -> str:
    """SQL that waits for other writers of routers that write a table in the same way."""
    function = f"pg_advisory_xact_lock{'_shared' if shared else ''}"
    return f"select pg_catalog.{function}({COPIES_LOCK_CLASS}, {_lock_number(table)})"


def _lock_number(table: str) -> int:
    return zlib.crc32(table.encode()) - 2**31


@dataclass(frozen=True, slots=True)
class Gathered:
    """Run `sql` on each shard and bring the rows together without a server.

    `sort` is empty when they only follow one another; the last `hidden` columns are for sorting or comparing only.
    `limit` and `offset` cut the whole. With `add` each column is one value made of the shards' values. `copies`: a
    reference table is written, on every shard there is. `timed` is the statement with places for the time of the
    transaction, where it is the same for all. `lost_order` is what the order of a sorted subquery ends at.
    """

    name: str
    sql: str
    hidden: int = 0
    sort: tuple[SortKey, ...] = ()
    limit: Const | None = None
    offset: Const | None = None
    add: tuple[str, ...] = ()
    copies: Copies | None = None
    timed: Template | None = None
    lost_order: str = ""

    @property
    def goes_further(self) -> bool:
        """Whether each shard makes rows of which LIMIT leaves fewer: see `Transferred`."""
        return self.limit is not None or self.offset is not None


@dataclass(frozen=True, slots=True)
class Split:
    """Divide the rows of `INSERT … VALUES` among the shards; `keys` are those of the rows, by part.

    `sql` is the statement, in which one more parameter is the time of the transaction where it is `timed`; where the
    rows are `listed`, it has only a sample of them.
    """

    keyspace: str
    keys: tuple[tuple[Const, ...], ...]
    sql: str
    timed: Template | None = None
    listed: Listed | None = field(default=None, compare=False, repr=False)
    name: str = "split"

    @property
    def rows(self) -> Rows:
        """The rows in the text of the statement. Long ones take some milliseconds."""
        return taken_apart(self.sql) if self.listed is None else self.listed.rows(self.sql)


@dataclass(frozen=True, slots=True)
class Made:
    """`source` is SQL that gives the rows, each value as a text, which `finish` inserts.

    Numbers of a sequence are drawn `by_first`, the first shard of the topology, so that they are not drawn twice. Where
    rows of shards are read, `reads` is the source as a statement of its own. `sequences` number the rows when they are
    made: for each of the last columns its name and that of its sequence.
    """

    source: str
    finish: Finish
    by_first: bool
    reads: Template | None = None
    sequences: tuple[tuple[str, str], ...] = ()
    name: str = "make"

    def reading(self, values: Sequence[Any]) -> tuple[str, list[Any]]:
        """The source, and its parameters, for psycopg; `values` are the statement's own parameters."""
        params: list[Any] = []

        def place(number: int) -> str:
            params.append(values[number - 1])
            return "%s"

        assert self.reads is not None
        return filled(self.reads, place), params


@dataclass(frozen=True, slots=True)
class Rekeyed:
    """Rows whose partition key changes: `delete` takes them away, and gives them as they become, each value as a text.

    `finish` inserts them where they belong then. Behind the values stands the `guard`, an expression that is true where
    these are the whole row.
    """

    delete: Gathered
    finish: Finish
    guard: str
    name: str = "rekey"

    @property
    def guarded(self) -> Gathered:
        """The DELETE with the guard as its last column."""
        timed = self.delete.timed and Template((*self.delete.timed.parts, f", {self.guard}"))
        return replace(self.delete, sql=f"{self.delete.sql}, {self.guard}", timed=timed)


Scattered = Gathered | Transferred | Split | Made | Rekeyed


@dataclass(frozen=True)
class Plan:
    """What is known of one statement without its parameters.

    On one shard it runs as it stands. `root` is the number of the use by whose key its rows are on shards when every
    shard can answer for itself. `scattered` is what is done when it concerns several shards; `refusal` why nothing is.
    `reasons` say why no faster way was taken. Of a SELECT all this is made when it first concerns several shards;
    before that it is not complete. The values of `loose` parameters are texts that the server may read as another type
    than the key's: see `loose_params`. Where `key_assignments` change a key, `rekeyed` is what is done, or why nothing
    is; `check` is how the keys that are stored are seen to be the shard's own, where they may not be.
    `touched` is what has to be the same on all shards, None for everything. With `numbers` nothing but these is known:
    the statement is planned when it has them. A `setting` is what a call of setval() sets. One that `keeps` may change
    columns that are unique over the fleet; of one that is `looked` up a value tells the key.
    """

    sql: str
    verb: str
    uses: tuple[Use, ...]
    writes: bool
    scattered: Scattered | None = None
    refusal: UnsupportedQuery | None = None
    root: int | None = None
    reasons: tuple[str, ...] = ()
    is_complete: bool = True
    loose: frozenset[int] = frozenset()
    key_assignments: tuple[KeyAssignment, ...] = ()
    rekeyed: Rekeyed | UnsupportedQuery | None = None
    check: Check | None = None
    touched: Touched | None = None
    numbers: Numbers | None = None
    setting: Setting | None = None
    keeps: bool = False
    looked: Looked | None = None

    @cached_property
    def is_preceded(self) -> bool:
        """Whether something is done before it is bound, and makes it another statement."""
        return self.numbers is not None or self.looked is not None or self.setting is not None

    @property
    def is_always_made(self) -> bool:
        """Whether rows are made even where one shard has all of them: they are numbered, and not by that shard."""
        return isinstance(self.scattered, Made) and bool(self.scattered.sequences or self.scattered.by_first)

    @cached_property
    def key_param(self) -> tuple[str, int] | None:
        """The keyspace and the place of the parameter that is the key of all tables, when it is that simple."""
        keyspaces = {use.keyspace for use in self.uses}
        if (
            self.is_always_made
            or self.key_assignments
            or len(keyspaces) != 1
            or "" in keyspaces
            or any(len(use.pins) != 1 for use in self.uses)
        ):
            return None
        common = set.intersection(*(set(_params(use.pins[0])) for use in self.uses)) - self.loose
        return (keyspaces.pop(), min(common) - 1) if common else None

    def shards_by_use(self, topology: Topology, params: Sequence[Any]) -> list[frozenset[str]]:
        """For each use the names of the shards on which its rows that matter lie."""
        params = self.read(params)
        return [use.shards(topology, params) for use in self.uses]

    def read(self, params: Sequence[Any]) -> Sequence[Any]:
        """The parameters, without the texts of which it is not known how the server reads them."""
        if not self.loose:
            return params
        return [
            UNREAD if number in self.loose and type(value) in (str, list) else value
            for number, value in enumerate(params, 1)
        ]


def loose_params(tree: Any, key_columns: Set[str]) -> frozenset[int]:
    """The parameters that stand in several places, and not only beside a key column.

    A text has no type of its own: the server reads all of them as the type that the first place asks for. As
    `double precision`, `'9007199254740993'` equals two keys.
    """
    places: dict[int, int] = {}
    beside_key: dict[int, int] = {}
    for part in walk(tree):
        if kind(part) == "ParamRef":
            places[part.number] = places.get(part.number, 0) + 1
        elif kind(part) == "A_Expr" and part.kind in (1, 2, 7):
            left, right = inner(part.lexpr), inner(part.rexpr)
            for one, other in ((left, right), (right, left)):
                if kind(one) == "ColumnRef" and strings(one.fields)[-1:] and strings(one.fields)[-1] in key_columns:
                    for param in [other, *map(inner, getattr(other, "items", ()))]:
                        if kind(param) == "ParamRef":
                            beside_key[param.number] = beside_key.get(param.number, 0) + 1
    return frozenset(number for number, count in places.items() if count > max(1, beside_key.get(number, 0)))


def _params(pins: Sequence[Pin]) -> Iterator[int]:
    """The parameters that the key is equal to."""
    for pin in pins:
        if isinstance(pin, Both):
            yield from _params(pin.pins)
        elif isinstance(pin, In | AssignedKeys) and len(pin.consts) == 1:
            const = pin.consts[0]
            if const.param and not const.cast and not const.holder.length:
                yield const.param


def uses_of(nodes: Sequence[Occurrence]) -> tuple[Use, ...]:
    """The uses of the nodes that are tables, with the pins of all nodes that they are tied to."""
    uses = []
    for node in nodes:
        match node.placement:
            case Sharded():
                pins: list[list[Pin]] = [list(part) for part in node.pins]
                for other in nodes:
                    if other is not node and other.has_key and node in _tied(other):
                        for part, more in enumerate(other.pins):
                            pins[part].extend(more)
                uses.append(Use(node.table, node.keyspace, tuple(tuple(dict.fromkeys(part)) for part in pins)))
            case Single(shard):
                uses.append(Use(node.table, shard=shard))
            case Reference() | None:
                continue
    return tuple(uses)


def _tied(node: Occurrence) -> set[Occurrence]:
    """The nodes with the same key as this one's, by edges between nodes with a key."""
    tied, left = {node}, [node]
    while left:
        for other in left.pop().edges:
            if other.has_key and other.keyspace == node.keyspace and other not in tied:
                tied.add(other)
                left.append(other)
    return tied
