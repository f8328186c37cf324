"""Looks a place of the file up in the models: what fields it may have, and what is said about one."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from ._models import TopologyFile

Place = Sequence[int | str]
"""The keys and indexes that lead to a value, as pydantic's errors have them."""


def known_fields(place: Place) -> list[str]:
    """The names of the fields of the mapping at a place."""
    return [name for name, _ in _fields(_annotation(place))]


def description(place: Place) -> str | None:
    """What the models say about the field at a place, or the nearest field above it."""
    for end in range(len(place), 0, -1):
        for name, field in _fields(_annotation(place[: end - 1])):
            if name == place[end - 1]:
                return field.description
    return None


def _annotation(place: Place) -> Any:
    annotation: Any = TopologyFile
    for key in place:
        annotation = _step(annotation, key)
    return annotation


def _step(annotation: Any, key: int | str) -> Any:
    for name, field in _fields(annotation):
        if key == name:
            return field.annotation
    for part in _parts(annotation):
        if get_origin(part) in (dict, list):
            return get_args(part)[-1]
    return None


def _fields(annotation: Any) -> Iterator[tuple[str, FieldInfo]]:
    """The fields of the models in an annotation, by the names that they have in the file."""
    for part in _parts(annotation):
        if isinstance(part, type) and issubclass(part, BaseModel):
            for name, field in part.model_fields.items():
                yield field.alias or name, field


def _parts(annotation: Any) -> Iterator[Any]:
    """The members of a union, without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation
