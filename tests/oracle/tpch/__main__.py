"""`python -m tests.oracle.tpch`: what the fleet does with each query of TPC-H, and how long it takes."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import psycopg
from rich.console import Console

from shardpool import Router, UnsupportedQuery
from shardpool.testing import EmbeddedFleet

from . import data
from .compare import Expected, ask_fleet, ask_plain, difference, expected
from .queries import QUERIES, Query
from .schema import LAYOUTS

console = Console(highlight=False, width=150, soft_wrap=True)


@click.command()
@click.option("--scale", default=data.scale(), show_default=True, help="The scale factor.")
@click.option("--layout", "layouts", type=click.Choice(list(LAYOUTS)), multiple=True, help="Only these layouts.")
@click.option("--query", "names", type=click.Choice([query.name for query in QUERIES]), multiple=True)
@click.option("--strategy", help="The strategy to ask the router for.")
@click.option("--repeat", default=3, show_default=True, help="Runs of each query; the best time counts.")
def main(scale: float, layouts: tuple[str, ...], names: tuple[str, ...], strategy: str | None, repeat: int) -> None:
    """Run the 22 queries of TPC-H on four servers and on one, and print what is the same, refused or wrong."""
    queries = [query for query in QUERIES if not names or query.name in names]
    options = {"strategy": strategy} if strategy else {}
    logging.disable(logging.WARNING)
    fleet = EmbeddedFleet()
    wrong = 0
    try:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            files = data.generate(folder, scale)
            started = perf_counter()
            with data.plain(fleet, files) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
                console.print(f"scale {scale:g}: one server loaded in {perf_counter() - started:.1f} s")
                wanted = {query.name: expected(conn, query, scale) for query in queries}
                seconds = {query.name: _plain_seconds(conn, query.text(scale), repeat) for query in queries}
                for layout in layouts or LAYOUTS:
                    started = perf_counter()
                    with data.sharded(fleet, folder, layout, files) as router:
                        console.print(f"\n{layout}: the fleet loaded in {perf_counter() - started:.1f} s")
                        wrong += _report(router, queries, scale, wanted, seconds, repeat, options)
    finally:
        fleet.close()
    raise SystemExit(1 if wrong else 0)


def _report(
    router: Router,
    queries: list[Query],
    scale: float,
    wanted: dict[str, Expected],
    plain: dict[str, float],
    repeat: int,
    options: dict[str, Any],
) -> int:
    """Print a line for each query, and how many there were of each kind; gives the number of those that are wrong."""
    console.print(f"{'query':<6} {'answer':<8} {'rows':>6} {'fleet ms':>9} {'plain ms':>9} {'ratio':>6}  strategy")
    counts = {"same": 0, "refused": 0, "wrong": 0}
    for query in queries:
        verdict, note, seconds = _try(router, query, scale, wanted[query.name], repeat, options)
        counts[verdict] += 1
        one = plain[query.name]
        fleet_ms, ratio = (f"{seconds * 1e3:.1f}", f"{seconds / one:.2f}") if seconds else ("-", "-")
        rows = len(wanted[query.name].answer.rows)
        line = f"{query.name:<6} {verdict:<8} {rows:>6} {fleet_ms:>9} {one * 1e3:>9.1f} {ratio:>6}  {note}"
        console.print(line, markup=False)
    console.print(", ".join(f"{number} {verdict}" for verdict, number in counts.items()))
    return counts["wrong"]


def _try(
    router: Router, query: Query, scale: float, want: Expected, repeat: int, options: dict[str, Any]
) -> tuple[str, str, float | None]:
    """`same`, `refused` or `wrong`; the strategy or the reason; the best time. An error of any kind is wrong."""
    best = float("inf")
    strategy = "-"
    for _ in range(repeat):
        started = perf_counter()
        try:
            answer, result = ask_fleet(router, query.text(scale), **options)
        except UnsupportedQuery as error:
            return "refused", str(error).splitlines()[0], None
        except Exception as error:
            return "wrong", f"{type(error).__name__}: {error}".splitlines()[0], None
        best = min(best, perf_counter() - started)
        strategy = str(getattr(getattr(result, "plan", None), "strategy", "-"))
        if why := difference(query, answer, want):
            return "wrong", f"{strategy}: {why}"[:400], best
    return "same", strategy, best


def _plain_seconds(conn: psycopg.Connection, sql: str, repeat: int) -> float:
    best = float("inf")
    for _ in range(repeat):
        started = perf_counter()
        ask_plain(conn, sql)
        best = min(best, perf_counter() - started)
    return best


if __name__ == "__main__":
    main()
