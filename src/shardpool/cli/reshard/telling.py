"""What is told of a move while it is made, and of those that run."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from ..output import print_json, print_table

if TYPE_CHECKING:
    from ...reshard import Progress
    from ...reshard.status import MoveStatus

_SAID = {
    "publishing": "new topology: {note}",
    "barrier": "waiting until all routers work by it on {note}",
    "copying": "copying",
    "catching up": "catching up: {bytes:,} bytes are not applied yet",
    "comparing": "comparing all rows on both shards",
    "compared": "{rows:,} rows are the same on both shards",
    "handing over": "handing over",
    "handed over": "handed over",
    "moved": "moved; the copy on the source follows, for a way back",
    "deleting": "deleting on {note}",
    "finished": "finished: {rows:,} rows deleted on the source",
    "tidied": "what it had left behind is gone",
    "aborted": "undone: {rows:,} rows deleted on the target",
    "paused": "paused",
    "waiting": "waiting: {note}",
    "warning": "{note}",
}
_BAR = 24


class Teller:
    """Tells steps on standard error: a line for each, and on a terminal a bar where rows of one move are counted."""

    def __init__(self, quiet: bool, several: bool = False) -> None:
        self._quiet = quiet
        self._last: dict[int, str] = {}
        self._has_room_for_bar = sys.stderr.isatty() and not several
        self._has_bar = False

    def __call__(self, progress: Progress) -> None:
        if self._quiet:
            return
        line = _SAID.get(progress.step, progress.step).format(
            note=progress.note, rows=progress.rows, bytes=progress.bytes
        )
        if progress.step in ("copying", "deleting"):
            self._counting(line, progress)
            return
        self._end_bar()
        waiting_for = "; ".join(map(str, progress.stragglers))
        text = f"move {progress.number}: {line}" + (f": {waiting_for}" if waiting_for else "")
        if text != self._last.get(progress.number):
            click.echo(text, err=True)
        self._last[progress.number] = text

    def _counting(self, line: str, progress: Progress) -> None:
        counted = f"{progress.rows:,} rows"
        if progress.total:
            counted = f"{progress.rows:,} of about {progress.total:,} rows"
        if not self._has_room_for_bar:
            if line != self._last.get(progress.number):
                click.echo(f"move {progress.number}: {line}", err=True)
            self._last[progress.number] = line
            return
        share = min(1.0, progress.rows / progress.total) if progress.total else 0.0
        bar = "█" * int(share * _BAR) + "░" * (_BAR - int(share * _BAR)) if progress.total else ""
        click.echo(f"\r\x1b[Kmove {progress.number}: {line} {bar} {counted}", err=True, nl=False)
        self._has_bar, self._last[progress.number] = True, line

    def _end_bar(self) -> None:
        if self._has_bar:
            click.echo("", err=True)
        self._has_bar = False


def print_status(statuses: list[MoveStatus], fleet: str, as_json: bool) -> None:
    """Moves as a table, and below it what needs a word."""
    if as_json:
        print_json({"fleet": fleet, "moves": [status.as_dict() for status in statuses]})
        return
    if not statuses:
        click.echo("no move is running")
        return
    columns = ["move", "what", "from", "to", "state", "step", "rows", "owner", "made"]
    print_table(columns, [_row(status) for status in statuses])
    for status in statuses:
        for line in _words(status):
            click.echo(f"move {status.number}: {line}")


def _row(status: MoveStatus) -> list[Any]:
    rows = f"{status.copied:,} of about {status.total:,}" if status.step == "copying" else f"{status.copied:,}"
    made = "now" if status.is_made else "no"
    state = status.state or "over"
    return [
        status.number,
        status.what,
        status.source,
        status.target,
        state,
        status.step,
        rows,
        status.owner or "",
        made,
    ]


def _words(status: MoveStatus) -> list[str]:
    words = []
    if status.rate is not None and status.seconds_left is not None:
        words.append(f"{status.rate:,.0f} rows/s, about {status.seconds_left:,.0f} s left")
    for stream, size in status.behind.items():
        kept = status.kept.get(stream, 0)
        words.append(f"{stream}: {size:,} bytes are not applied yet, {kept:,} are kept in the log")
    words += [f"{stream}: applying has failed {count} times" for stream, count in status.errors.items() if count]
    if "rehearsal_pause" in status.told:
        words.append(f"the rehearsal held writers up for {float(status.told['rehearsal_pause']) * 1000:.0f} ms")
    if "arrival" in status.told:
        pause = (float(status.told["locking"]) + float(status.told["arrival"])) * 1000
        words.append(f"the hand-over took {pause:.0f} ms")
    words += [str(straggler) for straggler in status.stragglers]
    words += [f"shard {shard} is not asked: {why}" for shard, why in status.unreached.items()]
    if status.state is not None and not status.is_made and status.state != "moved":
        words.append(f"nobody makes it: shardpool move resume {status.number}")
    if status.state == "moved" and not status.is_made:
        words.append(
            f"the way back: shardpool move rollback {status.number}; the end: shardpool move finish {status.number}"
        )
    return words
