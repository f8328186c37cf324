"""What commands print: tables for people, JSON and CSV for machines."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click

FORMAT_VERSION = 1


def print_json(value: dict[str, Any]) -> None:
    """One JSON document on standard output; `format_version` changes when a reader has to change with it."""
    click.echo(json.dumps({"format_version": FORMAT_VERSION, **value}, indent=2, default=_plain, ensure_ascii=False))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    return str(value)


def print_csv(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """RFC 4180, with a header; NULL is an empty field."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([[_value(value) for value in row] for row in rows])
    # As click.echo() does: who reads a pipe gets each answer when it is there.
    sys.stdout.flush()


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Any]],
    *,
    count: bool = False,
    numeric: Sequence[bool] | None = None,
) -> None:
    """Aligned columns, with a rule below the header, as psql has it.

    Numbers stand to the right: the columns that `numeric` says, or those that hold nothing else.
    """
    cells = [[_text(value) for value in row] for row in rows]
    widths = [max([len(name), *(len(row[at]) for row in cells)]) for at, name in enumerate(columns)]
    numeric = numeric or [
        bool(rows) and all(row[at] is None or isinstance(row[at], int | float) for row in rows)
        for at in range(len(columns))
    ]
    header = "  ".join(name.ljust(width) for name, width in zip(columns, widths, strict=True)).rstrip()
    click.echo(click.style(header, bold=True))
    click.echo("  ".join("─" * width for width in widths))
    for row in cells:
        padded = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        click.echo("  ".join(padded).rstrip())
    if count:
        click.echo(_counted(len(rows)))


def print_expanded(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Each row as a block, with a line for each column, as psql does after \\x."""
    width = max([len(name) for name in columns])
    for number, row in enumerate(rows, 1):
        click.echo(click.style(f"─[ record {number} ]─", bold=True))
        for name, value in zip(columns, row, strict=True):
            click.echo(f"{name.ljust(width)} │ {_text(value)}".rstrip())
    click.echo(_counted(len(rows)))


def _counted(rows: int) -> str:
    return f"({rows} row{'' if rows == 1 else 's'})"


def _text(value: Any) -> str:
    """A value in one line of a table."""
    return _value(value).replace("\n", "\\n")


def _value(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, bytes | bytearray | memoryview):
        return "\\x" + bytes(value).hex()
    return str(value)
