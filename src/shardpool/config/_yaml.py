"""YAML text → a tree of nodes.

Reads libyaml's events instead of the ready-made constructors: they silently keep the last of two equal keys, build what
tags ask for, recurse as deep as the file says, and forget where a value stood.
"""

from __future__ import annotations

import re
from typing import Any, NoReturn

import yaml

from ._nodes import Scalar, YamlNode
from ._problems import Problems
from ._scalars import QUOTE, AmbiguousScalar, resolve

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 32
MAX_NODES = 200_000

_HAS_LIBYAML = hasattr(yaml, "CSafeLoader")
LOADER: Any = yaml.CSafeLoader if _HAS_LIBYAML else yaml.SafeLoader
_UNPRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_BRACKET = re.compile(r"[\[\]{}]")
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"
_NO_TOPOLOGY = "No topology needs that: is this the right file?"


class Unreadable(Exception):
    """The text gives no tree; the reason is among the problems."""


def read_yaml(text: str, problems: Problems) -> YamlNode:
    """The root of the tree; what is refused within it goes to `problems`. Raises `Unreadable` when there is no tree."""
    _check_text(text, problems)
    builder = _Builder(problems)
    try:
        for event in yaml.parse(text, Loader=LOADER):
            builder.feed(event)
    except yaml.MarkedYAMLError as error:
        _check_depth(text, error.problem_mark, problems)
        # The pure Python loader quotes the text around the place, which may be a password: say only where.
        what = f": {error.problem}" if _HAS_LIBYAML and error.problem else ""
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
        problems.add_at(
            line, column, "", f"not readable as YAML{what}", "Check indentation, brackets and quotes up to here."
        )
        raise Unreadable from None
    if builder.root is None:
        problems.add_at(1, 1, "", "the file is empty", "Start with version: 1, fleet, epoch and shards.")
        raise Unreadable
    return builder.root


def _check_text(text: str, problems: Problems) -> None:
    if len(text) > MAX_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        problems.add_at(1, 1, "", f"the file is larger than {MAX_BYTES // 1024 // 1024} MiB", _NO_TOPOLOGY)
        raise Unreadable
    if unprintable := _UNPRINTABLE.search(text):
        hint = 'Write it as an escape in double quotes ("\\u….").'
        _refuse_at(
            text, unprintable.start(), f"control character U+{ord(unprintable[0]):04X} in the file", hint, problems
        )


def _check_depth(text: str, mark: Any, problems: Problems) -> None:
    """Told as our limit if the brackets up to where the library has given up are nested deeper than that.

    The library reads ahead of what it tells, and has a limit of its own since PyYAML 6.0.4, which then comes first.
    Quotes are not looked at: this only words the refusal of a text that cannot be read anyhow.
    """
    depth = 0
    for bracket in _BRACKET.finditer(text, 0, mark.index if mark else len(text)):
        depth = depth + 1 if bracket[0] in "[{" else max(depth - 1, 0)
        if depth > MAX_DEPTH:
            _refuse_at(text, bracket.start(), _TOO_DEEP, _NO_TOPOLOGY, problems)


def _refuse_at(text: str, at: int, message: str, hint: str, problems: Problems) -> NoReturn:
    problems.add_at(text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at), "", message, hint)
    raise Unreadable


