"""The command: `python -m benchmarks [NAME…]`; see the package's docstring."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import psycopg

from . import (
    batch,
    copying,
    ids,
    keys,
    loading,
    moving,
    query,
    round_trips,
    scatter,
    sql,
    starting,
    topology,
    transactions,
)
from .fleet import Fleet, make_fleet
from .harness import Effort
from .rows import Row, machine, table, write
from .servers import local_servers

Subject = Callable[[Effort, Fleet], Iterator[Row]]

SUBJECTS: dict[str, Subject] = {
    "for_key": lambda effort, fleet: keys.run(effort),
    "start": starting.run,
    "query": query.run,
    "round_trips": round_trips.run,
    "scatter": scatter.run,
    "sql": sql.run,
    "ids": ids.run,
    "transactions": transactions.run,
    "copy_into": copying.run,
    "load": loading.run,
    "map": batch.run,
    "topology": topology.run,
    "moves": moving.run,
}
_SERVERS = 4


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    effort = Effort(options.rounds, options.quick)
    rows: list[Row] = []
    begun = datetime.now(UTC)
    with _servers(options.server) as servers:
        fleet = make_fleet(servers, max(scatter.COUNTS))
        for name in options.name or SUBJECTS:
            rows += _timed(name, SUBJECTS[name], effort, fleet)
        with psycopg.connect(servers[0]) as conn:
            version = conn.info.server_version
    print(table(rows))
    facts = {"begun": begun.isoformat(timespec="seconds"), "quick": effort.quick, "postgresql": version, **machine()}
    write(options.json, rows, facts)
    print(f"\n{sum(row.met is False for row in rows)} targets not met; written to {options.json}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="*", choices=[[], *SUBJECTS], metavar="NAME", help=f"of {', '.join(SUBJECTS)}")
    parser.add_argument("--rounds", type=int, metavar="N", help="exactly so many rounds of each, however long it takes")
    parser.add_argument("--quick", action="store_true", help="few rounds and little data")
    parser.add_argument("--json", type=Path, default=Path("build/bench.json"), metavar="FILE")
    parser.add_argument(
        "--server",
        action="append",
        default=[],
        metavar="CONNINFO",
        help=f"measure on this server, by a role that may create databases; {_SERVERS} times, else as many are started",
    )
    return parser


def _servers(given: list[str]) -> AbstractContextManager[Sequence[str]]:
    if given and len(given) != _SERVERS:
        sys.exit(f"--server is wanted {_SERVERS} times, or not at all")
    return nullcontext(given) if given else local_servers(_SERVERS)


def _timed(name: str, subject: Subject, effort: Effort, fleet: Fleet) -> list[Row]:
    begun = perf_counter()
    rows = list(subject(effort, fleet))
    print(f"{name}: {perf_counter() - begun:.0f} s", file=sys.stderr)
    return rows


if __name__ == "__main__":
    sys.exit(main())
