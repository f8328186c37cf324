"""What differs between two topologies: in words, and which keys change their shard. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from .errors import EditRefused
from .succession import owned_by
from .topology import Endpoint, Keyspace, Reference, RunningMove, Shard, Sharded, Single, Topology


@dataclass(frozen=True, slots=True)
class Move:
    """Keys that another shard owns in the new topology; a shard of None owns nothing.

    `what` says which keys; `buckets` counts the buckets of the new topology that hold them.
    """

    keyspace: str
    source: str | None
    target: str | None
    what: str
    buckets: int

    def __str__(self) -> str:
        return f"keyspace {self.keyspace}: {self.what}: {self.source or 'nobody'} → {self.target or 'nobody'}"


def check_successor_file(new: Topology, old: Topology) -> None:
    """Raise `EditRefused` unless `new` may come after `old` at all: one fleet, and keys become buckets as they did."""
    if new.fleet != old.fleet:
        raise EditRefused(f"the new file is of fleet {new.fleet}, not {old.fleet}", hint="A fleet keeps its name.")
    for name, keyspace in new.keyspaces.items():
        before = old.keyspaces.get(name)
        if before is not None and before.partitioning.contract() != keyspace.partitioning.contract():
            raise EditRefused(
                f"keyspace {name} would place its keys in another way",
                detail="Kind, key types, hash function and number of buckets never change: rows lie by them.",
                hint="Give the new way a keyspace of its own and move the rows.",
            )


def check_moves_stay(new: Topology, old: Topology, mover: int | None = None) -> None:
    """Raise `EditRefused` unless what is on its way to another shard is in `new` as in `old`, and owned as there.

    `mover` is the number of the move whose own step the change is: it may do with its rows what a move does.
    """
    for number in dict.fromkeys([*old.moves, *new.moves]):
        before, after = old.moves.get(number), new.moves.get(number)
        if number == mover:
            continue
        if before is None or after is None or not _moves_alike(before, old, after, new):
            raise EditRefused(
                f"{before or after} would be {'begun' if before is None else 'changed'} by an edit of the file",
                detail=None if before is None else "What moves keeps its buckets, tables, owner and shards until then.",
                hint="Moves are begun, ended and undone with: shardpool move",
            )


def _moves_alike(before: RunningMove, old: Topology, after: RunningMove, new: Topology) -> bool:
    """Whether a move is of the same rows, in the same state, between the same shards."""
    same = replace(before, buckets=()) == replace(after, buckets=())
    if not same or before.keyspace is None or after.keyspace is None:
        return same
    was, now = old.keyspaces[before.keyspace], new.keyspaces[after.keyspace]
    targets = {was.partitioning.bucket_in(now.partitioning, bucket) for bucket in before.bucket_numbers}
    return dict(was.tables) == dict(now.tables) and targets == set(after.bucket_numbers)


def handed_over(old: Topology, new: Topology) -> Topology:
    """The old topology in which those own what they own in the new one to whom a move has brought it."""
    for number, move in new.moves.items():
        before = old.moves.get(number)
        if before is None or move.state != "moved" or before.state != "guarded":
            continue
        old = owned_by(old, before, move.target)
    return old


def renames(old: Topology, new: Topology) -> dict[str, str]:
    """Old name → new name of the shards that stand at the same addresses under another name."""
    gone = [shard for name, shard in old.shards.items() if name not in new.shards]
    come = [shard for name, shard in new.shards.items() if name not in old.shards]
    new_by_old: dict[str, str] = {}
    for shard in gone:
        same = next((other for other in come if _addresses(other) == _addresses(shard)), None)
        if same is not None:
            new_by_old[shard.name] = same.name
    return new_by_old


def _addresses(shard: Shard) -> frozenset[str]:
    return frozenset(endpoint.address for endpoint in shard.endpoints)


def renamed(topology: Topology, names: Mapping[str, str]) -> Topology:
    """The topology with other names of its shards."""
    if not names:
        return topology

    def name_of(shard: str) -> str:
        return names.get(shard, shard)

    def moves_of(running: tuple[RunningMove, ...]) -> tuple[RunningMove, ...]:
        return tuple(replace(move, source=name_of(move.source), target=name_of(move.target)) for move in running)

    keyspaces = {
        name: replace(
            space,
            owners=tuple(replace(entry, shard=name_of(entry.shard)) for entry in space.owners),
            moves=moves_of(space.moves),
        )
        for name, space in topology.keyspaces.items()
    }
    shards = {name_of(name): replace(shard, name=name_of(name)) for name, shard in topology.shards.items()}
    singles = {table: name_of(shard) for table, shard in topology.single_tables.items()}
    return replace(
        topology,
        shards=shards,
        keyspaces=keyspaces,
        single_tables=singles,
        table_moves=moves_of(topology.table_moves),
    )


def moves(old: Topology, new: Topology) -> list[Move]:
    """The keys that change their shard, in keyspaces that both have; shards that are renamed do not count."""
    old = renamed(old, renames(old, new))
    return [
        move
        for name, keyspace in new.keyspaces.items()
        if name in old.keyspaces
        for move in _moves(old.keyspaces[name], keyspace)
    ]


def _moves(old: Keyspace, new: Keyspace) -> Iterator[Move]:
    if old.partitioning.kind != new.partitioning.kind:
        return
    counted: Counter[tuple[str | None, str | None]] = Counter()
    named = []
    for what, before, after in old.partitioning.pieces(new.partitioning):
        source = None if before is None else old.shard_by_bucket[before]
        target = None if after is None else new.shard_by_bucket[after]
        if source == target:
            continue
        if what:
            named.append(Move(new.name, source, target, what, 1))
        else:
            counted[source, target] += 1
    for (source, target), count in counted.items():
        yield Move(new.name, source, target, f"{count} bucket{'' if count == 1 else 's'}", count)
    yield from named


def source_shards(moves: Iterable[Move]) -> list[str]:
    """The shards that own less than before, in the order of the moves."""
    return list(dict.fromkeys(move.source for move in moves if move.source is not None))


def target_shards(moves: Iterable[Move]) -> list[str]:
    """The shards that own what they did not own."""
    return list(dict.fromkeys(move.target for move in moves if move.target is not None))


def resettled(old: Topology, new: Topology) -> dict[str, list[str]]:
    """Tables that are placed in another way → the shards that may hold rows of them; renamed shards do not count.

    A table of a keyspace whose owners change is not among them, nor one that only one of the topologies knows.
    """
    old = renamed(old, renames(old, new))
    changed = [
        table
        for table, placement in old.placements.items()
        if table in new.placements and new.placements[table] != placement
    ]
    return {table: _holders(old, table) for table in changed}


def _holders(topology: Topology, table: str) -> list[str]:
    match topology.placements[table]:
        case Sharded(keyspace, _):
            return list(topology.keyspaces[keyspace].shard_names())
        case Single(shard):
            return [shard]
        case Reference():
            return list(topology.shards)


def describe_changes(old: Topology, new: Topology) -> list[str]:
    """What changes, a line each; the epoch is not among it. No line holds a secret."""
    names = renames(old, new)
    before = renamed(old, names)
    lines = [f"shard {name} is called {new_name}" for name, new_name in names.items()]
    lines += _shard_changes(before, new)
    lines += _keyspace_changes(before, new)
    lines += map(str, moves(old, new))
    lines += _moves_that_run(before, new)
    lines += _set_changes("reference table", set(old.reference_tables), set(new.reference_tables))
    lines += _value_changes("single table ", _bare(before.single_tables), _bare(new.single_tables))
    for name in ("control", "follows", "timeout"):
        was, now = getattr(old, name), getattr(new, name)
        lines += [f"{name}: {was} → {now}"] if was != now else []
    return lines


def _moves_that_run(old: Topology, new: Topology) -> Iterator[str]:
    for number in sorted({*old.moves, *new.moves}):
        before, after = old.moves.get(number), new.moves.get(number)
        if before is None:
            yield f"{after} is new"
        elif after is None:
            yield f"{before} is over"
        elif (before.source, before.target) != (after.source, after.target):
            yield f"{before} is taken back: {after.source} → {after.target}, {after.state}"
        elif before.state != after.state:
            yield f"{before}: {before.state} → {after.state}"


def _shard_changes(old: Topology, new: Topology) -> Iterator[str]:
    for name, shard in old.shards.items():
        if name not in new.shards:
            yield f"shard {name} is removed ({shard.primary.address})"
    for name, shard in new.shards.items():
        if name not in old.shards:
            yield f"shard {name} is new ({shard.primary.address})"
        else:
            yield from _endpoint_changes(name, old.shards[name], shard)


def _endpoint_changes(name: str, old: Shard, new: Shard) -> Iterator[str]:
    before = {endpoint.name: endpoint for endpoint in old.endpoints}
    after = {endpoint.name: endpoint for endpoint in new.endpoints}
    for gone in before.keys() - after.keys():
        yield f"shard {name}: {gone} is removed ({before[gone].address})"
    for one, endpoint in after.items():
        if one not in before:
            yield f"shard {name}: {one} is new ({endpoint.address})"
        else:
            was, now = _settings(before[one]), _settings(endpoint)
            for setting in sorted(was.keys() | now.keys()):
                if was.get(setting) != now.get(setting):
                    yield f"shard {name}: {one}.{setting}: {_value(was.get(setting))} → {_value(now.get(setting))}"
            if (before[one].password, before[one].password_file) != (endpoint.password, endpoint.password_file):
                yield f"shard {name}: {one}: its password comes from elsewhere, or is another"


def _settings(endpoint: Endpoint) -> dict[str, Any]:
    pool = {f"pool.{field.name}": getattr(endpoint.pool, field.name) for field in fields(endpoint.pool)}
    return {**dict(endpoint.params), **pool, "pooler": endpoint.pooler, "max_lag": endpoint.max_lag}


def _value(value: Any) -> str:
    if value is None:
        return "not set"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _keyspace_changes(old: Topology, new: Topology) -> Iterator[str]:
    for name in old.keyspaces:
        if name not in new.keyspaces:
            yield f"keyspace {name} is removed"
    for name, keyspace in new.keyspaces.items():
        if name not in old.keyspaces:
            yield f"keyspace {name} is new"
            continue
        before = old.keyspaces[name]
        yield from _value_changes(f"keyspace {name}: table ", _columns(before), _columns(keyspace))
        was, now = before.partitioning, keyspace.partitioning
        if was != now:
            one, other = was.bucket_count, now.bucket_count
            yield f"keyspace {name}: {one} buckets → {other}" if one != other else f"keyspace {name}: other buckets"


def _columns(keyspace: Keyspace) -> dict[str, str]:
    return {table.removeprefix("public."): ", ".join(columns) for table, columns in keyspace.tables.items()}


def _value_changes(what: str, old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    names = dict.fromkeys([*old, *new])
    return [
        f"{what}{name}: {old.get(name) or 'not there'} → {new.get(name) or 'not there'}"
        for name in names
        if old.get(name) != new.get(name)
    ]


def _bare(shard_by_table: Mapping[str, str]) -> dict[str, str]:
    return {table.removeprefix("public."): shard for table, shard in shard_by_table.items()}


def _set_changes(what: str, old: set[str], new: set[str]) -> list[str]:
    gone = [f"{what} {name.removeprefix('public.')} is removed" for name in sorted(old - new)]
    return gone + [f"{what} {name.removeprefix('public.')} is new" for name in sorted(new - old)]
