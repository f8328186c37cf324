"""What is typed at the prompt or stands in a script: statements, and commands that begin with a backslash. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import StringIO

from ..query.text.scanner import Scanner


@dataclass(frozen=True, slots=True)
class Entry:
    """A statement, or a command that begins with a backslash; `line` is where it begins (1-based).

    `ended` is False for a last statement whose `;` has not come.
    """

    line: int
    text: str
    ended: bool = True

    @property
    def is_command(self) -> bool:
        return self.text.startswith("\\")


def entries(lines: Iterable[str]) -> Iterator[Entry]:
    """What is to be run, as the lines come. A command is a line of its own, between statements."""
    scanner = Scanner()
    begun = 1
    for number, line in enumerate(lines, 1):
        if scanner.is_blank:
            if line.lstrip().startswith("\\"):
                scanner.reset()
                yield Entry(number, line.strip())
                continue
            begun = number
        for statement in scanner.feed(line):
            yield Entry(begun, statement)
            begun = number
    if scanner.rest:
        yield Entry(begun, scanner.rest, ended=False)


def is_complete(text: str) -> bool:
    """Whether nothing in the text waits for its `;`."""
    return all(entry.ended for entry in entries(StringIO(text)))
