"""`lookup`: columns that are unique over the fleet, and the entries that lead from a value to its row."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from .app import FAILURE
from .groups import Group
from .options import json_option, topology_option, topology_path
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..operations import LookupReport

_names = click.argument("names", nargs=-1, metavar="[TABLE.COLUMN]...")
_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="For all shards.",
)
_SECONDS = 10.0


@click.group(cls=Group)
def lookup() -> None:
    """Keep the values of columns unique over the fleet, and find rows by them on one shard.

    Which columns these are stands in the topology: lookup: {users.email: unique}, in the keyspace whose key is of the
    type of the column. See docs/howto/unique-values.md.
    """


@lookup.command()
@_names
@_timeout
@topology_option
@json_option
@click.pass_context
def create(
    ctx: click.Context, /, names: tuple[str, ...], timeout: float, topology_file: str | None, as_json: bool
) -> None:
    """Make the tables of entries, and the triggers that keep them, on every shard; of all lookups by default.

    From then on only routers whose topology has the lookup may change its column. Can be run again at any time. Rows
    are found by the column, and kept unique from one shard to another, once `shardpool lookup backfill` has ended.
    """
    from ..operations import create_lookups

    _print_states(ctx, topology_file, as_json, lambda topology: create_lookups(topology, names, timeout=timeout))


@lookup.command()
@click.argument("names", nargs=-1, required=True, metavar="TABLE.COLUMN...")
@click.option(
    "--settle",
    type=click.FloatRange(min=0),
    default=4.0,
    show_default=True,
    metavar="SECONDS",
    help="Until the entries are dropped: routers see within two seconds that they are not used any more.",
)
@_timeout
@topology_option
@json_option
@click.pass_context
def drop(
    ctx: click.Context,
    /,
    names: tuple[str, ...],
    settle: float,
    timeout: float,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Take lookups away, and their entries; afterwards take them out of the topology."""
    from ..operations import drop_lookups

    _print_states(
        ctx,
        topology_file,
        as_json,
        lambda topology: drop_lookups(topology, names, settle=settle, timeout=timeout),
    )


@lookup.command()
@_names
@topology_option
@json_option
@click.pass_context
def backfill(ctx: click.Context, /, names: tuple[str, ...], topology_file: str | None, as_json: bool) -> None:
    """Add the entries of all rows that have none, and have the lookups used. The service goes on meanwhile.

    Can be cut off and run again. Exits with 1 when rows of several keys have one value: the lookup is not used then.
    """
    from ..operations import repair_lookups

    _compare(
        ctx,
        topology_file,
        as_json,
        lambda topology, tell: repair_lookups(topology, names, orphans=False, progress=tell),
    )


@lookup.command()
@_names
@topology_option
@json_option
@click.pass_context
def check(ctx: click.Context, /, names: tuple[str, ...], topology_file: str | None, as_json: bool) -> None:
    """Compare all entries with the rows that they lead to. Changes nothing; exits with 1 when they differ."""
    from ..operations import check_lookups

    _compare(ctx, topology_file, as_json, lambda topology, tell: check_lookups(topology, names, progress=tell))


@lookup.command()
@_names
@topology_option
@json_option
@click.pass_context
def repair(ctx: click.Context, /, names: tuple[str, ...], topology_file: str | None, as_json: bool) -> None:
    """Add the entries that rows lack, and take those away that have no row, after writes past the routers.

    The service goes on meanwhile. Exits with 1 when rows of several keys have one value.
    """
    from ..operations import repair_lookups

    _compare(ctx, topology_file, as_json, lambda topology, tell: repair_lookups(topology, names, progress=tell))


def _print_states(ctx: click.Context, topology_file: str | None, as_json: bool, work: Callable[[Any], Any]) -> None:
    import asyncio

    from ..config import load_topology

    topology = load_topology(topology_path(ctx, topology_file))
    states: dict[str, dict[str, str]] = asyncio.run(work(topology))
    if as_json:
        print_json({"fleet": topology.fleet, "lookups": states})
        return
    print_table(
        ["lookup", "shard", "state"],
        [(name, shard, state) for name, by_shard in states.items() for shard, state in by_shard.items()],
    )


def _compare(
    ctx: click.Context, topology_file: str | None, as_json: bool, work: Callable[[Any, Callable[..., None]], Any]
) -> None:
    import asyncio

    from ..config import load_topology

    topology = load_topology(topology_path(ctx, topology_file))
    reports: list[LookupReport] = asyncio.run(work(topology, _Telling()))
    if as_json:
        print_json({"fleet": topology.fleet, "lookups": [report.as_dict() for report in reports]})
    else:
        for report in reports:
            _print(report)
    ctx.exit(0 if all(report.ok and report.ready for report in reports) else FAILURE)


def _print(report: LookupReport) -> None:
    done = (", added", ", taken away") if report.mended else ("", "")
    click.echo(
        f"{report.name}: {report.rows:,} rows, {report.missing:,} without an entry{done[0]}; "
        f"{report.entries:,} entries, {report.orphaned:,} without a row{done[1]}; "
        f"{'in use' if report.ready else 'not in use'}"
    )
    for value, key, other in report.duplicates:
        click.echo(f"  {value} is a value of the keys {', '.join(key)} and {', '.join(other)}")
    if report.duplicated > len(report.duplicates):
        click.echo(f"  and {report.duplicated - len(report.duplicates):,} more")


class _Telling:
    """A line on standard error every ten seconds."""

    def __init__(self) -> None:
        self._count = 0
        self._next = monotonic() + _SECONDS

    def __call__(self, name: str, shard: str, count: int) -> None:
        self._count += count
        if monotonic() >= self._next:
            self._next = monotonic() + _SECONDS
            click.echo(f"{name}: {self._count:,} rows and entries looked at, on shard {shard} now", err=True)
