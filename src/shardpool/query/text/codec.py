"""Trees as the parser gives and takes them: read from its JSON, written as protobuf for its own writer."""

from __future__ import annotations

import json
from typing import Any

from . import parser
from .descriptors import field_of_node, node_tag
from .tree import MESSAGES, PLACES, Node, Repeated, class_of, repeated
from .wire import varint

# As many messages within each other as protobuf reads: what walks trees calls itself for each.
_DEPTH_MAX = 100


class TooDeep(Exception):
    """A tree has more levels than are read."""


def read(sql: str) -> list[Any]:
    """What the statements of a text are, each in its kind. Raises `parser.ParserError` and `TooDeep`."""
    text = parser.parse(sql)
    try:
        parsed = _message(class_of("ParseResult"), json.loads(text.decode()), 1)
    except RecursionError:
        raise TooDeep from None
    return [raw.stmt.held for raw in parsed.stmts]


def encoded(statement: Any) -> bytes:
    """A statement as the `ParseResult` that the parser's own writer reads."""
    inside = _encoded(statement)
    for tag in (
        node_tag(field_of_node(type(statement).__name__)),
        _tag("RawStmt", "stmt"),
        _tag("ParseResult", "stmts"),
    ):
        inside = tag + varint(len(inside)) + inside
    return inside


def is_read_as(sql: str, statement: Any) -> bool:
    """Whether a text says what a statement says. Raises `parser.ParserError`."""
    raws = json.loads(parser.parse(sql).decode())["stmts"]
    return len(raws) == 1 and _is(Node.of(statement), raws[0]["stmt"])


def _message(cls: Any, raw: dict[str, Any], depth: int) -> Any:
    """A message from its JSON."""
    if depth > _DEPTH_MAX:
        raise TooDeep
    made = cls()
    values = made.__dict__
    names = cls.JSON
    for key, value in raw.items():
        name, of, numbers = names[key]
        if value.__class__ is dict:
            values[name] = _node(value, depth + 1) if of == "Node" else _message(class_of(of), value, depth + 1)
        elif value.__class__ is not list:
            values[name] = value if numbers is None else numbers[value]
        elif of == "Node":
            values[name] = Repeated([_node(item, depth + 1) for item in value])
        else:
            values[name] = repeated(of, [_message(class_of(of), item, depth + 1) for item in value])
    return made


def _node(raw: dict[str, Any], depth: int) -> Any:
    if depth > _DEPTH_MAX:
        raise TooDeep
    node = Node()
    for kind, value in raw.items():
        node.field = field_of_node(kind)
        node.held = _message(class_of(kind), value, depth + 1)
    return node


def _is(message: Any, raw: dict[str, Any]) -> bool:
    """Whether a message says what some JSON says."""
    if type(message) is Node:
        if not message.field or not raw:
            return not message.field and not raw
        ((kind, raw),) = raw.items()
        message = message.held
        if kind != type(message).__name__:
            return False
    values = message.__dict__
    same = 0
    for key, value in raw.items():
        name, _, numbers = message.JSON[key]
        if name in PLACES:
            continue
        ours = values.get(name)
        if value.__class__ is dict:
            if ours is None or not _is(ours, value):
                return False
        elif value.__class__ is list:
            if ours is None or len(ours) != len(value) or not all(map(_is, ours, value)):
                return False
        elif ours != (value if numbers is None else numbers[value]):
            return False
        same += 1
    # What is set as if it were not does not count.
    return same == len(values) or same == sum(
        name not in PLACES and (bool(value) or value.__class__ in MESSAGES) for name, value in values.items()
    )


def _encoded(message: Any) -> bytes:
    if type(message) is Node:
        if not message.field:
            return b""
        inside = _encoded(message.held)
        return node_tag(message.field) + varint(len(inside)) + inside
    chunks: list[bytes] = []
    values = message.__dict__
    for name, field in message.FIELDS.items():
        value = values.get(name)
        if not value and value.__class__ not in MESSAGES:
            continue
        if field.of is not None:
            for item in value if field.is_repeated else (value,):
                inside = _encoded(item)
                chunks += (field.tag, varint(len(inside)), inside)
        elif value.__class__ is str:
            inside = value.encode()
            chunks += (field.tag, varint(len(inside)), inside)
        else:
            chunks += (field.tag, varint(value))
    return b"".join(chunks)


def _tag(kind: str, field: str) -> bytes:
    return bytes(class_of(kind).FIELDS[field].tag)
