"""A topology file that is behind the fleet is brought up to what the shards have published, in place.

Only what says where rows and shards are is changed; comments, pools, roles and passwords stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path as FilePath
from typing import Any

from .._async.fleet import learning
from .._async.fleet.dialer import AsyncDialer
from .._async.fleet.options import AsyncConnectOptions
from .._runtime.deadlines import deadline_after
from .._runtime.watchdog import AsyncWatchdog
from ..changes import renames
from ..config import WHERE, FileSnapshot, document_data, edit_text, file_data, keyspace_data, parse_topology, shard_data
from ..errors import EditRefused
from ..partitioning.pins import pins_in
from ..partitioning.strategy import written_key
from ..patches import Insert, Operation, Path, Put, Remove, RenameKey
from ..published import Published
from ..succession import placements_differ
from ..topology import Keyspace, Topology, qualified

_WHOLE = ("hash", "pinned", "range", "list", "default")


@dataclass(frozen=True)
class Pulled:
    """What a file becomes: `text` is None where it is not behind."""

    epoch: int
    text: str | None


async def pull(current: FileSnapshot, timeout: float = 30.0) -> Pulled:
    """The text of a file with what the shards have published since; changes nothing.

    `timeout` is in seconds. Raises `EditRefused` where the shards do not agree or do not answer, `ConfigError`.
    """
    own = _parsed(current.text, current.path)
    published = await _published(own, timeout)
    if published is None:
        return Pulled(own.epoch, None)
    wanted = published.applied_to(own)
    data = file_data(current.text)
    whole: set[str] = set()
    for _ in range(2):
        operations = [*_differences(data, own, wanted, published.topology, whole)]
        text = edit_text(current.text, operations)
        new = _parsed(text, current.path)
        # The order of pins and of listed keys is part of the map.
        other = {n for n, space in wanted.keyspaces.items() if space.map_digest != new.keyspaces[n].map_digest}
        if not other:
            break
        whole |= other
    if other or (placements_differ(new, wanted) and [*new.shards] == [*wanted.shards]):
        raise EditRefused(
            "the file cannot be brought up to what the shards say in place",
            hint="Write the changes into it by hand: shardpool topology history tells them.",
        )
    return Pulled(wanted.epoch, text)


async def _published(own: Topology, timeout: float) -> Published | None:
    if own.control == "none":
        raise EditRefused("control: none: the shards carry no shardpool schema, and publish nothing")
    watchdog = AsyncWatchdog()
    try:
        dialer = AsyncDialer(AsyncConnectOptions(), watchdog)
        deadline = deadline_after(timeout)
        by_shard = await learning.editions(dialer, own, deadline)
        newest = await learning.published(dialer, own, deadline, by_shard)
    finally:
        watchdog.close()
    if not by_shard:
        raise EditRefused("no shard tells what is published", hint="See what is wrong with: shardpool topology check")
    newer = sorted({edition.epoch for editions in by_shard.values() for edition in editions})
    if newest is None and newer:
        raise EditRefused(
            f"the shards do not agree on a topology after epoch {own.epoch}",
            detail=f"Published on some: {', '.join(map(str, newer))}; "
            f"{len(by_shard)} of {len(own.shards)} shards answer.",
            hint="An edit is being made, or was not finished: run the command again that makes it. See: shardpool "
            "topology history",
        )
    return newest


def _parsed(text: str, path: FilePath) -> Topology:
    return parse_topology(text, file=str(path), folder=path.parent)


# -- the file --------------------------------------------------------------------------------------------------------


def _differences(
    data: Any, own: Topology, wanted: Topology, theirs: Topology, whole: Collection[str]
) -> Iterator[Operation]:
    """What makes of the file's data that of the wanted topology; of the keyspaces in `whole` all is written anew."""
    yield Put(("epoch",), wanted.epoch)
    yield from _shards(data, own, wanted, theirs)
    spaces = data.get("keyspaces") or {}
    yield from (Remove(("keyspaces", name)) for name in spaces if name not in wanted.keyspaces)
    for name, space in wanted.keyspaces.items():
        if name not in own.keyspaces:
            made = keyspace_data(space)
            yield Put(("keyspaces", name), made) if "keyspaces" in data else Put(("keyspaces",), {name: made})
        elif name in whole:
            yield from _entries(("keyspaces", name), _only(spaces[name], _WHOLE), _only(keyspace_data(space), _WHOLE))
        else:
            yield from _keyspace(spaces[name], own.keyspaces[name], space)
    yield from _single_tables(data, own, wanted)
    was, now = document_data(own), document_data(wanted)
    for field in ("reference_tables", "moves"):
        if was.get(field) != now.get(field):
            yield Put((field,), now[field]) if now.get(field) else Remove((field,))


def _only(fields: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name in names}


def _entries(path: Path, was: Mapping[Any, Any], now: Mapping[Any, Any]) -> Iterator[Operation]:
    """What makes of one mapping another, entry by entry."""
    yield from (Put((*path, key), value) for key, value in now.items() if key not in was or was[key] != value)
    yield from (Remove((*path, key)) for key in was if key not in now)


