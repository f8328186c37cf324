"""Signals, so that no server is left behind; for the main thread."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# SIGHUP: the terminal was closed.
_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def termination_as_interrupt() -> Iterator[None]:
    """SIGTERM and SIGHUP end the block as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with _handled(interrupt, *_ENDING):
        yield


@contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Ctrl-C and the others take effect at the end of the block: servers half made would be left to nobody."""
    seen: list[int] = []
    with _handled(lambda number, frame: seen.append(number), signal.SIGINT, *_ENDING):
        yield
    if seen:
        raise KeyboardInterrupt


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Neither Ctrl-C nor the others end the block: a second Ctrl-C would leave half of the servers behind."""
    with _handled(signal.SIG_IGN, signal.SIGINT, *_ENDING):
        yield


@contextmanager
def _handled(handler: Any, *numbers: signal.Signals) -> Iterator[None]:
    # What is ignored already stays so: nohup has asked for it.
    heeded = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, handler) for number in heeded}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
