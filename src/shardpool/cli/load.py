"""`load`: a CSV file into a table of the fleet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import click

from .options import json_option, tables, timeout_option, topology_option, topology_path
from .output import print_json, print_table

if TYPE_CHECKING:
    from ..load import CsvFile, LoadReport


@click.command()
@click.argument("table", shell_complete=tables)
@click.argument("file", type=click.Path(exists=True, allow_dash=True, dir_okay=False))
@click.option(
    "--null",
    default="",
    metavar="TEXT",
    help="The text that stands for NULL where it is not quoted. [default: an empty field]",
)
@click.option(
    "--columns", metavar="A,B,…", help="The columns to load, by their names in the header; or, with --no-header, all."
)
@click.option("--no-header", is_flag=True, help="The first line is a row already.")
@click.option("--delimiter", default=",", show_default=True, metavar="CHAR", help="What separates fields.")
@click.option("--encoding", default="utf-8-sig", show_default=True, help="The encoding of the file.")
@click.option(
    "--on-null-key",
    type=click.Choice(["error", "skip", "collect"]),
    default="error",
    show_default=True,
    help="What happens to rows whose partition key is NULL: nothing is loaded; they are left out and counted; or they "
    "are written into the file of --collect.",
)
@click.option("--collect", type=click.Path(dir_okay=False), metavar="FILE", help="Where rows without a key go.")
@timeout_option("For the whole load. [default: none]")
@topology_option
@json_option
@click.pass_context
def load(
    ctx: click.Context,
    table: str,
    file: str,
    null: str,
    columns: str | None,
    no_header: bool,
    delimiter: str,
    encoding: str,
    on_null_key: Literal["error", "skip", "collect"],
    collect: str | None,
    timeout: float | None,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Load FILE (.csv, .csv.gz, .zip with one file, or - for standard input) into TABLE.

    Each row goes to the shard of its key, those of a reference table to every shard. All of the file is loaded, or
    nothing: an error names the line that is to blame, or the value that a server has refused.
    """
    if on_null_key == "collect" and collect is None:
        raise click.UsageError("--on-null-key collect needs --collect FILE")
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise click.UsageError("--delimiter is one character, and neither a quote nor the end of a line")
    from ..load import CsvFile

    source = CsvFile(
        sys.stdin.buffer if file == "-" else file,
        null=null,
        columns=columns.split(",") if columns else None,
        header=not no_header,
        delimiter=delimiter,
        encoding=encoding,
    )
    path = topology_path(ctx, topology_file)
    with _progress(source, as_json) as progress:
        report = _run(path, table, source, on_null_key, Path(collect) if collect else None, timeout, progress)
    _print(report, as_json)


def _run(path: str, *arguments: Any) -> LoadReport:
    import asyncio

    notes: list[str] = []

    async def run() -> LoadReport:
        from .. import AsyncRouter
        from ..load import load_csv

        table, source, on_null_key, collect, timeout, progress = arguments
        try:
            async with AsyncRouter(path) as router:
                return await load_csv(
                    router,
                    table,
                    source,
                    on_null_key=on_null_key,
                    collect_into=collect,
                    timeout=timeout,
                    progress=progress,
                )
        except asyncio.CancelledError as error:  # Ctrl-C
            notes.extend(getattr(error, "__notes__", []))
            raise

    try:
        return asyncio.run(run())
    except KeyboardInterrupt as error:
        for note in notes or ["it is not known whether the last COMMIT was applied: look before you load again"]:
            error.add_note(note)
        raise


@contextmanager
def _progress(source: CsvFile, quiet: bool) -> Iterator[Callable[[int], None]]:
    """Rows and rate, with a bar and the time that is left where the size is known; a line every 10 s off a terminal."""
    size = source.size
    if quiet or not sys.stderr.isatty():
        yield _Lines(source, quiet)
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.fields[rows]:,} rows"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[rate]:,.0f} rows/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    started = monotonic()
    rows = 0
    with bar:
        task = bar.add_task("", total=size, rows=0, rate=0.0)

        def advance(count: int) -> None:
            nonlocal rows
            rows += count
            rate = rows / max(monotonic() - started, 1e-9)
            bar.update(task, completed=source.position, rows=rows, rate=rate)

        yield advance


class _Lines:
    """Progress for a log."""

    def __init__(self, source: CsvFile, quiet: bool) -> None:
        self._source = source
        self._quiet = quiet
        self._rows = 0
        self._next = monotonic() + 10

    def __call__(self, count: int) -> None:
        self._rows += count
        if not self._quiet and monotonic() >= self._next:
            self._next = monotonic() + 10
            size = self._source.size
            share = f" ({self._source.position * 100 // size} % of the file)" if size else ""
            click.echo(f"{self._rows:,} rows{share}", err=True)


def _print(report: LoadReport, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "table": report.table,
                "rows": report.rows,
                "rows_by_shard": report.rows_by_shard,
                "skipped": report.skipped,
                "seconds": round(report.seconds, 3),
            }
        )
        return
    print_table(["shard", "rows"], list(report.rows_by_shard.items()))
    rate = report.rows / max(report.seconds, 1e-9)
    click.echo(f"{report.rows:,} rows loaded into {report.table} in {report.seconds:.2f} s ({rate:,.0f} rows/s)")
    if report.skipped:
        click.echo(f"{report.skipped:,} rows without a key were not loaded", err=True)