def _shards(data: Any, own: Topology, wanted: Topology, theirs: Topology) -> Iterator[Operation]:
    names = renames(own, wanted)
    yield from (RenameKey(("shards", old), new) for old, new in names.items())
    for name in wanted.shards:
        before = next((old for old, new in names.items() if new == name), name)
        if before not in own.shards:
            yield Put(("shards", name), shard_data(theirs.shards[name]))
        elif shard_data(own.shards[before]) != shard_data(wanted.shards[name]):
            yield from _place(data["shards"][before], ("shards", name), shard_data(wanted.shards[name]))
    yield from (Remove(("shards", name)) for name in own.shards if name not in wanted.shards and name not in names)


def _place(fields: Mapping[str, Any], path: Path, now: Mapping[str, Any]) -> Iterator[Operation]:
    """Where a shard is, in its entry of the file."""
    primary = fields.get("primary")
    if isinstance(primary, Mapping) and "primary" in now:
        yield from _entries((*path, "primary"), _only(primary, WHERE), now["primary"])
    for field in ("primary", "hosts", "replicas"):
        if field in now and not (field == "primary" and isinstance(primary, Mapping)):
            yield Put((*path, field), now[field])
        elif field in fields and field not in now:
            yield Remove((*path, field))


def _keyspace(fields: Mapping[str, Any], own: Keyspace, new: Keyspace) -> Iterator[Operation]:
    path: Path = ("keyspaces", own.name)
    was, now = keyspace_data(own), keyspace_data(new)
    if "hash" in was:
        yield from _entries((*path, "hash", "owners"), was["hash"]["owners"], now["hash"]["owners"])
        yield from _pins(fields.get("pinned"), (*path, "pinned"), own, new)
    elif "range" in was:
        yield from _ranges((*path, "range"), was["range"], now["range"])
    else:
        yield from _entries((*path, "list"), was["list"], now["list"])
        yield from _entries(path, _only(was, ["default"]), _only(now, ["default"]))
    tables = {qualified(str(table)): table for table in fields.get("tables") or {}}
    if was["tables"] != now["tables"] and tables:
        before = {tables[table]: columns for table, columns in was["tables"].items()}
        after = {tables.get(table, table.removeprefix("public.")): value for table, value in now["tables"].items()}
        yield from _entries((*path, "tables"), before, after)
    elif was["tables"] != now["tables"]:
        yield Put((*path, "tables"), now["tables"])
    yield from _entries(path, _only(was, ["lookup"]), _only(now, ["lookup"]))


def _pins(pinned: Any, path: Path, own: Keyspace, new: Keyspace) -> Iterator[Operation]:
    was = _shard_by_pin(own)
    now = _shard_by_pin(new)
    if was == now and [*was] == [*now]:
        return
    added = {key: shard for key, shard in now.items() if key not in was}
    if not was or not now or not any(key in now for key in was):
        written = [{"key": written_key(key), "shard": shard} for key, shard in now.items()]
        yield Put(path, written) if written else Remove(path)
        return
    # From the end, so that what is taken out of a list moves nothing that is still looked for.
    for (place, _), (key, shard) in reversed([*zip(pins_in(pinned), was.items(), strict=True)]):
        if key not in now:
            yield Remove((*path, place))
        elif now[key] != shard:
            yield Put((*path, place) if isinstance(pinned, Mapping) else (*path, place, "shard"), now[key])
    left = len(was) - sum(key not in now for key in was)
    for number, (key, shard) in enumerate(added.items()):
        written = written_key(key)
        if isinstance(pinned, Mapping):
            yield Put((*path, written), shard)
        else:
            yield Insert(path, left + number, {"key": written, "shard": shard})


def _shard_by_pin(space: Keyspace) -> dict[Any, str]:
    return {key: space.shard_by_bucket[bucket] for key, bucket in space.partitioning.bucket_by_own_key.items()}


def _ranges(path: Path, was: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]]) -> Iterator[Operation]:
    before, after = ([str(entry.get("below")) for entry in entries] for entries in (was, now))
    for kind, first, last, start, end in reversed(SequenceMatcher(None, before, after, autojunk=False).get_opcodes()):
        if kind == "equal":
            for at, to in zip(range(first, last), range(start, end), strict=True):
                if was[at]["shard"] != now[to]["shard"]:
                    yield Put((*path, at, "shard"), now[to]["shard"])
            continue
        yield from (Remove((*path, at)) for at in reversed(range(first, last)))
        yield from (Insert(path, first + number, dict(entry)) for number, entry in enumerate(now[start:end]))


def _single_tables(data: Any, own: Topology, wanted: Topology) -> Iterator[Operation]:
    written = {qualified(str(table)): table for table in data.get("single_tables") or {}}
    was = {written[table]: shard for table, shard in own.single_tables.items()}
    now = {written.get(table, table.removeprefix("public.")): shard for table, shard in wanted.single_tables.items()}
    if was and now:
        yield from _entries(("single_tables",), was, now)
    elif was != now:
        yield Put(("single_tables",), now) if now else Remove(("single_tables",))
