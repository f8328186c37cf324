"""Partition keys that are written in the file: pinned ones, listed ones, and the bounds of ranges."""

from __future__ import annotations

from collections.abc import Iterator

from ..errors import InvalidKey
from ..partitioning import KeyType, KeyValue, canonical_key
from ._nodes import YamlNode
from ._problems import Problems

_WRITTEN: dict[KeyType, str] = {
    "bigint": "Write a whole number from -2^63 to 2^63-1.",
    "text": 'Put it in quotes: "…".',
    "uuid": "Write it like 2f1c0a3e-5b7d-4c8e-9a10-b1c2d3e4f506.",
    "bytea": "Write it in hexadecimal: '\\x0aff'.",
    "date": "Write it like 2025-12-31.",
    "timestamptz": "Write it like 2025-12-31 12:00:00+00.",
}


def read_key(node: YamlNode, key_types: tuple[KeyType, ...], problems: Problems) -> KeyValue | None:
    """The canonical key; None, with a problem, when it is none. Its text may be a variable's, so it is not told."""
    written = node.plain()
    try:
        _check_hexadecimal(written, key_types)
        return canonical_key(written, key_types)
    except InvalidKey:
        if len(key_types) == 1:
            problems.add(node, f"is not a {key_types[0]} key", _WRITTEN[key_types[0]])
        else:
            problems.add(node, f"is not a key of {', '.join(key_types)}", f"Write a list of {len(key_types)} values.")
        return None


def _check_hexadecimal(written: object, key_types: tuple[KeyType, ...]) -> None:
    """Raise `InvalidKey` for a bytea without `\\x`: PostgreSQL would read its digits as characters."""
    parts = written if isinstance(written, list) else [written]
    for part, kind in zip(parts, key_types, strict=False):
        if kind == "bytea" and isinstance(part, str) and not part.startswith("\\x"):
            raise InvalidKey("not in hexadecimal")


class OwnedKeys:
    """Keys with the shard of each, in file order; a key can be there once."""

    def __init__(self, key_types: tuple[KeyType, ...], what: str, problems: Problems) -> None:
        self.shard_by_key: dict[KeyValue, str] = {}
        self._key_types = key_types
        self._what = what
        self._problems = problems

    def add(self, node: YamlNode, shard: str) -> None:
        """Add the key that is written at `node`, or report it."""
        key = read_key(node, self._key_types, self._problems)
        if key is None:
            return
        if key in self.shard_by_key:
            message = f"the key is {self._what} already, with shard {self.shard_by_key[key]}"
            self._problems.add(node, message, "Keep it in one place.")
        else:
            self.shard_by_key[key] = shard


def pinned_keys(pinned: YamlNode | None, problems: Problems) -> Iterator[tuple[YamlNode, YamlNode]]:
    """The nodes of each pinned key and of its shard; a key of several columns needs the list form."""
    if pinned is None:
        return
    if isinstance(pinned.value, dict):
        for key, shard in pinned.fields.items():
            yield YamlNode(shard.key_line, shard.key_column, key, str(key), pinned, key), shard
    elif isinstance(pinned.value, list):
        for entry in pinned.items:
            yield from _pinned_entry(entry, problems)
    else:
        problems.add(pinned, "must be a mapping or a list", "Write {17: s3}, or [{key: [1, de], shard: s3}].")


def _pinned_entry(entry: YamlNode, problems: Problems) -> Iterator[tuple[YamlNode, YamlNode]]:
    key, shard = entry.at("key"), entry.at("shard")
    if key is not None and shard is not None and len(entry.fields) == 2:
        yield key, shard
    elif not entry.damaged:
        problems.add(entry, "is not of the form {key: …, shard: …}", "Write {key: [1, de], shard: s3}.")
