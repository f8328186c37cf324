"""What a process pays before its first answer: imports, the topology file, the first statement, a whole command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter

from .fleet import BUCKETS, Fleet
from .harness import Effort, Sample, measure
from .rows import Row, Target, alone, compare

# Of these the process itself tells the seconds of CPU, without those of the interpreter's start.
_TIMED = "import time; begun = time.process_time(); {}; print(time.process_time() - begun)"
_IMPORT = "from shardpool import Router"
_COUNT = "select count(*) from items"


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "topology.yaml"
        path.write_text(json.dumps(_file(fleet)), encoding="utf-8")
        opened = f"{_IMPORT}; router = Router({str(path)!r})"
        samples: dict[str, Sample] = {
            "psycopg": _told(_TIMED.format("import psycopg")),
            "import": _told(_TIMED.format(_IMPORT)),
            "router": _told(f"{_IMPORT}; " + _TIMED.format(f"Router({str(path)!r})")),
            "scatter": _told(f"{opened}; router.open(); " + _wall("router.scatter('select 1')")),
            "execute": _told(f"{opened}; router.open(); " + _wall(f"router.execute({_COUNT!r})")),
            "help": _whole("--help"),
            "query": _whole("-t", str(path), "query", _COUNT),
        }
        found = measure(samples, effort, rounds=20, seconds=40)
    yield compare(
        "start", "import shardpool.Router, CPU", found["import"], found["psycopg"], "psycopg", Target(most=1.3)
    )
    yield alone("start", "the first Router(path), CPU", found["router"], 0.06)
    yield alone("start", "the first scatter(), 4 shards", found["scatter"])
    yield alone("start", "the first execute(sql), 4 shards", found["execute"])
    yield alone("start", "shardpool --help, the whole process", found["help"], 0.15)
    yield alone("start", "shardpool query, the whole process", found["query"], 0.35)


def _wall(statement: str) -> str:
    return f"import time; begun = time.perf_counter(); {statement}; print(time.perf_counter() - begun); router.close()"


def _told(script: str) -> Sample:
    return lambda: float(_output("-c", script))


def _whole(*arguments: str) -> Sample:
    def whole() -> float:
        begun = perf_counter()
        _output("-m", "shardpool", *arguments)
        return perf_counter() - begun

    return whole


# What was compiled is found, as with an installed package.
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _output(*arguments: str) -> str:
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=_ENVIRONMENT, capture_output=True, text=True, check=True).stdout


def _file(fleet: Fleet) -> dict[str, object]:
    databases = fleet.databases[:4]
    quarter = BUCKETS // len(databases)
    owners = {database.name: f"{at * quarter}-{(at + 1) * quarter - 1}" for at, database in enumerate(databases)}
    return {
        "version": 1,
        "fleet": "bench",
        "epoch": 1,
        "control": "none",
        "plain_passwords": "allow",
        "shards": {database.name: {"primary": database.params} for database in databases},
        "keyspaces": {
            "items": {"key": "bigint", "hash": {"buckets": BUCKETS, "owners": owners}, "tables": {"items": "id"}}
        },
    }
