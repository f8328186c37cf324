"""The demo from the first server's start to the last one's end."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from time import perf_counter

from .._sync.router import Router
from ..local import LocalError, LocalFleet
from ..local.state import names
from . import audit, loading, queries
from .data import data_folder
from .layout import layout
from .report import DemoReport, Findings
from .signals import interrupts_deferred, uninterrupted
from .stage import DemoStage

_NAME = "demo"


def run(*, shards: int, limit: int | None, keep: bool, stage: DemoStage) -> DemoReport:
    """Start servers, `explore` them, and stop them again unless they are to be kept and nothing failed."""
    folder = data_folder()
    started = perf_counter()
    fleet: LocalFleet | None = None
    try:
        with interrupts_deferred():
            fleet = _started(shards, stage)
        findings = _on_fleet(fleet, folder, limit, stage)
    except BaseException:
        if fleet is not None:
            with uninterrupted():
                fleet.down()
        raise
    if not keep:
        with uninterrupted(), stage.step("stop servers") as step:
            fleet.down()
            step.note = "data removed"
    seconds = perf_counter() - started
    topology = str(fleet.topology_path) if keep else None
    return DemoReport(fleet.name, _shards(fleet), tuple(stage.steps), seconds, findings, topology)


def _started(shards: int, stage: DemoStage) -> LocalFleet:
    """A fleet of its own: one that is up already, of a demo that was kept or that runs now, is left alone."""
    for name in _names():
        if name in names():
            stage.say(f"  Fleet {name} is up already and left alone. To remove it: shardpool local down --name {name}")
            continue
        try:
            return _up(name, shards, stage)
        except LocalError:
            # Another demo may have taken the name between the look and the start.
            if name not in names():
                raise
    raise AssertionError("there is always another name")


def _names() -> Iterator[str]:
    yield _NAME
    yield from (f"{_NAME}-{number}" for number in count(2))


def _up(name: str, shards: int, stage: DemoStage) -> LocalFleet:
    with stage.step("start servers") as step:
        fleet = LocalFleet.up(name, shards, database="flights")
        step.note = f"{' '.join(_shards(fleet))}, without fsync"
    return fleet


def _shards(fleet: LocalFleet) -> tuple[str, ...]:
    return tuple(server.shard for server in fleet.servers)


def _on_fleet(fleet: LocalFleet, folder: Path, limit: int | None, stage: DemoStage) -> Findings:
    fleet.write_topology(layout(_shards(fleet)))
    with Router(fleet.topology_path) as router:
        return explore(router, folder, limit, stage)


def explore(router: Router, folder: Path, limit: int | None, stage: DemoStage) -> Findings:
    """Everything that the demo does on a fleet whose servers are up and empty."""
    version = loading.create(router, stage)
    tally = loading.load(router, folder, limit, stage)
    plane, of_plane = queries.plane(router, tally, stage)
    no_tail, of_no_tail = queries.no_tail(router, tally)
    lookups, of_lookups = queries.lookups(router, tally, stage)
    period, of_period = queries.period(router, tally, stage)
    carriers, of_carriers = queries.carriers(router, tally, stage)
    batch, of_batch = queries.batch(router, tally, stage)
    tables, of_tables = audit.rows(router, tally, stage)
    check, of_check = audit.check(router, stage)
    expectations = (*of_tables, of_no_tail, of_plane, of_lookups, of_period, of_carriers, of_batch, *of_check)
    return Findings(version, tables, no_tail, plane, lookups, period, carriers, batch, check.as_dict(), expectations)
