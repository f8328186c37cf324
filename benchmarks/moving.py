"""What a service sees while buckets are handed over: its calls, beyond what they take without a move."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from time import monotonic, sleep
from typing import NamedTuple

import psycopg

from shardpool import Router, load_topology
from shardpool.reshard.mover import Mover
from shardpool.reshard.options import MoveOptions, Progress
from shardpool.reshard.plan import move_of_buckets

from .fleet import Database, Fleet
from .harness import Effort
from .rows import Row

_BUCKETS, _MOVING = 64, 32
_PROCESSES, _KEYS = 2, 60
# Milliseconds beyond the same load without a move: the median, and the 99th of 100.
_P50, _P99 = 20.0, 100.0


class Call(NamedTuple):
    """One call of the load; times in seconds, on the clock of all processes."""

    what: str
    moves: bool
    begun: float
    seconds: float


class Window(NamedTuple):
    """From the comparison before a hand-over, for which writers wait as well, until the target has the rows."""

    begun: float
    ended: float


def run(effort: Effort, fleet: Fleet) -> Iterator[Row]:
    cycles = effort.rounds or effort.pick(10, 2)
    with TemporaryDirectory() as folder:
        path = _topology(Path(folder), fleet.databases[:2])
        keys = _keys(path)
        outs = [Path(folder) / f"calls-{number}" for number in range(_PROCESSES)]
        with _load(path, outs, keys):
            sleep(1.0)
            begun = monotonic()
            sleep(effort.pick(20, 5))
            calm = Window(begun, monotonic())
            windows = [window for _ in range(cycles) for window in asyncio.run(_there_and_back(path))]
        calls = [call for out in outs for call in _calls(out)]
    yield from _rows(calls, calm, windows)


def _topology(folder: Path, databases: Sequence[Database]) -> Path:
    shards = []
    for database in databases:
        with psycopg.connect(database.conninfo, autocommit=True) as conn:
            conn.execute("drop schema if exists shardpool cascade")
            conn.execute("drop table if exists ledger")
            conn.execute("create table ledger (tenant_id bigint primary key, version bigint not null)")
        fields = ", ".join(f"{key}: {value!r}" for key, value in database.params.items())
        shards.append(f"  {database.name}: {{primary: {{{fields}}}, pool: {{max_size: 8}}}}\n")
    first, second = (database.name for database in databases)
    path = folder / "topology.yaml"
    path.write_text(
        f"version: 1\nfleet: bench\nepoch: 1\nplain_passwords: allow\nshards:\n{''.join(shards)}"
        f"keyspaces:\n  tenants:\n    key: bigint\n    hash: {{buckets: {_BUCKETS}, "
        f"owners: {{{first}: 0-47, {second}: 48-63}}}}\n    tables: {{ledger: tenant_id}}\n",
        encoding="utf-8",
    )
    with Router(path) as router:
        router.init()
    return path


def _keys(path: Path) -> list[tuple[int, bool]]:
    """Keys, and whether each is one of those that move: half of them."""
    placed = load_topology(path).keyspaces["tenants"].partitioning
    found: dict[bool, list[int]] = {True: [], False: []}
    key = 0
    while min(map(len, found.values())) < _KEYS:
        found[placed.bucket(key) < _MOVING].append(key)
        key += 1
    keys = [(key, moves) for moves, some in found.items() for key in some[:_KEYS]]
    with Router(path) as router:
        router.copy_into("ledger", [(key, 0) for key, _ in keys], columns=("tenant_id", "version"))
    return keys


@contextmanager
def _load(path: Path, outs: Sequence[Path], keys: Sequence[tuple[int, bool]]) -> Iterator[None]:
    processes = []
    for number, out in enumerate(outs):
        mine = ",".join(f"{key}{'m' if moves else ''}" for key, moves in keys[number :: len(outs)])
        command = [sys.executable, "-m", "benchmarks.moving_load", str(path), str(out), mine]
        processes.append(subprocess.Popen(command, stdin=subprocess.PIPE))
    try:
        yield
    finally:
        for process in processes:
            process.communicate(b"", timeout=120)
    if any(process.returncode for process in processes):
        raise RuntimeError("a call of the load has failed")


async def _there_and_back(path: Path) -> list[Window]:
    """A move, its roll-back and its end: two hand-overs."""
    windows: list[Window] = []
    begun = 0.0

    def say(progress: Progress) -> None:
        nonlocal begun
        if progress.step == "comparing":
            begun = monotonic()
        elif progress.step == "handed over":
            windows.append(Window(begun, monotonic()))

    topology = load_topology(path)
    options = MoveOptions(pause_limit=10.0, straggler_seconds=60.0)
    target = [*topology.shards][1]
    wanted = move_of_buckets(topology, topology.keyspaces["tenants"], range(_MOVING), target)
    made = await Mover(path, options, say).begin(wanted)
    await Mover(path, options, say).roll_back(made.number)
    await Mover(path, options, say).finish(made.number)
    return windows


def _calls(out: Path) -> Iterator[Call]:
    for line in out.read_text(encoding="utf-8").splitlines():
        what, moves, begun, seconds = line.split()
        yield Call(what, moves == "1", float(begun), float(seconds))


def _rows(calls: Sequence[Call], calm: Window, windows: Sequence[Window]) -> Iterator[Row]:
    for name, kinds in (("writes", ("write", "transaction")), ("reads", ("read",))):
        for moves in (True, False):
            mine = sorted((call for call in calls if call.what in kinds and call.moves is moves), key=lambda c: c.begun)
            before = [call.seconds for call in _within(mine, calm)]
            found = [[*_within(mine, window)] for window in windows]
            during = [call.seconds for some in found for call in some]
            worst = [max(call.seconds for call in some) for some in found if some]
            of = f"{name} of rows that {'move' if moves else 'stay'}"
            yield from _compared(of, during, before, moves)
            spread = f"median {_ms(_percentile(worst, 50))}, most {_ms(max(worst))}"
            yield Row("moves", f"{of}: the slowest of each hand-over", spread, rounds=len(worst))
    lengths = [window.ended - window.begun for window in windows]
    yield Row("moves", "compared and handed over", f"median {_ms(_percentile(lengths, 50))}", rounds=len(lengths))


def _within(calls: Sequence[Call], window: Window) -> Iterator[Call]:
    """The calls that are under way in a window."""
    first = bisect_left(calls, window.begun - 5.0, key=lambda call: call.begun)
    for call in calls[first:]:
        if call.begun > window.ended:
            return
        if call.begun + call.seconds >= window.begun:
            yield call


def _compared(of: str, during: Sequence[float], before: Sequence[float], moves: bool) -> Iterator[Row]:
    for percent, most in ((50, _P50), (99, _P99)):
        ours, theirs = _percentile(during, percent), _percentile(before, percent)
        beyond = (ours - theirs) * 1000
        yield Row(
            "moves",
            f"{of}, p{percent}",
            _ms(ours),
            _ms(theirs),
            "without a move",
            target=f"≤ {most:g} ms beyond" if moves else "",
            met=beyond <= most if moves else None,
            rounds=len(during),
        )


def _percentile(values: Sequence[float], percent: int) -> float:
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else values[0]


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"
