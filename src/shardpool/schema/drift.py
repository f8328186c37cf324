"""Where the schemas of the shards differ: objects by name, those that most shards agree on being right. Pure."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from typing import Any

from ..topology import Topology, qualified

Key = tuple[str, str]
"""Kind and name."""


@dataclass(frozen=True, slots=True)
class Thing:
    """An object of a schema; `table` is the one that it belongs to, if any."""

    kind: str
    name: str
    table: str | None
    definition: str


@dataclass(frozen=True, slots=True)
class ObjectDifference:
    """One object that is otherwise on one shard than where it is taken to be right."""

    shard: str
    kind: str
    name: str
    here: str | None
    elsewhere: str | None

    def __str__(self) -> str:
        name = self.name.removeprefix("public.")
        if self.here is None:
            return f"{self.shard}: {self.kind} {name} is missing"
        if self.elsewhere is None:
            return f"{self.shard}: {self.kind} {name} is only here" + (f": {_short(self.here)}" if self.here else "")
        return f"{self.shard}: {self.kind} {name} is {_short(self.here)}, elsewhere {_short(self.elsewhere)}"

    def as_dict(self) -> dict[str, str | None]:
        """JSON-ready."""
        return {
            "shard": self.shard,
            "kind": self.kind,
            "name": self.name,
            "here": self.here,
            "elsewhere": self.elsewhere,
        }


def _short(text: str) -> str:
    line = " ".join(text.split())
    return (line if len(line) <= 160 else line[:159] + "…") or "plain"


@dataclass(frozen=True, slots=True)
class Drift:
    """`digests` are of what all shards have to have alike; equal digests are equal schemas."""

    digests: Mapping[str, str]
    differences: tuple[ObjectDifference, ...]
    unreached: Mapping[str, BaseException]

    @property
    def ok(self) -> bool:
        return not self.differences and not self.unreached

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        from .report import error_text

        return {
            "ok": self.ok,
            "digests": dict(self.digests),
            "differences": [difference.as_dict() for difference in self.differences],
            "unreached": {shard: error_text(error) for shard, error in self.unreached.items()},
        }


@cache
def query() -> str:
    """The query for the rows of `things`; to be run with an empty search_path."""
    return files("shardpool.schema").joinpath("drift.sql").read_text(encoding="utf-8")


def things(rows: Iterable[Sequence[Any]], topology: Topology, ignore: Sequence[str] = ()) -> dict[Key, Thing]:
    """What all shards have to have alike: single tables and what `ignore` matches (patterns of names) left out."""
    single = {qualified(table) for table in topology.single_tables}
    # What is left by another tool of migrations is its own business.
    patterns = [pattern if "." in pattern else f"public.{pattern}" for pattern in ignore]
    thing_by_key = {}
    for kind, name, table, definition in rows:
        owner = qualified(table) if table is not None else None
        if owner in single or any(fnmatchcase(part, p) for p in patterns for part in filter(None, (name, owner))):
            continue
        thing_by_key[kind, name] = Thing(kind, name, owner, definition or "")
    return thing_by_key


def digest(thing_by_key: Mapping[Key, Thing]) -> str:
    """The sha256 of a schema, whatever the order in which it was made."""
    text = "\n".join(f"{kind}\0{name}\0{thing_by_key[kind, name].definition}" for kind, name in sorted(thing_by_key))
    return hashlib.sha256(text.encode()).hexdigest()


def compare(
    things_by_shard: Mapping[str, Mapping[Key, Thing]], reference: str | None = None
) -> tuple[ObjectDifference, ...]:
    """Each shard against the reference; without one, each object against what most shards have, in doubt the first."""
    differences: list[ObjectDifference] = []
    keys = sorted({key for thing_by_key in things_by_shard.values() for key in thing_by_key})
    for key in keys:
        here = {shard: _definition(thing_by_key, key) for shard, thing_by_key in things_by_shard.items()}
        right = here[reference] if reference is not None else _most(list(here.values()))
        for shard, definition in here.items():
            if definition != right and not _is_implied(key, shard, right, things_by_shard, here):
                differences.append(ObjectDifference(shard, key[0], key[1], definition, right))
    order = list(things_by_shard)
    return tuple(sorted(differences, key=lambda d: (order.index(d.shard), d.kind != "table", d.name)))


def _definition(thing_by_key: Mapping[Key, Thing], key: Key) -> str | None:
    thing = thing_by_key.get(key)
    return None if thing is None else thing.definition


def _most(definitions: Sequence[str | None]) -> str | None:
    return Counter(definitions).most_common(1)[0][0]


def _is_implied(
    key: Key,
    shard: str,
    right: str | None,
    things_by_shard: Mapping[str, Mapping[Key, Thing]],
    here: Mapping[str, str | None],
) -> bool:
    """Whether another difference says it already: of a table that is not there, or of its columns."""
    kind, _ = key
    thing = next(things[key] for things in things_by_shard.values() if key in things)
    if kind not in ("table", "foreign table", "view", "materialized view") and thing.table is not None:
        has_table = _has(things_by_shard[shard], thing.table)
        if has_table != any(
            _has(things, thing.table)
            for other, things in things_by_shard.items()
            if other != shard and here[other] == right
        ):
            return True
    if kind == "order of columns":
        mine, theirs = here[shard], right
        return mine is None or theirs is None or set(mine.split(", ")) != set(theirs.split(", "))
    return False


def _has(thing_by_key: Mapping[Key, Thing], table: str) -> bool:
    return any((kind, table) in thing_by_key for kind in ("table", "foreign table", "view", "materialized view"))
