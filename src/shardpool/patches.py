"""Changes of a topology file as values: which entries become others. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]


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


def value_at(data: Any, path: Sequence[Any]) -> Any:
    """What the data has at a path, None where there is nothing."""
    for part in path:
        if not isinstance(data, Mapping) or part not in data:
            return None
        data = data[part]
    return data
