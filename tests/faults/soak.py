"""Callers of both kinds under random faults for as long as you like, in rounds; after each the ledger is checked."""

from __future__ import annotations

import gc
import os
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import psycopg

from shardpool import BatchError, LoadError, ScatterError, ShardError

from .calls import KINDS, Calls
from .fleet import FaultFleet
from .isolation import HEALTHY, before_and_during
from .processes import FAULTS
from .workload import Workload

ROUND_SECONDS = 15.0
TIMEOUT = 1.0
KEYS = 8
# A call that is later than this hangs; one that is late by more than 100 ms is counted, since machines are busy too.
HANG_SECONDS = TIMEOUT + 1.0
_EXPECTED = (ShardError, ScatterError, BatchError, LoadError, psycopg.Error)
COUNT = "select count(*) from ledger"
HEAD = (
    f"{'time':>6} {'written':>8} {'refused':>8} {'unknown':>8} {'read':>7} {'others':>7} {'late':>5} {'max s':>6} "
    f"{'MiB':>6} {'fds':>5} {'threads':>7} {'wrong':>6}  faults"
)


@dataclass
class Sample:
    """What a round came to; memory in MiB, and descriptors without those of the proxies."""

    at: float
    outcomes: Counter[str]
    others: int
    late: Counter[str]
    slowest: float
    memory: float
    descriptors: int
    threads: int
    faults: list[str]
    violations: list[str] = field(default_factory=list)

    def line(self) -> str:
        counts = self.outcomes
        return (
            f"{self.at:6.0f} {counts['written']:8} {counts['refused']:8} {counts['unknown']:8} {counts['read']:7} "
            f"{self.others:7} {self.late.total():5} {self.slowest:6.2f} {self.memory:6.0f} {self.descriptors:5} "
            f"{self.threads:7} {len(self.violations):6}  {', '.join(self.faults)}"
            + "".join(f"\n       late: {verb}, {count} times" for verb, count in self.late.items())
        )


def soak(seconds: float, seed: int, show: Callable[[str], None]) -> list[str]:
    """Run for so many seconds, show a line for each round, and give all violations."""
    rng = random.Random(seed)
    fleet = FaultFleet()
    samples: list[Sample] = []
    begun = monotonic()
    try:
        with ExitStack() as stack:
            opened: dict[str, Calls] = {}
            for kind, make in KINDS.items():
                opened[kind] = make(fleet.topology(timeout=TIMEOUT))
                stack.callback(opened[kind].stop)
            show(HEAD)
            while monotonic() - begun < seconds:
                length = min(ROUND_SECONDS, max(3.0, seconds - (monotonic() - begun)))
                sample = _round(fleet, opened, rng, length, len(samples) + 2, begun)
                samples.append(sample)
                show(sample.line())
                for violation in sample.violations[:20]:
                    show(f"       WRONG: {violation}")
    finally:
        fleet.close()
    found = [violation for sample in samples for violation in sample.violations]
    return found + growth(samples)


def isolation(seconds: float = 5.0) -> Iterator[str]:
    """What healthy shards keep while one is frozen (G4), for both kinds of callers: the ratios of the same run."""
    fleet = FaultFleet()
    try:
        for kind, make in KINDS.items():
            calls = make(fleet.topology(pool="{max_size: 8}", direct=HEALTHY, timeout=TIMEOUT))
            try:
                before, during = before_and_during(calls, fleet, "frozen", 0.0, seconds)
            finally:
                calls.stop()
                fleet.heal()
            yield (
                f"healthy shards while one is frozen, {kind}: throughput {during.rate / before.rate:.3f} × of before, "
                f"p99 {during.p99 / before.p99:.2f} × ({during.p99 * 1000:.1f} ms), {during.failed} failed"
            )
    finally:
        fleet.close()


def growth(samples: list[Sample]) -> list[str]:
    """What has grown from the first third of the rounds to the last; the very first round is warm-up."""
    steady = samples[1:]
    if len(steady) < 3:
        return []
    third = len(steady) // 3
    early, late = steady[:third], steady[-third:]

    def most(some: list[Sample], what: str) -> float:
        return float(max(getattr(sample, what) for sample in some))

    found = []
    for what, allowed in (("memory", 0.15 * most(early, "memory") + 8), ("descriptors", 16), ("threads", 8)):
        if most(late, what) > most(early, what) + allowed:
            found.append(f"{what} grew from {most(early, what):.0f} to {most(late, what):.0f}")
    return found


def _round(
    fleet: FaultFleet, opened: dict[str, Calls], rng: random.Random, length: float, epoch: int, begun: float
) -> Sample:
    keys = fleet.keys(2 * KEYS)
    halves = {"sync": slice(0, KEYS), "async": slice(KEYS, 2 * KEYS)}
    ended = Event()
    with ExitStack() as stack:
        workloads: list[Workload] = []
        others: list[Future[tuple[list[str], list[tuple[str, float]]]]] = []
        for kind, calls in opened.items():
            own = {shard: found[halves[kind]] for shard, found in keys.items()}
            workload = Workload(calls, own, callers=6, think=0.01, timeout=TIMEOUT, seed=epoch)
            workloads.append(stack.enter_context(workload))
            others.append(calls.spawn(_others(calls, own, ended, random.Random(rng.random()))))
            stack.callback(ended.set)
        faults = _faults(fleet, opened, rng, length, epoch)
    asked = [future.result(30) for future in others]
    violations = [wrong for found, _ in asked for wrong in found]
    rows = fleet.rows()
    for workload in workloads:
        violations += workload.violations(rows)
    violations += _in_flight(opened)
    times = [(call.verb, call.seconds) for workload in workloads for call in workload.calls]
    times += [time for _, found in asked for time in found]
    violations += [f"{verb} took {seconds:.1f} s" for verb, seconds in times if seconds > HANG_SECONDS]
    outcomes = Counter(_outcome(call) for workload in workloads for call in workload.calls)
    late = Counter(verb for verb, seconds in times if seconds > TIMEOUT + 0.1)
    count = sum(len(found) for _, found in asked)
    del workloads, rows
    fleet.heal()
    gc.collect()
    memory, descriptors, threads = _resources(fleet)
    slowest = max((seconds for _, seconds in times), default=0.0)
    return Sample(monotonic() - begun, outcomes, count, late, slowest, memory, descriptors, threads, faults, violations)


def _outcome(call: Any) -> str:
    if call.outcome == "acknowledged":
        return "read" if call.is_read else "written"
    return str(call.outcome)


def _faults(fleet: FaultFleet, opened: dict[str, Calls], rng: random.Random, length: float, epoch: int) -> list[str]:
    """One fault after another for a round, and a reload in its midst; gives what was done."""
    end = monotonic() + length
    done: list[str] = []
    while (left := end - monotonic()) > 1.0:
        name, shard = rng.choice(list(FAULTS)), rng.choice(list(fleet.servers))
        with FAULTS[name](fleet, shard):
            Event().wait(min(left / 2, rng.uniform(0.3, 3.0)))
            if len(done) == 1:
                for calls in opened.values():
                    size = 4 + epoch % 5
                    calls.go(calls.reload(fleet.topology(timeout=TIMEOUT, epoch=epoch, pool=f"{{max_size: {size}}}")))
        done.append(f"{name} {shard}")
        Event().wait(rng.uniform(0.2, 1.5))
    return done


async def _others(
    calls: Calls, keys: dict[str, list[int]], ended: Event, rng: random.Random
) -> tuple[list[str], list[tuple[str, float]]]:
    """What asks all shards, over and over: what was wrong, and how long each call took."""
    items = [key for found in keys.values() for key in found[:2]]
    sorted_ids = "select id from ledger order by id"
    verbs: dict[str, Callable[[], Any]] = {
        "execute that adds": lambda: calls.query(COUNT, timeout=TIMEOUT),
        "execute that merges": lambda: calls.query(f"{sorted_ids} limit 10", timeout=TIMEOUT),
        "execute that pulls": lambda: calls.query(COUNT, timeout=TIMEOUT, strategy="pull"),
        "execute that writes": lambda: calls.query("update ledger set id = id where id < 0", timeout=TIMEOUT),
        "scatter": lambda: calls.scatter(COUNT, timeout=TIMEOUT),
        "scatter of a function": lambda: calls.scatter_function(COUNT, timeout=TIMEOUT),
        "stream": lambda: calls.stream(f"{sorted_ids} limit 2000", timeout=TIMEOUT),
        "map": lambda: calls.map(COUNT, items, timeout=TIMEOUT),
        "copy_into": lambda: calls.copy_into([], timeout=TIMEOUT),
    }
    wrong: list[str] = []
    times: list[tuple[str, float]] = []
    while not ended.is_set():
        verb, call = rng.choice(list(verbs.items()))
        begun = monotonic()
        try:
            await call()
        except _EXPECTED:
            pass
        except Exception as error:
            wrong.append(f"{verb}: {error!r}")
        times.append((verb, monotonic() - begun))
        await calls.pause(0.03)
    return wrong, times


def _in_flight(opened: dict[str, Calls]) -> list[str]:
    """Counters that are not 0 although nobody calls; what is given back in the background gets some time."""
    end = monotonic() + 3
    while True:
        found = [
            f"{kind} {name} has {shard['primary'][what]} {what}"
            for kind, calls in opened.items()
            for name, shard in calls.router.stats()["shards"].items()
            for what in ("in_flight", "waiting")
            if shard["primary"][what]
        ]
        if not found or monotonic() >= end:
            return found
        Event().wait(0.05)


def _resources(fleet: FaultFleet) -> tuple[float, int, int]:
    """Memory of this process in MiB, its descriptors but those of the proxies, its threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    descriptors -= 2 * sum(proxy.connections for proxy in fleet.proxies.values())
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, descriptors, threading.active_count()
