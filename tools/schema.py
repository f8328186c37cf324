"""Writes `config/topology.schema.json`, the JSON Schema of the topology file; with `--check` only compares it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from shardpool.config import topology_schema

TARGET = Path(__file__).resolve().parent.parent / "config" / "topology.schema.json"


def main(arguments: list[str]) -> int:
    """0 when the file is as the models say or was written, 1 when it differs, 2 for wrong arguments."""
    text = json.dumps(topology_schema(), indent=2, ensure_ascii=False) + "\n"
    match arguments:
        case []:
            TARGET.write_text(text, encoding="utf-8")
            return 0
        case ["--check"]:
            return _check(text)
        case _:
            print("usage: schema.py [--check]", file=sys.stderr)
            return 2


def _check(text: str) -> int:
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET.name} is out of date\nHINT:  Run python tools/schema.py.", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
