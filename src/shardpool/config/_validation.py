"""The models' verdict as problems with places, and what is left of the tree without the parts they refuse.

One round of pydantic gives all errors of shape. To find in the same go what is wrong beyond shape, the refused parts
are taken out and the rest is validated again, until it is good.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ._model_fields import description, known_fields
from ._models import TopologyFile
from ._nodes import YamlNode
from ._problems import Problems

_MAX_ROUNDS = 40
_SHAPES = {"dict_type": "must be a mapping", "model_type": "must be a mapping", "list_type": "must be a list"}


def validate(root: YamlNode, problems: Problems) -> TopologyFile | None:
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
            refused_at = [
                (details, _nearest_node(root, details))
                for details in error.errors(include_url=False, include_input=False)
            ]
            for details, node in refused_at:
                _report(node, details, problems)
            for details, node in refused_at:
                _take_out(root, node, details, stand_ins)
    return None


def _nearest_node(root: YamlNode, details: ErrorDetails) -> YamlNode:
    """The node of an error, or the nearest above it that is there."""
    node = root
    for key in details["loc"]:
        below = node.fields.get(key)
        if below is None and isinstance(key, int):
            below = next(iter(node.items[key : key + 1]), None)
        node = below or node
    return node


def _report(node: YamlNode, details: ErrorDetails, problems: Problems) -> None:
    kind, context, loc = details["type"], details.get("ctx", {}), details["loc"]
    match kind:
        case "missing":
            if loc[-1] not in node.lost:
                problems.add_at_key(node, f"needs {loc[-1]}", description(loc))
        case "extra_forbidden" | "invalid_key":
            problems.add_unknown_field(node, known_fields(loc[:-1]))
        case "shardpool":
            add = problems.add_at_key if loc[-1] == "[key]" else problems.add
            add(node, context["text"], context["hint"] or description(loc))
        case "literal_error":
            choices = context["expected"].replace("'", "").replace(" or ", ", ")
            problems.add(node, f"must be one of {choices}", description(loc))
        case _:
            problems.add(node, _SHAPES.get(kind, "is not valid here"), description(loc))


def _take_out(root: YamlNode, node: YamlNode, details: ErrorDetails, stand_ins: dict[str, Any]) -> None:
    if node.parent is None:
        stand_ins[str(details["loc"][-1])] = _STAND_INS.get(str(details["loc"][-1]))
        root.damaged = True
    elif node.parent is root and node.key in _STAND_INS:
        stand_ins[str(node.key)] = _STAND_INS[str(node.key)]
        node.take_out()
    else:
        node.take_out()


_STAND_INS: Mapping[str, Any] = {"version": 1, "fleet": "fleet", "epoch": 1, "shards": {}}
