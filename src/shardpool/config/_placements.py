"""How a keyspace places its rows: hash, range or list → a partitioning, and the shard of each of its buckets."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import nearest
from ..partitioning import MAX_BUCKETS, Hash, KeyType, KeyValue, List, Partitioning, Range
from . import _models as models
from ._keys import OwnedKeys, pinned_keys, read_key
from ._nodes import YamlNode
from ._owners import read_owners
from ._problems import Problems

Placement = tuple[Partitioning, list[str]]
"""A partitioning, and the shard of each bucket."""


@dataclass(frozen=True, slots=True)
class ShardNames:
    """The names that are declared, whether or not their shards are good."""

    declared: Collection[str]
    problems: Problems

    def check(self, node: YamlNode) -> bool:
        """Whether the value of `node` names a shard; reported if not."""
        if node.value in self.declared:
            return True
        # What a variable holds is not told: it may be a secret that is in the wrong place.
        self.problems.add(node, *self._unknown(node.text if node.literal is None else ""))
        return False

    def check_key(self, node: YamlNode) -> bool:
        """Whether the key of `node` names a shard; reported if not."""
        if node.key in self.declared:
            return True
        self.problems.add_at_key(node, *self._unknown(str(node.key)))
        return False

    def _unknown(self, name: str) -> tuple[str, str]:
        return f"no shard {name}" if name else "no name of a shard", nearest(name, self.declared)


def _place_by_hash(
    fields: models.KeyspaceFields, node: YamlNode, names: ShardNames, problems: Problems
) -> Placement | None:
    """The placement of `hash` and `pinned`, or None; what is wrong goes to the problems."""
    hashed = fields.hash
    assert hashed is not None
    owners = node.fields["hash"].fields["owners"]
    known = [names.check_key(place) for place in owners.fields.values()]
    pinned = OwnedKeys(fields.key, "pinned", problems)
    for key, shard in pinned_keys(node.at("pinned"), problems):
        known.append(names.check(shard))
        pinned.add(key, shard.text)
    if hashed.buckets + len(pinned.shard_by_key) > MAX_BUCKETS:
        place = node.fields["hash"].fields["buckets"]
        problems.add(place, f"more than {MAX_BUCKETS} buckets", "4096 are enough for hundreds of shards.")
        return None
    shard_by_bucket = read_owners(owners, hashed.buckets, problems)
    if shard_by_bucket is None or not all(known):
        return None
    partitioning = Hash(fields.key, hashed.function, hashed.buckets, tuple(pinned.shard_by_key))
    return partitioning, [*shard_by_bucket, *pinned.shard_by_key.values()]


def _place_by_range(
    fields: models.KeyspaceFields, node: YamlNode, names: ShardNames, problems: Problems
) -> Placement | None:
    """The placement of `range`, or None; what is wrong goes to the problems."""
    entries = node.fields["range"]
    if len(fields.key) != 1:
        problems.add_at_key(entries, "range with a key of several columns", "Use hash, or a key of one column.")
        return None
    if not 1 <= len(entries.items) <= MAX_BUCKETS:
        if not entries.damaged:
            message = f"a range has 1 to {MAX_BUCKETS} entries"
            problems.add_at_key(entries, message, "Write [{below: …, shard: …}, {shard: …}].")
        return None
    known = [names.check(entry.fields["shard"]) for entry in entries.items]
    bounds = _bounds(entries, fields.key, problems)
    if bounds is None or not all(known):
        return None
    return Range(fields.key, tuple(bounds)), [entry.fields["shard"].text for entry in entries.items]


def _bounds(entries: YamlNode, key_types: tuple[KeyType, ...], problems: Problems) -> list[KeyValue | None] | None:
    """The bound of each entry, ascending; None when one is missing or wrong."""
    bounds: list[Any] = []
    good = not entries.damaged
    highest: Any = None
    for entry in entries.items:
        below = entry.at("below")
        bound = None if below is None else read_key(below, key_types, problems)
        if below is None:
            good &= _may_be_open(entry, entries, problems)
        elif bound is None:
            good = False
        elif highest is not None and not highest < bound:
            good = False
            message = "equals the bound above" if highest == bound else "is less than the bound above"
            problems.add(below, message, "Sort the entries by below, each once, so that no key is in two of them.")
        else:
            highest = bound
        bounds.append(bound)
    return bounds if good else None


def _may_be_open(entry: YamlNode, entries: YamlNode, problems: Problems) -> bool:
    if entry is entries.items[-1]:
        return True
    if "below" not in entry.lost:
        problems.add(entry, "needs below", "Only the last entry may leave it out: it holds the rest.")
    return False


def _place_by_list(
    fields: models.KeyspaceFields, node: YamlNode, names: ShardNames, problems: Problems
) -> Placement | None:
    """The placement of `list` and `default`, or None; what is wrong goes to the problems."""
    listed, default = node.fields["list"], node.at("default")
    known = [names.check_key(place) for place in listed.fields.values()]
    keys = OwnedKeys(fields.key, "listed", problems)
    for shard, place in listed.fields.items():
        if not isinstance(place.value, list):
            problems.add(place, "must be a list of keys", "Write [de, fr].")
        for item in place.items:
            keys.add(item, str(shard))
    shard_by_bucket = list(keys.shard_by_key.values())
    if default is not None:
        known.append(names.check(default))
        shard_by_bucket.append(default.text)
    if 1 <= len(shard_by_bucket) <= MAX_BUCKETS and all(known):
        return List(fields.key, tuple(keys.shard_by_key), default is not None), shard_by_bucket
    if not listed.fields or len(shard_by_bucket) > MAX_BUCKETS:
        problems.add_at_key(listed, f"a list has 1 to {MAX_BUCKETS} keys", "Write {s0: [de, fr]}.")
    return None


PLACE_BY_FIELD: Mapping[str, Callable[[models.KeyspaceFields, YamlNode, ShardNames, Problems], Placement | None]] = {
    "hash": _place_by_hash,
    "range": _place_by_range,
    "listed": _place_by_list,
}
"""How each strategy is read, by the field of `KeyspaceFields` that has it."""
