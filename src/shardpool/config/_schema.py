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


def _simplify(schema: Any) -> None:
    """Take out what editors show and nobody needs: generated titles, the null of optional fields, null defaults."""
    if isinstance(schema, list):
        for part in schema:
            _simplify(part)
    elif isinstance(schema, dict):
        _simplify_object(schema)
        for name, part in schema.items():
            if name not in ("enum", "const", "examples", "default"):
                _simplify(part)


def _simplify_object(schema: dict[str, Any]) -> None:
    if isinstance(schema.get("title"), str):
        del schema["title"]
    if "default" in schema and schema["default"] is None:
        del schema["default"]
    if isinstance(options := schema.get("anyOf"), list) and {"type": "null"} in options:
        kept = [option for option in options if option != {"type": "null"}]
        del schema["anyOf"]
        schema |= kept[0] if len(kept) == 1 else {"anyOf": kept}
