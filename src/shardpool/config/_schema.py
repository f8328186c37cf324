"""The JSON Schema of the file format, for editors."""

from __future__ import annotations

from typing import Any

from ._models import TopologyFile


def topology_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a topology file, with descriptions that editors show.

    It knows the shape; what needs several fields or the environment only `load_topology` checks.
    """
    schema = TopologyFile.model_json_schema(by_alias=True)
    _simplify(schema)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "topology.schema.json",
        **schema,
        "title": "shardpool topology",
    }


_MAPS_OF_SCHEMAS = ("$defs", "properties", "patternProperties")


def _simplify(schema: Any) -> None:
    """Take out what editors show and nobody needs: generated titles, the null of optional fields, empty defaults."""
    if isinstance(schema, list):
        for part in schema:
            _simplify(part)
    elif isinstance(schema, dict):
        _simplify_object(schema)
        for name, part in schema.items():
            if name not in ("enum", "const", "examples", "default"):
                _simplify(list(part.values()) if name in _MAPS_OF_SCHEMAS else part)


def _simplify_object(schema: dict[str, Any]) -> None:
    schema.pop("title", None)
    if schema.get("default") in (None, [], {}):
        schema.pop("default", None)
    if "patternProperties" in schema:
        schema["additionalProperties"] = False
    if {"type": "null"} in schema.get("anyOf", []):
        kept = [option for option in schema.pop("anyOf") if option != {"type": "null"}]
        schema |= kept[0] if len(kept) == 1 else {"anyOf": kept}
