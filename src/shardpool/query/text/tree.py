"""Syntax trees as plain objects: a class for each kind of PostgreSQL's parse nodes, made when it is first met.

The names and rules of fields are those of protobuf: a field that is not set reads as its default (0, an empty text or
list, an empty message); an empty message that is changed is set by that. A `Node` holds one message of any kind.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import cache
from typing import Any, ClassVar

from .descriptors import NodeField, described, field_of_node, kind_of

# The fields that say where in a text something stands.
PLACES = frozenset(
    ("location", "rexpr_list_start", "rexpr_list_end", "list_start", "list_end", "stmt_location", "stmt_len")
)


def without_places(message: Any, replaced: Callable[[Any], Hashable] = lambda _: None) -> Hashable:
    """All that a tree says but where in the text it stands: equal for trees that say the same.

    `replaced` gives what stands for some messages instead of what they say.
    """
    if type(message) is Node:
        return without_places(message.held, replaced) if message.field else None
    other = replaced(message)
    if other is not None:
        return other
    said: list[Hashable] = [type(message).__name__]
    values = message.__dict__
    for name in sorted(values):
        value = values[name]
        if value.__class__ is Repeated:
            if value:
                said += (name, tuple([without_places(item, replaced) for item in value]))
        elif value.__class__ in _SCALARS:
            if value and name not in PLACES:
                said += (name, value)
        elif name != "_owner":
            said += (name, without_places(value, replaced))
    return tuple(said)


def copy(message: Any) -> Any:
    """A deep copy of a message."""
    if type(message) is Node:
        return Node.of(copy(message.held)) if message.field else Node()
    made = type(message)()
    values = made.__dict__
    for name, value in message.__dict__.items():
        if value.__class__ in _SCALARS:
            values[name] = value
        elif value.__class__ is Repeated:
            values[name] = repeated(value.of, [copy(item) for item in value])
        elif name != "_owner":
            values[name] = copy(value)
    return made


def put(node: Any, message: Any) -> None:
    """Let a Node hold a copy of a message."""
    node.set_part(field_of_node(type(message).__name__), copy(message))


def parts(message: Any) -> Iterator[tuple[str, Any]]:
    """The messages right below a message, Nodes as such, each with the field that it stands in."""
    if type(message) is Node:
        if message.field:
            yield message.field, message.held
        return
    values = message.__dict__
    for name in message.PARTS:
        value = values.get(name)
        if value is None:
            continue
        if value.__class__ is Repeated:
            for item in value:
                yield name, item
        else:
            yield name, value


class Message:
    """A parse node of some kind. What is set is in its `__dict__`; defaults of scalars are in the class."""

    FIELDS: ClassVar[dict[str, NodeField]] = {}
    # The fields that hold messages, in order; and the last one first.
    PARTS: ClassVar[tuple[str, ...]] = ()
    LAST_FIRST: ClassVar[tuple[str, ...]] = ()
    # Of these fields one is set.
    ONE_OF: ClassVar[tuple[str, ...]] = ()
    # Where a message that is not set would stand: in which one, and in which field.
    _owner: tuple[Any, str] | None = None

    def __getattr__(self, name: str) -> Any:
        field = self.FIELDS.get(name)
        if field is None or field.of is None:
            raise AttributeError(f"{type(self).__name__} has no field {name}")
        made: Any
        if field.is_repeated:
            made = self.__dict__[name] = repeated(field.of, ())
            made.owner = self
        else:
            made = _unset(field.of, self, name)
        return made

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.FIELDS, f"{type(self).__name__} has no field {name}"
        self.become_set()
        self.__dict__[name] = value

    def HasField(self, name: str) -> bool:
        """Whether a message is set."""
        return name in self.__dict__

    def ClearField(self, name: str) -> None:
        """Set a field no more."""
        self.__dict__.pop(name, None)

    def WhichOneof(self, _: str) -> str | None:
        """Which of the fields is set of which one is."""
        return next((name for name in self.ONE_OF if name in self.__dict__), None)

    def CopyFrom(self, other: Any) -> None:
        """Become a copy of another message of the same kind."""
        assert type(other) is type(self)
        made = copy(other)
        self.become_set()
        self.__dict__.clear()
        self.__dict__.update(made.__dict__)

    def become_set(self) -> None:
        """Be set, where it is not yet."""
        owner = self.__dict__.pop("_owner", None)
        if owner is not None:
            owner[0].set_part(owner[1], self)

    def set_part(self, name: str, value: Any) -> None:
        self.become_set()
        for other in self.ONE_OF:
            self.__dict__.pop(other, None)
        self.__dict__[name] = value


class Node:
    """A place that holds one message of any kind, or none."""

    field = ""
    held: Any = None
    # As that of a message.
    owner: tuple[Any, str] | None = None

    def __getattr__(self, name: str) -> Any:
        if name == self.field:
            return self.held
        return _unset(kind_of(name), self, name)

    @classmethod
    def of(cls, message: Any) -> Node:
        """A Node that holds a message itself, no copy of it."""
        node = cls()
        node.field, node.held = field_of_node(type(message).__name__), message
        return node

    def WhichOneof(self, _: str) -> str | None:
        """The field of the kind of message that it holds."""
        return self.field or None

    def HasField(self, name: str) -> bool:
        """Whether it holds a message of this kind."""
        return self.field == name

    def Clear(self) -> None:
        """Hold nothing."""
        self.field, self.held = "", None

    def CopyFrom(self, other: Node) -> None:
        """Hold a copy of what another holds."""
        assert type(other) is Node
        made = copy(other)
        self.become_set()
        self.field, self.held = made.field, made.held

    def become_set(self) -> None:
        if self.owner is not None:
            (owner, name), self.owner = self.owner, None
            owner.set_part(name, self)

    def set_part(self, name: str, value: Any) -> None:
        self.become_set()
        self.field, self.held = name, value


class Repeated(list[Any]):
    """The messages of a field that has several, of the kind `of`."""

    of = "Node"
    # The message that is set by the first item; None where it surely is.
    owner: Any = None

    def add(self) -> Any:
        """A new message at the end."""
        made = class_of(self.of)()
        self.append(made)
        return made

    def append(self, item: Any) -> None:
        """Add a message itself, no copy of it."""
        if self.owner is not None:
            self.owner.become_set()
        super().append(item)

    def extend(self, items: Iterable[Any]) -> None:
        """Add copies of messages."""
        for item in list(items):
            self.add().CopyFrom(item)


def repeated(of: str, items: Iterable[Any]) -> Repeated:
    """The messages themselves, of that kind, as the value of a field that has several."""
    made = Repeated(items)
    if of != "Node":
        made.of = of
    return made


def _unset(of: str, owner: Any, name: str) -> Any:
    """An empty message of a field in which none is set."""
    made = class_of(of)()
    if of == "Node":
        made.owner = owner, name
        return made
    made.__dict__["_owner"] = owner, name
    return made


_SCALARS = frozenset((int, str, bool, float))
# The classes of messages that have been met, and `Node`.
MESSAGES: set[type] = {Node}


@cache
def class_of(kind: str) -> Any:
    """The class of a kind of messages."""
    if kind == "Node":
        return Node
    fields = described(kind)
    members: dict[str, Any] = {name: field.default for name, (field, _) in fields.items() if field.of is None}
    ordered = sorted((field for field, _ in fields.values()), key=lambda field: field.number)
    members |= {
        "FIELDS": {field.name: field for field in ordered},
        "PARTS": tuple(field.name for field in ordered if field.of),
        "LAST_FIRST": tuple(field.name for field in reversed(ordered) if field.of),
        "ONE_OF": tuple(name for name, (field, _) in fields.items() if field.is_one_of),
        "JSON": {json_name: (field.name, field.of, field.numbers) for field, json_name in fields.values()},
    }
    made = type(kind, (Message,), members)
    MESSAGES.add(made)
    return made
