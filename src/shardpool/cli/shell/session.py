"""What a shell remembers between statements, and how it runs one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any

import click

from ...errors import UnsupportedQuery
from ...query.text.scanner import first_word
from ..answers import Printer, execute
from ..statements import Entry
from ..wording import say_at_prompt

if TYPE_CHECKING:
    from ... import Router
    from ...query.choices import Fanout
    from ...result import Result

_TRANSACTION = frozenset("begin start commit end rollback abort savepoint release prepare".split())


class Leave(Exception):
    """`\\q`: the shell is to end."""


@dataclass
class ShellSession:
    """One shell: where statements go, and how answers are shown.

    `run_command` runs a line that begins with a backslash. `shard` is the one that `\\shard` has chosen.
    """

    router: Router
    printer: Printer
    run_command: Callable[[ShellSession, str], None]
    timeout: float | None = None
    readonly: bool = False
    fanout: Fanout | None = None
    shard: str | None = None
    shows_time: bool = False
    shows_plan: bool = False
    depth: int = 0  # of files that are read by files

    def run(self, entries: Iterable[Entry], source: str | None = None) -> None:
        """Run statements and commands one after another; the first error ends that, and names its line in `source`."""
        for entry in entries:
            try:
                self._run_one(entry)
            except Leave:
                raise
            except Exception as error:
                if source is not None:
                    say_at_prompt(error)
                    error.add_note(f"LOCATION:  {source}:{entry.line}")
                raise

    def _run_one(self, entry: Entry) -> None:
        if entry.is_command:
            self.run_command(self, entry.text)
            return
        with self.timed():
            result = self._execute(entry.text)
            self.printer.result(result)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Says how long the block took, when `\\timing` is on."""
        begun = monotonic()
        yield
        if self.shows_time:
            click.echo(f"Time: {(monotonic() - begun) * 1000:.1f} ms", err=self.printer.is_for_machines)

    @property
    def options(self) -> dict[str, Any]:
        """What every statement is run with."""
        return {"timeout": self.timeout, "readonly": self.readonly}

    def _execute(self, sql: str) -> Result:
        if self.shard is not None:
            if self.shows_plan:
                click.echo(f"shard {self.shard} runs the statement as it stands", err=True)
            return self.router.shard(self.shard).execute(sql, **self.options)
        try:
            return execute(self.router, sql, None, self.shows_plan, fanout=self.fanout, **self.options)
        except UnsupportedQuery as error:
            note = _note(sql, error)
            if note:
                error.add_note(note)
            raise


def _note(sql: str, error: UnsupportedQuery) -> str | None:
    """What a refusal means at the prompt, where the verbs of the library that hints name are not at hand."""
    if first_word(sql) in _TRANSACTION:
        return "HINT:  In the shell a transaction is of one shard, and here each statement commits by itself."
    if "scatter()" in (error.hint or ""):
        return "HINT:  In the shell \\each STATEMENT runs it on every shard, \\shard NAME sends statements to one."
    return None
