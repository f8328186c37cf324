"""The first half of the demo: tables on every shard, and the rows of the files in them."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

from .._sync.router import Router
from ..topology import Reference
from .data import SOURCES, SourceTable
from .stage import DemoStage
from .tally import Tally

MIGRATIONS = Path(__file__).parent / "migrations"
"""The tables, as files of `shardpool migrate`."""

_LOG = "insert into load_log (table_name, rows, seconds) values (%s, %s, %s)"


def create(router: Router, stage: DemoStage) -> str:
    """The `shardpool` schema, and the tables by `router.migrations`; PostgreSQL's version."""
    with stage.step("init") as step:
        router.init()
        version = str(router.shard(router.shards[0]).execute("show server_version").one()[0])
        step.note = f"schema shardpool, PostgreSQL {version}"
    with stage.step("migrate") as step:
        report = router.migrations.up(MIGRATIONS)
        files = {version for shard in report.shards.values() for version in shard.done}
        step.note = f"{len(files)} files on {len(report.shards)} shards"
    return version


def load(router: Router, folder: Path, limit: int | None, stage: DemoStage) -> Tally:
    """Every file into its table, of the flights at most `limit`; gives the counts of what was read."""
    tally = Tally()
    for source in SOURCES:
        _load_one(router, source, folder, limit if source.table == "flights" else None, tally, stage)
    with stage.step("analyze") as step:
        router.scatter("analyze", timeout=60)
        step.note = f"on {len(router.shards)} shards at once"
    return tally


def _load_one(
    router: Router, source: SourceTable, folder: Path, limit: int | None, tally: Tally, stage: DemoStage
) -> None:
    table = source.table
    expected = source.count(folder) if limit is None else min(limit, source.count(folder))
    with stage.step(f"load {table}", total=expected) as step:
        started = perf_counter()
        rows = tally.counting(source, source.rows(folder, limit))
        router.copy_into(table, rows, columns=source.columns, progress=step.progress)
        router.execute(_LOG, (table, expected, perf_counter() - started))
        step.rows = expected
        is_copied = isinstance(router.topology.placement(table), Reference)
        step.note = f"{expected:,} rows" + (f" to each of {len(router.shards)} shards" if is_copied else "")
    tally.rows[table] = expected
