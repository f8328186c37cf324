"""The steps of the demo as they happen: a bar while one runs on a terminal, a line when it is done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn

from .report import DemoStep

# A rate over fewer rows says nothing but how long a statement takes.
_RATED = 500


class Running:
    """A step under way: tell it of progress, and what to say when it is done."""

    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars = bars
        self._task = task
        self.note = ""
        self.rows: int | None = None

    def progress(self, count: int) -> None:
        self._bars.advance(self._task, count)


class DemoStage:
    """Runs steps one after another, times them and shows them on a console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self.steps: list[DemoStep] = []

    def say(self, text: str = "") -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Running]:
        """A step of `total` items, if that is known; its line is printed when the block ends without an error."""
        started = perf_counter()
        try:
            with self._bars(total) as bars:
                running = Running(bars, bars.add_task(name, total=total))
                yield running
        except BaseException:
            self.say(f"  [red]✗[/] {name}")
            raise
        step = DemoStep(name, perf_counter() - started, running.note, running.rows)
        self.steps.append(step)
        self._show(step)

    def _bars(self, total: int | None) -> Progress:
        columns = [SpinnerColumn(), TextColumn("{task.description:<18}")]
        if total is not None:
            columns += [BarColumn(bar_width=36), MofNCompleteColumn()]
        # Before rich 15 a bar that is disabled ends its console's line all the same.
        console = self._console if self._console.is_terminal else Console(quiet=True)
        return Progress(*columns, console=console, transient=True)

    def _show(self, step: DemoStep) -> None:
        rate = f"{step.rows / step.seconds:>9,.0f}/s" if step.rows and step.rows >= _RATED else ""
        self.say(f"  [green]✓[/] {step.name:<18}{step.note:<38}{step.seconds:>6.2f} s{rate}")
