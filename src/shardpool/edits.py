"""Small edits of a topology file, as values: what a person asks for → which entries of the file change. Pure.

An edit is worked out on the plain data of the file (mappings, lists and scalars, variables not filled in), so that it
names exactly the entries that it touches; `config.edit_text` writes them into the text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from .errors import EditRefused, KeyNotCovered, UnknownKeyspace, nearest
from .keys import canonical_key
from .partitioning import STRATEGIES, Hash, Partitioning, Range
from .partitioning.pins import pins_in
from .partitioning.strategy import written_key
from .patches import Insert, Operation, Path, Put, Remove, RenameKey, value_at
from .topology import Keyspace, Topology


def put(data: Any, path: Sequence[str], value: Any) -> list[Operation]:
    """Set one value; `path` are keys as text and numbers of list items, as people write them with dots.

    Everything above the last part has to be there, but for mappings of the file's own fields. Raises `EditRefused`.
    """
    place: list[Any] = []
    here = data
    left = list(path)
    while left:
        if isinstance(here, Mapping):
            key, taken = _named(here, left)
            if not taken and _holds_tables(place):
                return [Put((*place, ".".join(left)), value)]
            if not taken:
                return [Put((*place, _key(left[0])), _nested(left[1:], value))]
        elif isinstance(here, list) and left[0].isdigit() and int(left[0]) < len(here):
            key, taken = int(left[0]), 1
        else:
            raise EditRefused(
                f"nothing in the file has the path {'.'.join([*map(str, place), left[0]])}",
                hint="A path names fields and numbers of list items, from 0: shards.s0.replicas.0.max_lag",
            )
        place.append(key)
        here = here[key]
        left = left[taken:]
    return [Put(tuple(place), value)]


def _named(here: Mapping[Any, Any], path: Sequence[str]) -> tuple[Any, int]:
    """The key with which the path goes on, and of how many parts it is: a table's name may have a dot; 0: none."""
    for parts in range(len(path), 0, -1):
        text = ".".join(path[:parts])
        for key in here:
            if str(key) == text:
                return key, parts
    return None, 0


def _holds_tables(path: Sequence[Any]) -> bool:
    return list(path) == ["single_tables"] or (len(path) == 3 and path[0] == "keyspaces" and path[2] == "tables")


def _key(part: str) -> str | int:
    return int(part) if part.isdigit() and str(int(part)) == part else part


def _nested(path: Sequence[str], value: Any) -> Any:
    for part in reversed(path):
        value = {_key(part): value}
    return value


def add_shard(topology: Topology, name: str, value: Any) -> list[Operation]:
    """A new shard, which owns nothing yet. Raises `EditRefused` when there is one of that name."""
    if name in topology.shards:
        raise EditRefused(f'there is a shard "{name}" already', hint="Change it with: shardpool topology set")
    return [Put(("shards", name), value)]


def remove_shard(data: Any, topology: Topology, name: str) -> list[Operation]:
    """No such shard any more. Raises `UnknownShard`, and `EditRefused` while it owns a bucket or a single table."""
    topology.shard(name)
    _check_stays(topology, name)
    owned = [
        f"{_buckets(keyspace.shard_by_bucket.count(name))} of keyspace {keyspace.name}"
        for keyspace in topology.keyspaces.values()
        if name in keyspace.owning_shards
    ]
    owned += [
        f"table {table.removeprefix('public.')}" for table, shard in topology.single_tables.items() if shard == name
    ]
    if owned:
        raise EditRefused(
            f"shard {name} cannot be removed: it owns {', '.join(owned)}",
            hint=f"Give them to others first: shardpool topology shard drain {name}",
        )
    return [Remove(("shards", name)), *map(Remove, _owner_entries(data, name))]


def drain_shard(
    data: Any,
    topology: Topology,
    name: str,
    targets: Sequence[str],
    kept: Mapping[str, Collection[int]] = MappingProxyType({}),
) -> list[Operation]:
    """All buckets of a shard go to the targets (none: all other shards), evenly. Single tables stay.

    Those that `kept` has for their keyspace stay as well. Raises `UnknownShard`, and `EditRefused` when there is nobody
    to give to, or nothing to give.
    """
    topology.shard(name)
    _check_stays(topology, name)
    for target in targets:
        topology.shard(target)
    others = [shard for shard in targets or topology.shards if shard != name]
    if not others:
        raise EditRefused(
            f"nobody can take the buckets of shard {name}", hint="Add a shard: shardpool topology shard add"
        )
    operations: list[Operation] = []
    for keyspace in topology.keyspaces.values():
        if name in keyspace.owning_shards:
            operations.extend(_drained(data, keyspace, name, others, kept.get(keyspace.name, ())))
    if not operations and any(kept.values()):
        raise EditRefused(f"all that shard {name} owns holds rows", hint="Rows have to be moved first.")
    if not operations:
        raise EditRefused(f"shard {name} owns no bucket", hint=f"Remove it: shardpool topology shard remove {name}")
    return operations


def _check_stays(topology: Topology, name: str) -> None:
    """Raise `EditRefused` where rows are on their way from a shard or to it."""
    for move in topology.moves.values():
        if name in (move.source, move.target):
            raise EditRefused(
                f"{move} is running", hint=f"Finish it first, or undo it: shardpool move status {move.number}"
            )


def give(data: Any, keyspace: Keyspace, source: str, target: str, buckets: Iterable[int]) -> list[Operation]:
    """Some of the buckets of a shard go to another one."""
    given = set(buckets)
    kept = [at for at, shard in enumerate(keyspace.shard_by_bucket) if shard == source and at not in given]
    return [*_drained(data, keyspace, source, [target], kept)]


