"""The rows on a screen that is drawn again and again, or as a plain table."""

from __future__ import annotations

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic, strftime
from typing import TYPE_CHECKING

from ..output import print_table

if TYPE_CHECKING:
    from rich.table import Table

    from .samples import EndpointSample, Samples

# Seconds between two drawings, and so how long a key may take to be seen at most.
_REDRAW = 0.25
_COLUMNS = (
    "shard",
    "endpoint",
    "state",
    "role",
    "conns",
    "active",
    "waiting",
    "tps",
    "lag s",
    "p50 ms",
    "p99 ms",
    "address",
)
_STATE = _COLUMNS.index("state")
# Left out on a narrow terminal, in this order.
_LESS_NEEDED = ("address", "role", "p99 ms", "waiting", "conns", "endpoint")
_GAP = 2
_NUMERIC = (False,) * 4 + (True,) * 7 + (False,)
_COLOURS = {"ok": "green", "down": "bold red", "silent": "bold red", "other role": "yellow"}


def print_rows(rows: Sequence[EndpointSample]) -> None:
    """One plain table, with the reasons of what is down below it."""
    print_table(_COLUMNS, [_cells(row) for row in rows], numeric=_NUMERIC)
    for row in rows:
        if row.error is not None:
            print(f"{row.shard}/{row.endpoint}: {row.error}")


def watch(fleet: Samples) -> None:
    """Draw until q is typed."""
    from rich.console import Console
    from rich.live import Live

    console = Console()
    with _keys() as pressed, Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(table(fleet.rows(), _title(fleet), console.width), refresh=True)
            if pressed(_REDRAW) in ("q", "Q", "\x1b", "\x04"):
                return


@contextmanager
def _keys() -> Iterator[_Pressed]:
    """Keys as they are typed, without Enter; the terminal is put back as it was."""
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield _Pressed(descriptor)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class _Pressed:
    """The next key within some seconds, or nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __call__(self, seconds: float) -> str:
        until = monotonic() + seconds
        if not select.select([self._descriptor], [], [], max(0.0, until - monotonic()))[0]:
            return ""
        # A closed terminal reads as nothing, for ever: it is taken as the end.
        return os.read(self._descriptor, 1).decode(errors="replace") or "q"


def _title(fleet: Samples) -> str:
    topology = fleet.topology
    return f"fleet {topology.fleet}, epoch {topology.epoch}"


def table(rows: Sequence[EndpointSample], title: str, width: int) -> Table:
    """What is drawn: the columns that a terminal of that width has room for, each in full."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    well = sum(row.state == "ok" for row in rows)
    errors = "\n".join(f"{row.shard}/{row.endpoint}: {row.error}" for row in rows if row.error is not None)
    drawn = Table(
        title=f"{title}: {well} of {len(rows)} endpoints well, {strftime('%H:%M:%S')}",
        caption=escape(errors) + ("\n" if errors else "") + "q leaves",
        title_justify="left",
        caption_justify="left",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),  # with the blank that the box has between two columns, `_GAP`
        pad_edge=False,
        show_edge=False,
        expand=False,
    )
    texts = [["" if cell is None else str(cell) for cell in _cells(row)] for row in rows]
    shown = fitting(texts, width)
    for place in shown:
        drawn.add_column(_COLUMNS[place], justify="right" if _NUMERIC[place] else "left", no_wrap=True)
    for row, cells in zip(rows, texts, strict=True):
        colour = _COLOURS.get(row.state, "dim")
        coloured = [escape(cell) if place != _STATE else f"[{colour}]{cell}[/]" for place, cell in enumerate(cells)]
        drawn.add_row(*[coloured[place] for place in shown])
    return drawn


def fitting(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """The places of the columns that a terminal of that width has room for, the less needed ones left out."""
    shown = list(range(len(_COLUMNS)))
    taken = {place: _GAP + max(len(_COLUMNS[place]), *(len(row[place]) for row in rows)) for place in shown}
    for name in _LESS_NEEDED:
        if sum(taken[place] for place in shown) - _GAP <= width:
            break
        shown.remove(_COLUMNS.index(name))
    return shown


def _cells(row: EndpointSample) -> tuple[str | int | None, ...]:
    return (
        row.shard,
        row.endpoint,
        row.state,
        row.role,
        None if row.connections is None else f"{row.connections}/{row.max_connections}",
        row.active,
        row.waiting,
        None if row.tps is None else f"{row.tps:.1f}",
        None if row.lag is None else f"{row.lag:.1f}",
        None if row.ping_p50 is None else f"{row.ping_p50 * 1000:.2f}",
        None if row.ping_p99 is None else f"{row.ping_p99 * 1000:.2f}",
        row.address,
    )
