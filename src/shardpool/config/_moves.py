"""Moves of the file → `RunningMove` values: what they name is there, nothing moves twice, owners fit their state."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..errors import nearest
from ..partitioning import Hash, KeyValue, List, Range
from ..topology import Keyspace, RunningMove, qualified
from . import _models as models
from ._keys import read_key
from ._nodes import YamlNode
from ._owners import bucket_ranges
from ._placements import ShardNames
from ._problems import Problems

_WHAT = ("buckets", "keys", "default", "range")
_KIND_BY_FIELD: Mapping[str, tuple[type, ...]] = {
    "buckets": (Hash,),
    "keys": (Hash, List),
    "default": (List,),
    "range": (Range,),
}
_BY_COMMAND = "Moves are begun, ended and undone with: shardpool move"


def build_moves(
    file: models.TopologyFile, root: YamlNode, keyspaces: dict[str, Keyspace], names: ShardNames, problems: Problems
) -> tuple[RunningMove, ...]:
    """Put the moves of buckets into their keyspaces, and give those of single tables; problems go to `problems`."""
    reader = _MovesReader(file, keyspaces, names, problems)
    built = []
    for fields, node in zip(file.moves, moves.items if (moves := root.at("moves")) else [], strict=True):
        move = reader.read(fields, node)
        if move is not None:
            built.append(move)
    for name, keyspace in keyspaces.items():
        mine = sorted((move for move in built if move.keyspace == name), key=lambda move: move.number)
        keyspaces[name] = replace(keyspace, moves=tuple(mine)) if mine else keyspace
    return tuple(sorted((move for move in built if move.table is not None), key=lambda move: move.number))


class _MovesReader:
    """Reads one move after another, and remembers what those before have named."""

    def __init__(
        self, file: models.TopologyFile, keyspaces: Mapping[str, Keyspace], names: ShardNames, problems: Problems
    ) -> None:
        self._file = file
        self._keyspaces = keyspaces
        self._names = names
        self._problems = problems
        self._numbers: set[int] = set()
        self._moving: dict[tuple[str, int], int] = {}
        self._singles = {qualified(table): shard for table, shard in file.single_tables.items()}

    def read(self, fields: models.MoveFields, node: YamlNode) -> RunningMove | None:
        known = [self._names.check(node.fields[end]) for end in ("from", "to")]
        if fields.number in self._numbers:
            self._problems.add(node.fields["number"], f"there is a move {fields.number} already", "Each has its own.")
            return None
        self._numbers.add(fields.number)
        if fields.source == fields.target:
            self._problems.add(node.fields["to"], "is the shard that gives the rows away", _BY_COMMAND)
            return None
        move = RunningMove(fields.number, fields.source, fields.target, fields.state)
        if (fields.table is None) == (fields.keyspace is None):
            self._problems.add(node, "needs keyspace or table", "One of them says what moves.")
            return None
        if self._file.control == "none":
            self._problems.add(node, "a move with control: none", "Rows are moved by what the shards carry.")
        built = self._of_table(move, fields, node) if fields.table is not None else self._of_buckets(move, fields, node)
        return built if all(known) else None

    def _of_table(self, move: RunningMove, fields: models.MoveFields, node: YamlNode) -> RunningMove | None:
        table = qualified(str(fields.table))
        if table not in self._singles:
            self._problems.add(node.fields["table"], "is not a single table", nearest(str(fields.table), self._singles))
            return None
        for other in _WHAT:
            if other in node.fields:
                self._problems.add_at_key(node.fields[other], f"{other} without keyspace", "A table moves as a whole.")
        of_table = replace(move, table=table)
        self._check_free(node, [(table, 0)], move.number)
        self._check_owners(of_table, {self._singles[table]}, node)
        return of_table

    def _of_buckets(self, move: RunningMove, fields: models.MoveFields, node: YamlNode) -> RunningMove | None:
        keyspace = self._keyspaces.get(str(fields.keyspace))
        if keyspace is None:
            if fields.keyspace not in self._file.keyspaces:  # else what is wrong with it is told there
                hint = nearest(str(fields.keyspace), self._keyspaces)
                self._problems.add(node.fields["keyspace"], "no such keyspace", hint)
            return None
        given = [what for what in _WHAT if what in node.fields]
        if len(given) != 1 or not isinstance(keyspace.partitioning, _KIND_BY_FIELD[given[0]]):
            strategy = type(keyspace.partitioning)
            fitting = [what for what, strategies in _KIND_BY_FIELD.items() if strategy in strategies]
            if not node.lost:
                hint = f"A keyspace by {strategy.kind} has {' or '.join(fitting)}."
                self._problems.add(node, "does not say which buckets move", hint)
            return None
        buckets = self._buckets(keyspace, given[0], node.fields[given[0]])
        if buckets is None:
            return None
        of_buckets = replace(move, keyspace=keyspace.name, buckets=tuple(_runs(buckets)))
        self._check_free(node, [(keyspace.name, bucket) for bucket in buckets], move.number)
        self._check_owners(of_buckets, {keyspace.shard_by_bucket[bucket] for bucket in buckets}, node)
        return of_buckets

    def _buckets(self, keyspace: Keyspace, what: str, node: YamlNode) -> list[int] | None:
        match keyspace.partitioning:
            case Hash() as hashed if what == "buckets":
                return bucket_ranges(node, hashed.buckets, self._problems)
            case partitioning if what == "keys":
                how = "pinned" if isinstance(partitioning, Hash) else "listed"
                return self._own_buckets(keyspace, partitioning.bucket_by_own_key, node, how)
            case List() as listed:
                if not listed.default:
                    self._problems.add(node, "the keyspace has no default", "Name listed keys with keys:.")
                    return None
                return [len(listed.values)]
            case Range() as ranged:
                return self._interval(keyspace, ranged, node)
            case other:
                raise TypeError(f"no move of a keyspace by {other.kind} is read")

    def _own_buckets(
        self, keyspace: Keyspace, bucket_by_key: Mapping[KeyValue, int], node: YamlNode, how: str
    ) -> list[int] | None:
        own = []
        for item in node.items:
            key = read_key(item, keyspace.key_types, self._problems)
            if key is not None and key not in bucket_by_key:
                self._problems.add(item, f"is not a {how} key", "Only a key with a bucket of its own moves by itself.")
            own.append(None if key is None else bucket_by_key.get(key))
        if not own:
            self._problems.add(node, "must name a key", "Write [42].")
        known = [bucket for bucket in own if bucket is not None]
        return sorted(set(known)) if known and len(known) == len(own) else None

    def _interval(self, keyspace: Keyspace, ranged: Range, node: YamlNode) -> list[int] | None:
        ends: list[Any] = [*ranged.bounds]
        first, last = 0, len(ends) - 1
        for name in ("from", "below"):
            place = node.at(name)
            if place is None:
                continue
            key = read_key(place, keyspace.key_types, self._problems)
            if key is None:
                return None
            if key not in ends:
                self._problems.add(place, "no entry of the range ends there", "Name the ends of whole entries.")
                return None
            first, last = (ends.index(key) + 1, last) if name == "from" else (first, ends.index(key))
        if first > last:
            self._problems.add(node, "holds no entry of the range", "Its from is less than its below.")
            return None
        return [*range(first, last + 1)]

    def _check_free(self, node: YamlNode, what: list[tuple[str, int]], number: int) -> None:
        others = sorted({self._moving[one] for one in what if one in self._moving})
        if others:
            self._problems.add(node, f"moves what move {others[0]} moves", "Each bucket is in one move.")
        self._moving.update(dict.fromkeys(what, number))

    def _check_owners(self, move: RunningMove, owners: set[str], node: YamlNode) -> None:
        for other in sorted(owners - {move.owner}):
            some = "it" if move.table else "some of it"
            message = f"move {move.number} is {move.state}, and {other} owns {some}, not {move.owner}"
            self._problems.add(node, message, _BY_COMMAND)
            return


def _runs(buckets: list[int]) -> Iterator[tuple[int, int]]:
    first = last = buckets[0]
    for bucket in buckets[1:]:
        if bucket != last + 1:
            yield first, last
            first = bucket
        last = bucket
    yield first, last
