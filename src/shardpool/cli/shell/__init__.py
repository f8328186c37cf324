"""`shell`: SQL at a prompt, as a script on standard input, or given by -c."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from ..answers import Printer
from ..options import (
    csv_option,
    fanout_option,
    json_option,
    sql_lines,
    timeout_option,
    topology_option,
    topology_path,
)
from ..statements import entries

if TYPE_CHECKING:
    from ...query.choices import Fanout


@click.command()
@click.option(
    "-c", "--command", "commands", multiple=True, metavar="SQL", help="Run this and leave; may be repeated, in order."
)
@click.option("--readonly", is_flag=True, help="Read from replicas within their lag limit, where there are any.")
@fanout_option
@timeout_option("For each statement. [default: the topology's]")
@csv_option
@topology_option
@json_option
@click.pass_context
def shell(
    ctx: click.Context,
    commands: tuple[str, ...],
    readonly: bool,
    fanout: Fanout | None,
    timeout: float | None,
    as_csv: bool,
    topology_file: str | None,
    as_json: bool,
) -> None:
    """Type SQL at a prompt and see what the fleet answers, as `query` would; \\? lists the commands of the prompt.

    A statement ends with ; and may take several lines. Each commits by itself. When standard input is no terminal,
    statements and commands are read from there without a prompt, and the first error ends the script: with 2 when the
    call has to be changed, 1 when a shard failed. With --json each answer is a document of its own.

    The prompt needs prompt_toolkit: pip install 'shardpool[shell]'
    """
    from ... import Router
    from .commands import run_command
    from .session import Leave, ShellSession

    at_prompt = not commands and sys.stdin.isatty() and sys.stdout.isatty()
    if at_prompt:
        from .prompt import converse, require_prompt_toolkit

        require_prompt_toolkit()
    with Router(topology_path(ctx, topology_file)) as router:
        session = ShellSession(router, Printer(as_json, as_csv), run_command, timeout, readonly, fanout)
        if at_prompt:
            converse(session)
            return
        try:
            for command in commands:
                session.run(entries(command.splitlines(keepends=True)))
            if not commands:
                session.run(entries(sql_lines(sys.stdin.buffer, "<stdin>")), "<stdin>")
        except Leave:
            return
