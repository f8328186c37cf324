"""The models' verdict as problems with places, and what is left of the tree without the parts they refuse.

One round of pydantic gives all errors of shape. To find in the same go what is wrong beyond shape, the refused parts
are taken out and the rest is validated again, until it is good.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ..errors import nearest
from ._models import TopologyFile
from ._nodes import Node
from ._problems import Problems

_MAX_ROUNDS = 40
_SHAPES = {"dict_type": "must be a mapping", "model_type": "must be a mapping", "list_type": "must be a list"}


def validate(root: Node, problems: Problems) -> TopologyFile | None:
    """The file as a model; None when too little is left of it. Parts that are refused are taken out of the tree."""
    if not isinstance(root.value, dict):
        problems.add(root, "the file is not a mapping", "Start with version: 1, fleet, epoch and shards.")
        return None
    stand_ins: dict[str, Any] = {}
    for _ in range(_MAX_ROUNDS):
        try:
            return TopologyFile.model_validate({**stand_ins, **root.plain()})
        except ValidationError as error:
            # Nodes first: taking one out of a list moves those behind it.
            found = [
                (details, _nearest_node(root, details))
                for details in error.errors(include_url=False, include_input=False)
            ]
            for details, node in found:
                _report(node, details, problems)
            for details, node in found:
                _take_out(root, node, details, stand_ins)
    return None


def _nearest_node(root: Node, details: ErrorDetails) -> Node:
    """The node of an error, or the nearest above it that is there."""
    node = root
    for key in details["loc"]:
        below = node.fields.get(key)
        if below is None and isinstance(key, int):
            below = next(iter(node.items[key : key + 1]), None)
        node = below or node
    return node


def _report(node: Node, details: ErrorDetails, problems: Problems) -> None:
    kind, context = details["type"], details.get("ctx", {})
    match kind:
        case "missing":
            if details["loc"][-1] not in node.lost:
                problems.add_at_key(node, f"needs {details['loc'][-1]}")
        case "extra_forbidden" | "invalid_key":
            _report_unknown(node, details["loc"], problems)
        case "shardpool" if details["loc"][-1] == "[key]":
            problems.add_at_key(node, context["text"], context["hint"])
        case "shardpool":
            problems.add(node, context["text"], context["hint"])
        case "literal_error":
            problems.add(node, "must be one of " + context["expected"].replace("'", "").replace(" or ", ", "))
        case _:
            problems.add(node, _SHAPES.get(kind, "is not valid here"))


def _report_unknown(node: Node, loc: tuple[int | str, ...], problems: Problems) -> None:
    if node.value is None and node.parent is not None:
        # `{password: a,b}` has a key "b" without value: the rest of a password, so it is not repeated.
        hint = "Quote text that holds a comma, colon, bracket or #."
        problems.add_at(node.key_line, node.key_column, node.parent.path, "unknown field without a value", hint)
        return
    problems.add_at_key(node, "unknown field", nearest(str(node.key), _known_fields(loc[:-1])))


def _known_fields(loc: tuple[int | str, ...]) -> list[str]:
    """The names of the fields at a place of the model."""
    annotation: Any = TopologyFile
    for key in loc:
        annotation = _step(annotation, key)
    return [field.alias or name for model in _models(annotation) for name, field in model.model_fields.items()]


def _step(annotation: Any, key: int | str) -> Any:
    for model in _models(annotation):
        for name, field in model.model_fields.items():
            if key in (name, field.alias):
                return field.annotation
    for part in _parts(annotation):
        if get_origin(part) in (dict, list):
            return get_args(part)[-1]
    return None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    return (part for part in _parts(annotation) if isinstance(part, type) and issubclass(part, BaseModel))


def _parts(annotation: Any) -> Iterator[Any]:
    """The members of a union, without what `Annotated` adds."""
    if get_origin(annotation) is Annotated:
        yield from _parts(get_args(annotation)[0])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _take_out(root: Node, node: Node, details: ErrorDetails, stand_ins: dict[str, Any]) -> None:
    if node.parent is None:
        stand_ins[str(details["loc"][-1])] = _STAND_INS.get(str(details["loc"][-1]))
        root.damaged = True
    elif node.parent is root and node.key in _STAND_INS:
        stand_ins[str(node.key)] = _STAND_INS[str(node.key)]
        node.take_out()
    else:
        node.take_out()


_STAND_INS: Mapping[str, Any] = {"version": 1, "fleet": "fleet", "epoch": 1, "shards": {}}