def _drained(
    data: Any, keyspace: Keyspace, name: str, others: Sequence[str], kept: Collection[int]
) -> Iterator[Operation]:
    """The buckets of a shard but for those that are kept go to the others."""
    root: Path = ("keyspaces", keyspace.name)
    lost = [at for at, shard in enumerate(keyspace.shard_by_bucket) if shard == name and at not in kept]
    return keyspace.partitioning.drained(value_at(data, root), root, keyspace.shard_by_bucket, name, others, lost)


def pin(data: Any, topology: Topology, keyspace: Keyspace, key: object, shard: str | None) -> list[Operation]:
    """A key gets a home of its own, or, with `shard` None, goes back to the bucket of its hash.

    Raises `InvalidKey`, `UnknownShard`, and `EditRefused` where keys have no pins, or this one has none to take away.
    """
    if shard is not None:
        topology.shard(shard)
    if not isinstance(keyspace.partitioning, Hash):
        raise EditRefused(
            f"keyspace {keyspace.name} is not placed by hash, and its keys cannot be pinned",
            hint="A range is divided with: shardpool topology split",
        )
    value = canonical_key(key, keyspace.key_types)
    path: Path = ("keyspaces", keyspace.name, "pinned")
    pinned = value_at(data, path)
    at = next((at for at, entry in pins_in(pinned) if canonical_key(entry, keyspace.key_types) == value), None)
    if shard is None:
        if at is None:
            raise EditRefused(f"the key is not pinned in keyspace {keyspace.name}")
        return [Remove((*path, at))]
    if at is not None:
        return [Put((*path, at) if isinstance(pinned, Mapping) else (*path, at, "shard"), shard)]
    written = written_key(value)
    # Nothing can be put between the braces that the last pin leaves empty: they are written anew.
    if len(keyspace.key_types) > 1 or (pinned and isinstance(pinned, list)):
        entry = {"key": written, "shard": shard}
        return [Insert(path, len(pinned), entry)] if pinned else [Put(path, [entry])]
    return [Put((*path, written), shard)] if pinned else [Put(path, {written: shard})]


def split(data: Any, topology: Topology, keyspace: Keyspace, key: object, shard: str | None) -> list[Operation]:
    """A range is divided at a key: from it on, up to the old end, `shard` (None: who had it) owns the keys.

    Raises `InvalidKey`, `KeyNotCovered`, `UnknownShard`, and `EditRefused` for other keyspaces and for an end that is
    there.
    """
    placed = keyspace.partitioning
    if not isinstance(placed, Range):
        raise EditRefused(
            f"keyspace {keyspace.name} is not placed by range, and has nothing to split",
            hint="The number of hash buckets never changes. A key gets a home of its own with: shardpool topology pin",
        )
    value = canonical_key(key, placed.key_types)
    if value in placed.ends:
        raise EditRefused(f"a range ends at that key already, in keyspace {keyspace.name}")
    try:
        at = placed.bucket(value)
    except KeyNotCovered as error:
        raise EditRefused(error.message, hint="Add a range at the end of the list in the file.") from None
    owner = keyspace.shard_by_bucket[at]
    if shard is not None:
        topology.shard(shard)
    path: Path = ("keyspaces", keyspace.name, "range")
    lower = {"below": written_key(value), "shard": owner}
    upper = [Put((*path, at + 1, "shard"), shard)] if shard not in (None, owner) else []
    return [Insert(path, at, lower), *upper]


def rename_shard(data: Any, topology: Topology, name: str, new: str) -> list[Operation]:
    """A shard is called otherwise, everywhere in the file. Raises `UnknownShard`, `EditRefused`."""
    topology.shard(name)
    _check_stays(topology, name)
    if new in topology.shards:
        raise EditRefused(f'there is a shard "{new}" already')
    return [
        *_renamed_values(data, name, new),
        *(RenameKey(path, new) for path in (("shards", name), *_owner_entries(data, name))),
    ]


def _owner_entries(data: Any, name: str) -> Iterator[Path]:
    """Where keyspaces of the file have a shard as the key of what it owns."""
    for space, fields in (data.get("keyspaces") or {}).items():
        for strategy in STRATEGIES.values():
            path = strategy.owner_path
            if path and name in (value_at(fields, path) or {}):
                yield ("keyspaces", space, *path, name)


def _renamed_values(data: Any, name: str, new: str) -> Iterator[Operation]:
    for space, fields in (data.get("keyspaces") or {}).items():
        for strategy in STRATEGIES.values():
            for path, shard in strategy.shard_places(fields):
                if shard == name:
                    yield Put(("keyspaces", space, *path), new)
    for table, shard in (data.get("single_tables") or {}).items():
        if shard == name:
            yield Put(("single_tables", table), new)


def _buckets(count: int) -> str:
    return f"{count} bucket{'' if count == 1 else 's'}"


def find_keyspace(topology: Topology, name: str | None, strategy: type[Partitioning]) -> Keyspace:
    """The keyspace of that name, or the only one of that kind; raises `UnknownKeyspace`."""
    if name is not None:
        return topology.keyspace(name)
    fitting = [keyspace for keyspace in topology.keyspaces.values() if isinstance(keyspace.partitioning, strategy)]
    if len(fitting) == 1:
        return fitting[0]
    raise UnknownKeyspace(
        f"fleet {topology.fleet} has {len(fitting)} keyspaces placed by {strategy.kind}, and none was named",
        hint="Name it with --keyspace. " + nearest("", (keyspace.name for keyspace in fitting)),
    )
