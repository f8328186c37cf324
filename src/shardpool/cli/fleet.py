"""`init`, `check`, `stats`: the fleet as a whole."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .app import FAILURE
from .options import json_option, timeout_option, topology_option, topology_path
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..report import Report

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}
_ORDER = {"error": 0, "warning": 1, "ok": 2}


@click.command()
@topology_option
@timeout_option("For all shards together.", 30.0)
@json_option
@click.pass_context
def init(ctx: click.Context, topology_file: str | None, timeout: float, as_json: bool) -> None:
    """Install the shardpool schema on every shard, or bring it up to date.

    Can be run again at any time. On all shards or on none: a server that is another shard, places keys in another way,
    is at a newer epoch, or holds rows of buckets that are not its own, refuses for all.
    """
    from .. import Router

    with Router(topology_path(ctx, topology_file)) as router:
        done = router.init(timeout=timeout)
        if as_json:
            print_json({"fleet": router.topology.fleet, "epoch": router.topology.epoch, "shards": done})
        else:
            print_table(["shard", "schema"], list(done.items()))


@click.command()
@topology_option
@click.option("--rows/--no-rows", default=True, help="Also look at every row of the sharded tables, on the servers.")
@timeout_option("For the whole check.", 60.0)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="Processes, over all machines, that use this topology at the same time.",
)
@json_option
@click.pass_context
def check(
    ctx: click.Context, topology_file: str | None, rows: bool, timeout: float, processes: int, as_json: bool
) -> None:
    """Compare the fleet with the topology, and say what to do about each difference.

    Looks at every endpoint (reached, version, role), the connections that all processes need of each server, identity,
    hash contract, owners, tables and their keys, and whether every row lies where its key belongs. Changes nothing.
    Exits with 1 when it finds an error.
    """
    from .. import Router

    with Router(topology_path(ctx, topology_file)) as router:
        report = router.check(rows=rows, timeout=timeout, processes=processes)
    if as_json:
        print_json({**report.as_dict(), "versions": _versions()})
    else:
        _print_report(report)
    ctx.exit(0 if report.ok else FAILURE)


def _print_report(report: Report) -> None:
    for finding in sorted(report.findings, key=lambda finding: _ORDER[finding.level]):
        level = click.style(f"{finding.level:8}", fg=_COLOURS[finding.level])
        click.echo(f"{level}{finding.subject}: {finding.message}")
        if finding.hint:
            click.echo(f"        HINT:  {finding.hint}")
    click.echo(
        f"fleet {report.fleet}, epoch {report.epoch}: {len(report.errors)} errors, {len(report.warnings)} warnings"
    )
    click.echo(", ".join(f"{name} {version}" for name, version in _versions().items()))


def _versions() -> dict[str, str]:
    import psycopg
    import psycopg_pool

    from .. import __version__

    libpq = psycopg.pq.version()
    return {
        "shardpool": __version__,
        "python": sys.version.split()[0],
        "psycopg": psycopg.__version__,
        "psycopg_pool": psycopg_pool.__version__,
        "libpq": f"{libpq // 10000}.{libpq % 10000}",
    }


@click.command()
@topology_option
@timeout_option("To connect to every shard.", 5.0)
@json_option
@click.pass_context
def stats(ctx: click.Context, topology_file: str | None, timeout: float, as_json: bool) -> None:
    """Connect to every endpoint once and show the pools, with the time that connecting took.

    A service sees the pools of its own process by router.stats(). Exits with 1 when an endpoint was not reached.
    """
    from .. import Router, ScatterError

    missing: dict[str, BaseException] = {}
    with Router(topology_path(ctx, topology_file)) as router:
        try:
            router.wait(timeout)
        except ScatterError as error:
            missing = error.failures
        figures = router.stats()
    if as_json:
        print_json(figures)
    else:
        rows = [
            (shard, name, endpoint["address"], *_connected(endpoint), endpoint["last_error"])
            for shard, endpoints in figures["shards"].items()
            for name, endpoint in endpoints.items()
        ]
        print_table(["shard", "endpoint", "address", "connections", "max", "connect ms", "last error"], rows)
    ctx.exit(FAILURE if missing else 0)


def _connected(endpoint: dict[str, dict[str, int]]) -> tuple[int, int, int]:
    pool = endpoint["pool"]
    return pool.get("pool_size", 0), pool.get("pool_max", 0), pool.get("connections_ms", 0)
