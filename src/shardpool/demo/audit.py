"""The last part of the demo: every row accounted for, and on the shard that owns it."""

from __future__ import annotations

from typing import assert_never

from .._sync.router import Router
from ..report import Report as Check
from ..topology import Placement, Reference, Sharded, Single
from .report import DemoTable, Expectation
from .stage import DemoStage
from .tally import Tally


def rows(router: Router, tally: Tally, stage: DemoStage) -> tuple[tuple[DemoTable, ...], list[Expectation]]:
    """The rows of each table counted on every shard, and what they must add up to."""
    with stage.step("count rows") as step:
        tables = tuple(_counted(router, table, read) for table, read in reversed(tally.rows.items()))
        step.note = f"{len(tables)} tables on {len(router.shards)} shards"
    return tables, [_expectation(table) for table in tables]


def _counted(router: Router, table: str, read: int) -> DemoTable:
    answers = router.scatter(f"select count(*) from {table}", timeout=30)
    counts = {shard: int(result.one()[0]) for shard, result in answers.items()}
    return DemoTable(table, _words(router.topology.placement(table)), read, counts)


def _words(placement: Placement) -> str:
    match placement:
        case Sharded(keyspace, columns):
            return f"sharded by {', '.join(columns)} ({keyspace})"
        case Reference():
            return "reference"
        case Single(shard):
            return f"single ({shard})"
    assert_never(placement)


def _expectation(table: DemoTable) -> Expectation:
    counts = list(table.rows_by_shard.values())
    if table.placement == "reference":
        return Expectation(f"complete copies of {table.name}", len(counts), counts.count(table.rows_read))
    return Expectation(f"rows of {table.name} on all shards", table.rows_read, sum(counts))


def check(router: Router, stage: DemoStage) -> tuple[Check, list[Expectation]]:
    """Identity, tables, keys, and the place of every row, which each shard tells with its own bucket function."""
    with stage.step("check") as step:
        report = router.check(timeout=60)
        step.note = "the place of every row, by its shard"
    return report, [
        Expectation("errors found by check, misplaced rows among them", 0, len(report.errors)),
        Expectation("warnings found by check", 0, len(report.warnings)),
    ]
