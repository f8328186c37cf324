"""What kinds of parse nodes PostgreSQL has, and their fields: read from the descriptors that `postgast` ships."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from . import parser
from .wire import bytes_tag, fields, int_tag

# Of descriptor.proto: numbers of fields, and types of fields.
_FILE, _MESSAGE, _ENUM = 1, 4, 5
_NAME, _FIELD, _VALUE = 1, 2, 2
_NUMBER, _LABEL, _TYPE, _TYPE_NAME, _ONEOF_INDEX, _JSON_NAME = 3, 4, 5, 6, 9, 10
_REPEATED = 3
_DOUBLE, _BOOL, _STRING, _OF_MESSAGE, _OF_ENUM = 1, 8, 9, 11, 14


@dataclass(frozen=True, slots=True)
class NodeField:
    """A field: `of` is the kind of its messages, None of a scalar; `numbers` are those of an enum's names."""

    name: str
    number: int
    is_repeated: bool
    of: str | None
    numbers: dict[str, int] | None
    default: Any
    is_one_of: bool
    tag: bytes

    @property
    def names(self) -> dict[int, str]:
        """The names of an enum by their numbers."""
        return {number: name for name, number in (self.numbers or {}).items()}


@dataclass(frozen=True, slots=True)
class _Descriptors:
    """The descriptors of messages and enums by their names, not yet looked into."""

    messages: dict[str, bytes]
    enums: dict[str, bytes]
    kind_by_field: dict[str, str]


@cache
def _descriptors() -> _Descriptors:
    data = (parser.folder() / "pg_query.desc").read_bytes()
    data_by_name: dict[int, dict[str, bytes]] = {_MESSAGE: {}, _ENUM: {}}
    for _, file in (item for item in fields(data) if item[0] == _FILE):
        for number, value in fields(file):
            if number in data_by_name:
                data_by_name[number][next(text for name, text in fields(value) if name == _NAME).decode()] = value
    by_field = {}
    for number, value in fields(data_by_name[_MESSAGE]["Node"]):
        if number == _FIELD:
            values = dict(fields(value))
            by_field[values[_NAME].decode()] = _last(values[_TYPE_NAME])
    return _Descriptors(data_by_name[_MESSAGE], data_by_name[_ENUM], by_field)


def kind_of(field: str) -> str:
    """The kind of messages that a Node holds in that field; raises KeyError where it has none of that name."""
    return _descriptors().kind_by_field[field]


@cache
def field_of_node(kind: str) -> str:
    """The field of a Node in which it holds that kind of messages."""
    return next(field for field, held in _descriptors().kind_by_field.items() if held == kind)


def _last(type_name: bytes) -> str:
    """`.pg_query.SelectStmt` → `SelectStmt`."""
    return type_name.decode().rpartition(".")[2]


@cache
def described(kind: str) -> dict[str, tuple[NodeField, str]]:
    """The fields of a kind of messages by their names, each with its name in JSON."""
    by_name: dict[str, tuple[NodeField, str]] = {}
    for number, value in fields(_descriptors().messages[kind]):
        if number == _FIELD:
            values = dict(fields(value))
            field = _field(values)
            by_name[field.name] = field, values.get(_JSON_NAME, values[_NAME]).decode()
    return by_name


def _field(values: dict[int, Any]) -> NodeField:
    type_, number = values[_TYPE], values[_NUMBER]
    is_text = type_ in (_STRING, _OF_MESSAGE)
    return NodeField(
        values[_NAME].decode(),
        number,
        values[_LABEL] == _REPEATED,
        _last(values[_TYPE_NAME]) if type_ == _OF_MESSAGE else None,
        numbers_of(_last(values[_TYPE_NAME])) if type_ == _OF_ENUM else None,
        {_STRING: "", _BOOL: False, _DOUBLE: 0.0}.get(type_, 0),
        _ONEOF_INDEX in values,
        bytes_tag(number) if is_text else int_tag(number),
    )


@cache
def numbers_of(enum: str) -> dict[str, int]:
    """The numbers of an enum's names."""
    values = (dict(fields(value)) for number, value in fields(_descriptors().enums[enum]) if number == _VALUE)
    return {value[1].decode(): value.get(2, 0) for value in values}


@cache
def node_tag(field: str) -> bytes:
    """What comes before a message in that field of a Node, as protobuf."""
    every = (dict(fields(value)) for number, value in fields(_descriptors().messages["Node"]) if number == _FIELD)
    return next(bytes_tag(one[_NUMBER]) for one in every if one[_NAME].decode() == field)
