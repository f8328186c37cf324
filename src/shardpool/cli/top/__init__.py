"""`top`: the fleet live, as its servers tell of themselves."""

from __future__ import annotations

import sys

import click

from ..app import FAILURE
from ..options import Seconds, json_option, topology_option, topology_path
from ..output import print_json


@click.command()
@topology_option
@click.option("--once", is_flag=True, help="Show it once, after one interval, and leave.")
@click.option(
    "--interval",
    type=Seconds(0.1, 3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Between two looks at an endpoint.",
)
@click.option(
    "--timeout",
    type=Seconds(0.1, 60),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="After which an endpoint counts as one that does not answer.",
)
@json_option
@click.pass_context
def top(
    ctx: click.Context, topology_file: str | None, once: bool, interval: float, timeout: float, as_json: bool
) -> None:
    """Show every shard and endpoint live: q leaves.

    What is shown comes from the servers (pg_stat_activity, pg_stat_database) and from pings of this command's own, each
    endpoint by itself: one that is down or frozen is shown so, and holds up nothing. tps are transactions a second,
    lag is how far a replica is behind its primary, at most; active and waiting (for a lock) leave this command out. A
    service sees its own pools by router.stats(), or with Prometheus.

    When standard output is no terminal, a table (or with --json a document) comes every interval. With --once it exits
    with 1 when an endpoint did not answer.
    """
    from ... import Router
    from .samples import Samples
    from .screen import print_rows, watch

    with Router(topology_path(ctx, topology_file), kwargs={"application_name": "shardpool top"}) as router:
        fleet = Samples(router, interval, timeout)
        fleet.start()
        try:
            if not once and not as_json and sys.stdout.isatty() and sys.stdin.isatty():
                watch(fleet)
                return
            while True:
                fleet.wait_for_a_round()
                rows = fleet.rows()
                if as_json:
                    print_json(fleet.as_dict(rows))
                else:
                    print_rows(rows)
                if once:
                    ctx.exit(FAILURE if any(row.state != "ok" for row in rows) else 0)
        finally:
            fleet.stop()
