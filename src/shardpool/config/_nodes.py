"""The file as a tree of nodes: each value with its line, column and YAML path, so that any check can say where."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

Scalar = str | int | float | bool | None
Span = tuple[int, int]

_PASSWORD = re.compile("pass|pwd|secret", re.I)
_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(slots=True, eq=False)
class YamlNode:
    """One value of the file. Lines and columns count from 1; `key_line` and `key_column` are those of its key.

    `value` is a scalar, a list of nodes or a dict of nodes; `text` is a scalar as it was written. `key` is the key or
    the index in the parent; None for a part of a URL, which has no place of its own.
    `literal` is None while the whole text stands in the file; after interpolation it holds the spans that do.
    `lost` holds the keys of children that were refused and taken out, `damaged` says that there are such anywhere
    below: nothing follows from their absence.
    """

    line: int
    column: int
    value: Any
    text: str = ""
    parent: YamlNode | None = None
    key: Scalar = None
    key_line: int = 0
    key_column: int = 0
    literal: tuple[Span, ...] | None = None
    lost: tuple[Any, ...] = ()
    damaged: bool = False

    @property
    def path(self) -> str:
        """`shards.s0.replicas[0].host`; keys that hold a dot are quoted. It ends at a password, whatever is below."""
        parts: list[str] = []
        node: YamlNode | None = self
        while node is not None and node.parent is not None:
            if isinstance(node.key, str) and _PASSWORD.search(node.key):
                parts.clear()
            if node.key is not None:
                parts.append(_path_part(node))
            node = node.parent
        return "".join(reversed(parts)).removeprefix(".")

    @property
    def fields(self) -> dict[Any, YamlNode]:
        """The children of a mapping; empty for anything else."""
        return self.value if isinstance(self.value, dict) else {}

    @property
    def items(self) -> list[YamlNode]:
        """The children of a list; empty for anything else."""
        return self.value if isinstance(self.value, list) else []

    def at(self, *keys: Any) -> YamlNode | None:
        """The node below, or None."""
        node: YamlNode | None = self
        for key in keys:
            if node is None:
                return None
            node = node.fields.get(key)
        return node

    def adopt(self, child: YamlNode) -> None:
        """Make `child` the last one of this list or mapping."""
        child.parent = self
        if isinstance(self.value, list):
            self.value.append(child)
        else:
            self.value[child.key] = child

    def take_out(self) -> None:
        """Remove this node from its parent, and mark everything above as damaged."""
        parent = self.parent
        if parent is None:
            return
        if isinstance(parent.value, list):
            parent.value[:] = [node for node in parent.value if node is not self]
        elif isinstance(parent.value, dict):
            for key in [key for key, node in parent.value.items() if node is self]:
                del parent.value[key]
                parent.lost = (*parent.lost, key)
        above: YamlNode | None = parent
        while above is not None and not above.damaged:
            above.damaged = True
            above = above.parent

    def holds_literal(self, start: int, end: int) -> bool:
        """Whether any of `text[start:end]` stands in the file itself rather than in the environment."""
        if self.literal is None:
            return end > start
        return any(first < end and start < last for first, last in self.literal)

    def plain(self) -> Any:
        """The value as plain dicts, lists and scalars."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def tree_of(data: Any) -> YamlNode:
    """The tree of plain data, which stands in no file."""
    root = YamlNode(0, 0, None)
    _fill(root, data)
    return root


def _fill(node: YamlNode, data: Any) -> None:
    if isinstance(data, dict | list):
        node.value = type(data)()
        for key, value in data.items() if isinstance(data, dict) else enumerate(data):
            child = YamlNode(0, 0, None, key=key)
            node.adopt(child)
            _fill(child, value)
    else:
        node.value, node.text = data, "" if data is None else str(data)


def _path_part(node: YamlNode) -> str:
    if node.parent is not None and isinstance(node.parent.value, list):
        return f"[{node.key}]"
    key = str(node.key)
    return f".{key}" if _SIMPLE_KEY.fullmatch(key) else f".{json.dumps(key, ensure_ascii=False)}"
