"""The commands of the shell that begin with a backslash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import click

from ...errors import RoutingError, nearest
from ..options import sql_lines
from ..output import print_table
from ..statements import entries
from . import tables
from .session import Leave, ShellSession

_DEPTH = 16


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """One command: what it does with the rest of its line, and what `\\?` says of it."""

    run: Callable[[ShellSession, str], None]
    usage: str
    help: str


def run_command(session: ShellSession, line: str) -> None:
    """Run a line that begins with a backslash; `RoutingError` for one that is not known."""
    name, _, rest = line.partition(" ")
    rest = rest.strip() if name == "\\each" else rest.strip().rstrip(";").rstrip()
    name = name.rstrip(";")
    if name not in COMMANDS:
        hint = nearest(name, COMMANDS)
        raise RoutingError(f"unknown command {name}", hint=hint if "mean" in hint else "\\? lists the commands.")
    COMMANDS[name].run(session, rest)


def _leave(session: ShellSession, rest: str) -> None:
    raise Leave


def _help(session: ShellSession, rest: str) -> None:
    print_table(["command", "what it does"], [(command.usage, command.help) for command in COMMANDS.values()])


def _describe(session: ShellSession, rest: str) -> None:
    if rest:
        tables.describe_table(session, rest)
    else:
        tables.list_tables(session)


def _expanded(session: ShellSession, rest: str) -> None:
    session.printer.expanded = _toggled(session.printer.expanded, rest)
    click.echo(f"Expanded display is {_word(session.printer.expanded)}.", err=session.printer.is_for_machines)


def _timing(session: ShellSession, rest: str) -> None:
    session.shows_time = _toggled(session.shows_time, rest)
    click.echo(f"Timing is {_word(session.shows_time)}.", err=session.printer.is_for_machines)


def _plan(session: ShellSession, rest: str) -> None:
    session.shows_plan = _toggled(session.shows_plan, rest)
    click.echo(f"Showing plans is {_word(session.shows_plan)}.", err=session.printer.is_for_machines)


def _toggled(value: bool, rest: str) -> bool:
    if rest not in ("", "on", "off"):
        raise RoutingError(f"on, off or nothing was expected, not {rest}")
    return rest == "on" if rest else not value


def _word(value: bool) -> str:
    return "on" if value else "off"


def _shard(session: ShellSession, rest: str) -> None:
    if rest:
        session.router.topology.shard(rest)
    session.shard = rest or None
    where = f"shard {rest}, as they stand" if rest else "wherever their rows are"
    click.echo(f"Statements go to {where}.", err=session.printer.is_for_machines)


def _each(session: ShellSession, rest: str) -> None:
    if not rest:
        raise RoutingError("\\each needs a statement on the same line")
    with session.timed():
        session.printer.results(session.router.scatter(rest, **session.options))


def _include(session: ShellSession, rest: str) -> None:
    if not rest:
        raise RoutingError("\\i needs the name of a file")
    if session.depth == _DEPTH:
        raise RoutingError(f"files include one another more than {_DEPTH} deep")
    session.depth += 1
    try:
        with open(rest, "rb") as file:  # noqa: PTH123
            session.run(entries(sql_lines(file, rest)), rest)
    finally:
        session.depth -= 1


COMMANDS = {
    "\\?": ShellCommand(_help, "\\?", "List the commands."),
    "\\q": ShellCommand(_leave, "\\q", "Leave; so does Ctrl-D."),
    "\\d": ShellCommand(_describe, "\\d [TABLE]", "The tables of the topology; or a table's columns, key and place."),
    "\\x": ShellCommand(_expanded, "\\x [on|off]", "Show each row as a block."),
    "\\timing": ShellCommand(_timing, "\\timing [on|off]", "Say how long each statement took."),
    "\\plan": ShellCommand(_plan, "\\plan [on|off]", "Show the plan of each statement before its answer."),
    "\\shards": ShellCommand(
        lambda session, rest: tables.list_shards(session), "\\shards", "The shards: do they answer?"
    ),
    "\\shard": ShellCommand(
        _shard, "\\shard [NAME]", "Send all statements to one shard as they stand; without name: back."
    ),
    "\\each": ShellCommand(_each, "\\each STATEMENT", "Run a statement on every shard, each answering for itself."),
    "\\i": ShellCommand(_include, "\\i FILE", "Run the statements and commands of a file, up to the first error."),
}