class _Builder:
    """Makes the tree from events, one `feed` per event, without recursion over the text."""

    def __init__(self, problems: Problems) -> None:
        self.root: YamlNode | None = None
        self._problems = problems
        # The containers that are open, with the anchor of each and, for mappings, the key that waits for its value.
        self._open: list[YamlNode] = []
        self._anchor_of_open: list[str | None] = []
        self._keys: list[YamlNode | None] = []
        self._anchors: dict[str, YamlNode] = {}
        self._nodes = 0
        self._documents = 0

    def feed(self, event: Any) -> None:
        kind = type(event)
        if kind is yaml.ScalarEvent:
            self._scalar(event)
        elif kind is yaml.MappingStartEvent:
            self._start(event, {})
        elif kind is yaml.SequenceStartEvent:
            self._start(event, [])
        elif kind is yaml.MappingEndEvent or kind is yaml.SequenceEndEvent:
            self._end()
        elif kind is yaml.AliasEvent:
            self._alias(event)
        elif kind is yaml.DocumentStartEvent:
            self._document(event)

    def _document(self, event: Any) -> None:
        self._documents += 1
        if self._documents > 1:
            self._stop(event, "a second YAML document", "A topology is one document: remove the line ---.")

    def _scalar(self, event: Any) -> None:
        node = self._new(event, event.value)
        node.text = event.value
        is_key = self._awaits_key()
        # A key's node knows its mapping only: its own text is no part of the path, it may be no name at all.
        node.parent, node.key = (self._open[-1], None) if is_key else self._next_place()
        if event.tag is not None:
            self._problems.add(node, "a tag (!…)", "Tags are not used here; a text that starts with ! needs quotes.")
        elif event.implicit[0]:
            self._resolve(node)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        if is_key:
            self._keys[-1] = self._checked_key(node)
        else:
            self._place(node)

    def _resolve(self, node: YamlNode) -> None:
        try:
            node.value = resolve(node.text)
        except AmbiguousScalar as why:
            self._problems.add(node, str(why), why.hint)

    def _checked_key(self, node: YamlNode) -> YamlNode:
        if isinstance(node.value, float | bool) or node.value is None:
            self._problems.add(node, "a key that is neither text nor a whole number", QUOTE)
            node.value = node.text
        return node

    def _start(self, event: Any, value: dict[Any, YamlNode] | list[YamlNode]) -> None:
        if self._awaits_key():
            self._stop(event, "a list or mapping as a key", "Keys are names or numbers.")
        node = self._new(event, value)
        node.parent, node.key = self._next_place()
        if event.tag is not None:
            self._problems.add(node, "a tag (!…)", "Tags are not used here; a text that starts with ! needs quotes.")
        self._place(node)
        self._open.append(node)
        self._keys.append(None)
        self._anchor_of_open.append(event.anchor)
        if len(self._open) > MAX_DEPTH:
            self._stop(event, _TOO_DEEP, _NO_TOPOLOGY)

    def _end(self) -> None:
        node = self._open.pop()
        self._keys.pop()
        if (anchor := self._anchor_of_open.pop()) is not None:
            # Only now, so that an alias inside its own anchor is unknown rather than endless.
            self._anchors[anchor] = node

    def _alias(self, event: Any) -> None:
        target = self._anchors.get(event.anchor)
        if target is None or self._awaits_key():
            # The name is not repeated: an unquoted password that starts with * looks like this too.
            hint = "An anchor (&name) comes before its aliases; a text that starts with * needs quotes."
            self._stop(event, "an alias (*name) without an anchor above, or as a key", hint)
        else:
            copy = self._copy(target, event, len(self._open))
            copy.parent, copy.key = self._next_place()
            self._place(copy)

    def _copy(self, node: YamlNode, event: Any, depth: int) -> YamlNode:
        """A copy for another place of the tree: counted as if it was written out, so that aliases cannot multiply."""
        copy = self._new(event, node.value)
        copy.line, copy.column, copy.text = node.line, node.column, node.text
        if isinstance(node.value, dict | list):
            if depth >= MAX_DEPTH:
                self._stop(event, _TOO_DEEP, _NO_TOPOLOGY)
            copy.value = type(node.value)()
            for child in list(node.fields.values()) or node.items:
                below = self._copy(child, event, depth + 1)
                below.key, below.key_line, below.key_column = child.key, child.key_line, child.key_column
                copy.adopt(below)
        return copy

    def _awaits_key(self) -> bool:
        return bool(self._open) and isinstance(self._open[-1].value, dict) and self._keys[-1] is None

    def _next_place(self) -> tuple[YamlNode | None, Scalar]:
        """The parent and the key or index of the value that comes next."""
        if not self._open:
            return None, None
        parent, key = self._open[-1], self._keys[-1]
        if isinstance(parent.value, list):
            return parent, len(parent.value)
        return parent, key.value if key is not None else None

    def _place(self, node: YamlNode) -> None:
        """Put a value where the text has it: as the root, a list item or the value of the last key."""
        if not self._open:
            self.root = node
            return
        mapping, key = self._open[-1], self._keys[-1]
        where = key or node
        node.key_line, node.key_column = where.line, where.column
        self._keys[-1] = None
        if isinstance(mapping.value, dict) and (first := mapping.value.get(node.key)) is not None:
            # What stands without a value, or beside a password, may be the rest of an unquoted one: not repeated.
            named = mapping if node.value is None or "password" in mapping.fields else node
            hint = f"It is on line {first.key_line} already: keep one of them."
            self._problems.add_at(where.line, where.column, named.path, "duplicate key", hint)
        else:
            mapping.adopt(node)

    def _new(self, event: Any, value: Any) -> YamlNode:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            self._stop(event, f"more than {MAX_NODES} values, aliases counted as they are used", _NO_TOPOLOGY)
        mark = event.start_mark
        return YamlNode(mark.line + 1, mark.column + 1, value)

    def _stop(self, event: Any, message: str, hint: str) -> NoReturn:
        mark = event.start_mark
        parent, _ = self._next_place()
        self._problems.add_at(mark.line + 1, mark.column + 1, parent.path if parent else "", message, hint)
        raise Unreadable
