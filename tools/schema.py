"""Writes `config/topology.schema.json`, the JSON Schema of the topology file; with `--check` only compares it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from generated import main

from shardpool.config import topology_schema

TARGET = Path(__file__).resolve().parent.parent / "config" / "topology.schema.json"


if __name__ == "__main__":
    sys.exit(main(TARGET, json.dumps(topology_schema(), indent=2, ensure_ascii=False) + "\n"))
