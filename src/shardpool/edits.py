"""Small edits of a topology file, as values: what a person asks for → which entries of the file change. Pure.

An edit is worked out on the plain data of the file (mappings, lists and scalars, variables not filled in), so that it
names exactly the entries that it touches; `config.edit_text` writes them into the text.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from .errors import EditRefused, KeyNotCovered, UnknownKeyspace, nearest
from .keys import KeyValue, canonical_key, key_parts, key_text
from .partitioning import Hash, List, Range
from .topology import Keyspace, Topology

Path = tuple[str | int, ...]

# Ranges of buckets that are written entry by entry.
_MANY = 16


@dataclass(frozen=True, slots=True)
class Put:
    """The value at `path`, which is replaced or made."""

    path: Path
    value: Any


@dataclass(frozen=True, slots=True)
class Insert:
    """A new item of the list at `path`, before the item that has number `index`."""

    path: Path
    index: int
    value: Any


@dataclass(frozen=True, slots=True)
class Remove:
    """No entry at `path` any more."""

    path: Path


@dataclass(frozen=True, slots=True)
class RenameKey:
    """The key at `path` is called `name`; its value stays."""

    path: Path
    name: str


Operation = Put | Insert | Remove | RenameKey


def put(data: Any, path: Sequence[str], value: Any) -> list[Operation]:
    """Set one value; `path` are keys as text and numbers of list items, as people write them with dots.

    Everything above the last part has to be there, but for mappings of the file's own fields. Raises `EditRefused`.
    """
    found: list[Any] = []
    here = data
    left = list(path)
    while left:
        if isinstance(here, Mapping):
            key, taken = _named(here, left)
            if not taken and _holds_tables(found):
                return [Put((*found, ".".join(left)), value)]
            if not taken:
                return [Put((*found, _key(left[0])), _nested(left[1:], value))]
        elif isinstance(here, list) and left[0].isdigit() and int(left[0]) < len(here):
            key, taken = int(left[0]), 1
        else:
            raise EditRefused(
                f"nothing in the file has the path {'.'.join([*map(str, found), left[0]])}",
                hint="A path names fields and numbers of list items, from 0: shards.s0.replicas.0.max_lag",
            )
        found.append(key)
        here = here[key]
        left = left[taken:]
    return [Put(tuple(found), value)]


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
    return [Remove(("shards", name)), *_emptied_owners(data, name)]


def _emptied_owners(data: Any, name: str) -> Iterator[Operation]:
    """Entries that name the shard and give it nothing: `s3: []`."""
    for space, fields in (data.get("keyspaces") or {}).items():
        for path in (("hash", "owners"), ("list",)):
            if name in (_at(fields, path) or {}):
                yield Remove(("keyspaces", space, *path, name))


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
    for target in targets:
        topology.shard(target)
    others = [shard for shard in targets or topology.shards if shard != name]
    if not others:
        raise EditRefused(
            f"nobody can take the buckets of shard {name}", hint="Add a shard: shardpool topology shard add"
        )
    found: list[Operation] = []
    for keyspace in topology.keyspaces.values():
        if name in keyspace.owning_shards:
            found.extend(_drained(data, keyspace, name, others, kept.get(keyspace.name, ())))
    if not found and any(kept.values()):
        raise EditRefused(f"all that shard {name} owns holds rows", hint="Rows have to be moved first.")
    if not found:
        raise EditRefused(f"shard {name} owns no bucket", hint=f"Remove it: shardpool topology shard remove {name}")
    return found


def _drained(
    data: Any, keyspace: Keyspace, name: str, others: Sequence[str], kept: Collection[int]
) -> Iterator[Operation]:
    root: Path = ("keyspaces", keyspace.name)
    fields = _at(data, root)
    lost = [at for at, shard in enumerate(keyspace.shard_by_bucket) if shard == name and at not in kept]
    match keyspace.partitioning:
        case Hash() as hashed:
            yield from _rehashed(fields["hash"]["owners"], root, keyspace, hashed.buckets, name, others, lost)
            pins = [at - hashed.buckets for at in lost if at >= hashed.buckets]
            yield from _repinned(fields, root, others, pins)
        case Range():
            for number, at in enumerate(lost):
                yield Put((*root, "range", at, "shard"), others[number % len(others)])
        case List() as listed:
            yield from _relisted(fields, root, keyspace, listed, name, others, lost)


def _rehashed(
    owners: Any, root: Path, keyspace: Keyspace, buckets: int, name: str, others: Sequence[str], lost: Sequence[int]
) -> Iterator[Operation]:
    path = (*root, "hash", "owners")
    hashed = [at for at in lost if at < buckets]
    for target, gained in zip(others, _dealt(hashed, len(others)), strict=True):
        if gained:
            yield from _gained(owners, path, target, gained)
    gone = set(hashed)
    left = [at for at in range(buckets) if keyspace.shard_by_bucket[at] == name and at not in gone]
    if gone and left:
        entries = [written_range(*entry) for entry in runs(left)]
        yield Put((*path, name), entries[0] if len(entries) == 1 else entries)
    elif name in owners and not left:
        yield Remove((*path, name))


def _repinned(fields: Any, root: Path, others: Sequence[str], numbers: Sequence[int]) -> Iterator[Operation]:
    """Other shards for the pins with these numbers, in the order of the file."""
    pinned = fields.get("pinned")
    keys = list(pinned) if isinstance(pinned, Mapping) else range(len(pinned or []))
    tail = () if isinstance(pinned, Mapping) else ("shard",)
    for number, at in enumerate(numbers):
        yield Put((*root, "pinned", keys[at], *tail), others[number % len(others)])


def _relisted(
    fields: Any,
    root: Path,
    keyspace: Keyspace,
    listed: List,
    name: str,
    others: Sequence[str],
    lost: Sequence[int],
) -> Iterator[Operation]:
    written = fields["list"].get(name) or []
    # Keys are numbered through the shards, in the order of the file.
    mine = [at for at, shard in enumerate(keyspace.shard_by_bucket[: len(listed.values)]) if shard == name]
    numbers = [number for number, at in enumerate(mine) if at in set(lost)]
    for target, dealt in zip(others, _dealt(numbers, len(others)), strict=True):
        gained = [written[number] for number in dealt]
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
    if len(listed.values) in lost:
        yield Put((*root, "default"), others[0])


def _dealt(items: Sequence[Any], shares: int) -> list[Sequence[Any]]:
    """In as many runs as there are shares, as even as can be."""
    ends = [len(items) * number // shares for number in range(shares + 1)]
    return [items[ends[number] : ends[number + 1]] for number in range(shares)]


def _gained(owners: Any, path: Path, shard: str, buckets: Sequence[int]) -> Iterator[Operation]:
    """More buckets for a shard: a range that one of its entries touches is widened, any other is a new entry.

    Many of them at once are written as the shortest list that there is.
    """
    there = owners.get(shard)
    written = list(there) if isinstance(there, list) else [] if there is None else [there]
    ranges: list[tuple[int, int]] = [_range(entry) for entry in written]
    gained = runs(buckets)
    if len(gained) > _MANY:
        owned = sorted({bucket for first, last in (*ranges, *gained) for bucket in range(first, last + 1)})
        values = [written_range(*entry) for entry in runs(owned)]
        yield Put((*path, shard), values[0] if len(values) == 1 else values)
        return
    changed: set[int] = set()
    for first, last in gained:
        at = next((at for at, (low, high) in enumerate(ranges) if high + 1 == first or last + 1 == low), None)
        if at is None:
            ranges.append((first, last))
            changed.add(len(ranges) - 1)
        else:
            ranges[at] = (min(first, ranges[at][0]), max(last, ranges[at][1]))
            changed.add(at)
    values = [written_range(*entry) for entry in ranges]
    if not isinstance(there, list):
        yield Put((*path, shard), values[0] if len(values) == 1 else values)
        return
    for at in sorted(changed):
        yield Put((*path, shard, at), values[at]) if at < len(written) else Insert((*path, shard), at, values[at])


def _range(entry: Any) -> tuple[int, int]:
    first, _, last = str(entry).partition("-")
    try:
        return int(first), int(last or first)
    except ValueError:
        raise EditRefused(
            "the owners of buckets are written with a variable", hint="Write the buckets out, and run it again."
        ) from None


def runs(buckets: Iterable[int]) -> list[tuple[int, int]]:
    """Ascending buckets as ranges, first and last included."""
    found: list[tuple[int, int]] = []
    for bucket in buckets:
        if found and found[-1][1] + 1 == bucket:
            found[-1] = (found[-1][0], bucket)
        else:
            found.append((bucket, bucket))
    return found


def written_range(first: int, last: int) -> str | int:
    """Buckets as the file has them: `7`, `0-1023`."""
    return first if first == last else f"{first}-{last}"


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
    pinned = _at(data, path)
    at = next((at for at, entry in _pins(pinned) if canonical_key(entry, keyspace.key_types) == value), None)
    if shard is None:
        if at is None:
            raise EditRefused(f"the key is not pinned in keyspace {keyspace.name}")
        return [Remove((*path, at))]
    if at is not None:
        return [Put((*path, at) if isinstance(pinned, Mapping) else (*path, at, "shard"), shard)]
    written = _written_key(value)
    # Nothing can be put between the braces that the last pin leaves empty: they are written anew.
    if len(keyspace.key_types) > 1 or (pinned and isinstance(pinned, list)):
        entry = {"key": written, "shard": shard}
        return [Insert(path, len(pinned), entry)] if pinned else [Put(path, [entry])]
    return [Put((*path, written), shard)] if pinned else [Put(path, {written: shard})]


def _pins(pinned: Any) -> Iterator[tuple[Any, Any]]:
    """Where each pinned key is written, and the key."""
    if isinstance(pinned, Mapping):
        yield from ((key, key) for key in pinned)
    elif pinned is not None:
        yield from ((at, entry["key"]) for at, entry in enumerate(pinned))


def _written_key(key: KeyValue) -> Any:
    parts = [part if isinstance(part, int) else key_text(part) for part in key_parts(key)]
    return parts[0] if len(parts) == 1 else parts


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
    lower = {"below": _written_key(value), "shard": owner}
    upper = [Put((*path, at + 1, "shard"), shard)] if shard not in (None, owner) else []
    return [Insert(path, at, lower), *upper]


def rename_shard(data: Any, topology: Topology, name: str, new: str) -> list[Operation]:
    """A shard is called otherwise, everywhere in the file. Raises `UnknownShard`, `EditRefused`."""
    topology.shard(name)
    if new in topology.shards:
        raise EditRefused(f'there is a shard "{new}" already')
    return [*_renamed_values(data, name, new), *_renamed_keys(data, name, new)]


def _renamed_keys(data: Any, name: str, new: str) -> Iterator[Operation]:
    yield RenameKey(("shards", name), new)
    for space, fields in (data.get("keyspaces") or {}).items():
        for path in (("hash", "owners"), ("list",)):
            if name in (_at(fields, path) or {}):
                yield RenameKey(("keyspaces", space, *path, name), new)


def _renamed_values(data: Any, name: str, new: str) -> Iterator[Operation]:
    for space, fields in (data.get("keyspaces") or {}).items():
        root: Path = ("keyspaces", space)
        if fields.get("default") == name:
            yield Put((*root, "default"), new)
        for at, entry in enumerate(fields.get("range") or []):
            if entry.get("shard") == name:
                yield Put((*root, "range", at, "shard"), new)
        for entry, shard in _pin_owners(fields.get("pinned")):
            if shard == name:
                yield Put((*root, "pinned", *entry), new)
    for table, shard in (data.get("single_tables") or {}).items():
        if shard == name:
            yield Put(("single_tables", table), new)


def _pin_owners(pinned: Any) -> Iterator[tuple[Path, Any]]:
    """Where the shard of each pinned key is written, and the shard."""
    if isinstance(pinned, Mapping):
        yield from (((key,), shard) for key, shard in pinned.items())
    elif pinned is not None:
        yield from (((at, "shard"), entry["shard"]) for at, entry in enumerate(pinned))


def _at(data: Any, path: Sequence[Any]) -> Any:
    for part in path:
        if not isinstance(data, Mapping) or part not in data:
            return None
        data = data[part]
    return data


def _buckets(count: int) -> str:
    return f"{count} bucket{'' if count == 1 else 's'}"


def find_keyspace(topology: Topology, name: str | None, kind: type[Hash] | type[Range]) -> Keyspace:
    """The keyspace of that name, or the only one of that kind; raises `UnknownKeyspace`."""
    if name is not None:
        return topology.keyspace(name)
    fitting = [keyspace for keyspace in topology.keyspaces.values() if isinstance(keyspace.partitioning, kind)]
    if len(fitting) == 1:
        return fitting[0]
    raise UnknownKeyspace(
        f"fleet {topology.fleet} has {len(fitting)} keyspaces placed by {kind.__name__.lower()}, and none was named",
        hint="Name it with --keyspace. " + nearest("", (keyspace.name for keyspace in fitting)),
    )


def applied(data: Any, operations: Iterable[Operation]) -> Any:
    """The plain data after the operations; what is given is not changed."""
    copy = _copy(data)
    for operation in operations:
        above = copy
        *way, last = operation.path
        for part in way:
            above = above[part]
        match operation:
            case Put():
                above[last] = _copy(operation.value)
            case Remove():
                del above[last]
            case Insert():
                above[last].insert(operation.index, _copy(operation.value))
            case RenameKey():
                items = list(above.items())
                above.clear()
                above.update((operation.name if key == last else key, value) for key, value in items)
    return copy


def _copy(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(value) for value in data] if isinstance(data, list) else data
