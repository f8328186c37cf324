"""The rows of TPC-H, and the databases that hold them: one that has all, and fleets that share them out."""

from __future__ import annotations

import csv
import os
import secrets
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg.conninfo import make_conninfo

from shardpool import Router
from shardpool.testing import Fleet, Params, _create, _drop, _topology

from .schema import DDL, INDEXES, LAYOUTS, TABLES

SCALE_VARIABLE = "SHARDPOOL_TPCH_SCALE"
# The first ANALYZE of a big table may be slower than a router's usual deadline.
LOAD_TIMEOUT = 600.0


def scale() -> float:
    """The scale factor: 1 are 6 million lines, the default of 0.01 are 60,000."""
    return float(os.environ.get(SCALE_VARIABLE, "0.01"))


def generate(folder: Path, factor: float) -> dict[str, Path]:
    """The CSV file of each table, made by tpchgen-cli: the same bytes for the same scale factor."""
    tool = Path(sysconfig.get_path("scripts")) / "tpchgen-cli"
    subprocess.run([tool, "csv", "-q", "-s", str(factor), "-o", folder], check=True)
    return {table: folder / f"{table}.csv" for table in TABLES}


@contextmanager
def plain(fleet: Fleet, files: dict[str, Path], *, tuned: bool = True) -> Iterator[str]:
    """The DSN of a new database on the first server that holds all rows; with statistics and indexes if `tuned`."""
    server, name = fleet.servers()[0], f"tpch_{secrets.token_hex(5)}"
    _create(server, name)
    try:
        dsn = make_conninfo("", **{**server, "dbname": name})
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute(DDL)
            for table, path in files.items():
                _copy(conn, table, path)
            if tuned:
                conn.execute(INDEXES)
                conn.execute("vacuum analyze")
        yield dsn
    finally:
        _drop(server, name)


@contextmanager
def sharded(fleet: Fleet, folder: Path, layout: str, files: dict[str, Path]) -> Iterator[Router]:
    """A router on four new databases that hold the rows as the layout says, loaded by `copy_into`."""
    token = secrets.token_hex(5)
    databases: list[Params] = []
    try:
        for number, server in enumerate(fleet.servers()):
            name = f"tpch_{token}_{number}"
            _create(server, name)
            databases.append({**server, "dbname": name})
        path = folder / f"topology-{token}.yaml"
        path.write_text(_topology(folder, token, databases, LAYOUTS[layout]), encoding="utf-8")
        with Router(path) as router:
            router.init()
            router.scatter(DDL)
            for table, path in files.items():
                with path.open(encoding="utf-8", newline="") as file:
                    rows = csv.reader(file)
                    router.copy_into(table, rows, columns=next(rows), binary=False)
            router.scatter(INDEXES, timeout=LOAD_TIMEOUT)
            router.scatter("vacuum analyze", timeout=LOAD_TIMEOUT)
            yield router
    finally:
        for database in databases:
            _drop(database | {"dbname": fleet.servers()[0]["dbname"]}, database["dbname"])


def _copy(conn: psycopg.Connection, table: str, path: Path) -> None:
    with (
        path.open("rb") as file,
        conn.cursor().copy(f"copy {table} from stdin (format csv, header match)") as copy,  # type: ignore[arg-type]
    ):
        while block := file.read(1 << 20):
            copy.write(block)
