"""Writes `docs/reference/cli.md` from the commands themselves; with `--check` only compares it.

A command or an option without a help text is an error, so that none stays undocumented.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
from generated import main

from shardpool.cli import shardpool

TARGET = Path(__file__).resolve().parent.parent / "docs" / "reference" / "cli.md"
HEAD = "# Command line\n\nGenerated from the commands by `tools/cli_reference.py`.\n"


def reference() -> str:
    """The whole page."""
    return HEAD + "".join(_sections(shardpool, click.Context(shardpool, info_name="shardpool")))


def _sections(command: click.Command, ctx: click.Context) -> Iterator[str]:
    _require_help(command, ctx)
    ctx.terminal_width = ctx.max_content_width = 100
    yield f"\n## {ctx.command_path}\n\n```text\n{command.get_help(ctx).rstrip()}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            yield from _sections(below, click.Context(below, info_name=name, parent=ctx))


def _require_help(command: click.Command, ctx: click.Context) -> None:
    if not command.help:
        sys.exit(f"{ctx.command_path} has no help text")
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.help:
            sys.exit(f"{ctx.command_path} {parameter.opts[0]} has no help text")


if __name__ == "__main__":
    sys.exit(main(TARGET, reference()))
