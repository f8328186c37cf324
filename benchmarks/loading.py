r"""`shardpool load` of a CSV file into four shards against psql's `\copy` of the same file into one server.

Both are commands: their start and their imports are part of the time, from bytecode as an installed package has it.
"""

from __future__ import annotations

import csv
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from time import perf_counter

import psycopg

from shardpool.local.binaries import find_binaries

from .copying import COLUMNS, make_rows
from .fleet import BUCKETS, Database, Fleet
from .harness import Effort, Measured, Sample, measure
from .rows import Row, Target, alone, compare

_QUOTING = {"plain": csv.QUOTE_MINIMAL, "all in quotes": csv.QUOTE_ALL}
_TARGET = Target(most=1.2)
_ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    count = effort.pick(1_000_000, 50_000)
    databases = fleet.databases[:4]
    with tempfile.TemporaryDirectory() as folder:
        topology = Path(folder, "topology.yaml")
        topology.write_text(json.dumps(_topology(databases, Path(folder))), encoding="utf-8")
        for name, quoting in _QUOTING.items():
            file = Path(folder, "rows.csv")
            _write(file, count, quoting)
            spent: list[float] = []
            found = measure(
                {
                    "load": _sample(databases, _load(topology, file), spent),
                    "copy": _sample(databases, _copy(databases[0], file), []),
                },
                effort,
                rounds=5,
                seconds=60,
                least=2,
            )
            case = f"shardpool load of CSV, {name}, {count} rows"
            yield compare("load", case, found["load"], found["copy"], r"psql \copy, one server", _TARGET)
            yield alone("load", f"CPU of the client, {name}", Measured(tuple(spent)))


def _topology(databases: Sequence[Database], folder: Path) -> dict[str, object]:
    """The fleet of the benchmarks as a topology file; JSON is YAML, too."""
    ends = [BUCKETS * number // len(databases) for number in range(len(databases) + 1)]
    owners = {database.name: f"{ends[at]}-{ends[at + 1] - 1}" for at, database in enumerate(databases)}
    return {
        "version": 1,
        "fleet": "bench",
        "epoch": 1,
        "control": "none",
        "shards": {database.name: {"primary": _endpoint(database, folder)} for database in databases},
        "keyspaces": {
            "items": {
                "key": "bigint",
                "hash": {"function": "murmur3", "buckets": BUCKETS, "owners": owners},
                "tables": {"loaded": "id"},
            }
        },
    }


def _endpoint(database: Database, folder: Path) -> dict[str, str]:
    params = dict(database.params)
    password = params.pop("password", None)
    if password is not None:
        file = folder / f"{database.name}.password"
        file.touch(mode=0o600)
        file.write_text(password, encoding="utf-8")
        params["password_file"] = str(file)
    return params


def _write(file: Path, count: int, quoting: int) -> None:
    with file.open("w", newline="", encoding="utf-8") as out:
        csv.writer(out).writerow(COLUMNS)
        csv.writer(out, quoting=quoting).writerows(make_rows(count))  # type: ignore[arg-type]


def _load(topology: Path, file: Path) -> list[str]:
    return [sys.executable, "-m", "shardpool", "load", "loaded", str(file), "--topology", str(topology)]


def _copy(database: Database, file: Path) -> list[str]:
    program = shutil.which("psql") or find_binaries().program("psql")
    command = f"\\copy loaded from '{file}' (format csv, header)"
    return [program, "-X", "-q", "-d", database.conninfo, "-c", command]


def _sample(databases: Sequence[Database], command: Sequence[str], spent: list[float]) -> Sample:
    def sample() -> float:
        for database in databases:
            with psycopg.connect(database.conninfo, autocommit=True) as conn:
                conn.execute("truncate loaded")
                conn.execute("checkpoint")
        before, begun = _spent_by_children(), perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_ENVIRONMENT)
        took = perf_counter() - begun
        spent.append(_spent_by_children() - before)
        return took

    return sample


def _spent_by_children() -> float:
    """Seconds of CPU."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
