"""Options that several commands have, and the completion of names from the topology file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import click

from .wording import DEADLINE

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from ..topology import Topology

F = TypeVar("F", bound=Callable[..., Any])

VARIABLE = "SHARDPOOL_TOPOLOGY"
_PLACES = (Path("topology.yaml"), Path("config/topology.yaml"))


def topology_option(command: F) -> F:
    """`--topology`, also behind the name of a command."""
    option = click.option(
        "-t", "--topology", "topology_file", metavar="FILE", help="The topology file.", expose_value=True
    )
    return option(command)


class Seconds(click.FloatRange):
    """A time that can pass: above 0 unless a range says otherwise, and no infinity."""

    name = "seconds"

    def __init__(self, min: float = 0, max: float | None = None) -> None:
        super().__init__(min=min, max=max, min_open=min == 0)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        seconds = float(super().convert(value, param, ctx))
        if not isfinite(seconds):
            self.fail(f"{value} is not a number of seconds", param, ctx)
        return seconds


def timeout_option(help: str, default: float | None = None) -> Callable[[F], F]:
    """`--timeout`: what the time is for."""
    return click.option(
        "--timeout",
        type=Seconds(),
        default=default,
        show_default=default is not None,
        metavar="SECONDS",
        help=help,
        callback=_noted,
    )


def _noted(ctx: click.Context, param: click.Parameter, seconds: float | None) -> float | None:
    given = "the topology's timeout" if seconds is None else f"--timeout {seconds:g}"
    ctx.find_root().meta[DEADLINE] = given
    return seconds


def json_option(command: F) -> F:
    """`--json`: for machines, on standard output."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON on standard output.")(command)


def csv_option(command: F) -> F:
    """`--csv`: for spreadsheets and scripts."""
    return click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")(command)


def fanout_option(command: F) -> F:
    """`--fanout`: how many shards a statement may ask."""
    return click.option(
        "--fanout",
        type=click.Choice(["one", "some", "all"]),
        help="Refuse what asks several shards: one allows a single shard, some those of the keys that the statement "
        "names. [default: all]",
    )(command)


def statement_options(command: F) -> F:
    """A statement: as an argument, of a file, or of standard input; and its parameters."""
    command = click.option(
        "-p", "--param", "params", multiple=True, metavar="VALUE", help="A parameter for %s; may be repeated."
    )(command)
    command = click.option(
        "-f",
        "--file",
        type=click.Path(exists=True, dir_okay=False),
        metavar="FILE",
        help="Read the statement from this file.",
    )(command)
    return click.argument("sql", required=False)(command)


def statement(sql: str | None, file: str | None) -> str:
    """The statement that `statement_options` mean."""
    if (sql is None) == (file is None):
        raise click.UsageError("give one statement: as an argument, as - for standard input, or with -f FILE")
    if file is not None:
        return _text(Path(file).read_bytes(), file)
    # What a terminal sends that is not UTF-8 stands in an argument as lone surrogates.
    return _text(sys.stdin.buffer.read(), "standard input") if sql == "-" else _text(os.fsencode(sql or ""), "SQL")


def sql_lines(file: BinaryIO, name: str) -> Iterator[str]:
    """The lines of a script, as they come. Raises `UnicodeError`, with the line, for what is not UTF-8."""
    for number, line in enumerate(file, 1):
        yield _text(line, name, number)


def _text(data: bytes, name: str, first: int = 1) -> str:
    try:
        return data.decode("utf-8-sig" if first == 1 else "utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + first
        what = "is not UTF-8: SQL is read as UTF-8, whatever the terminal's own is"
        raise UnicodeError(f"{name}:{line} {what}") from None


def keyspace_options(command: F) -> F:
    """`--keyspace` and `--table`, for fleets with several keyspaces."""
    keyspace = click.option("--keyspace", metavar="NAME", help="The keyspace of the key.", shell_complete=_keyspaces)
    table = click.option("--table", metavar="NAME", help="A table of the keyspace.", shell_complete=_tables)
    return keyspace(table(command))


def topology_path(ctx: click.Context, given: str | None) -> str:
    """The topology file that the caller means; see the help of `shardpool`."""
    root = ctx.find_root().obj
    for name in (given, root if isinstance(root, str) else None, os.environ.get(VARIABLE)):
        if name:
            return name
    for place in _PLACES:
        if place.exists():
            return str(place)
    local = _local_topology()
    if local is not None:
        return local
    raise click.UsageError(
        "no topology file: give one with --topology, or start a local fleet with `shardpool local up`", ctx
    )


def _local_topology() -> str | None:
    from ..local.state import home

    path = home() / "default" / "topology.yaml"
    return str(path) if path.exists() else None


def _complete(ctx: click.Context, incomplete: str, names_of: Callable[[Topology], Any]) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from ..config import load_topology

    try:
        topology = load_topology(topology_path(ctx, ctx.params.get("topology_file")))
    except Exception:  # a completion has nothing to say of a bad file
        return []
    return [CompletionItem(name) for name in names_of(topology) if name.startswith(incomplete)]


def shards(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _complete(ctx, incomplete, lambda topology: topology.shards)


def _keyspaces(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _complete(ctx, incomplete, lambda topology: topology.keyspaces)


def _tables(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    return _complete(ctx, incomplete, lambda topology: [name.removeprefix("public.") for name in topology.placements])


tables = _tables
