"""How much memory a case takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class Growth:
    """How much resident memory each case took at most above what there was before it, by name, in bytes.

    It is the first run that shows it, as a process keeps what it once had.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, int] = {}

    def of(self, name: str) -> Callable[[], Any]:
        @contextmanager
        def watched() -> Iterator[None]:
            before, highest, ended = _resident(), 0, threading.Event()

            def look() -> None:
                nonlocal highest
                while not ended.wait(0.02):
                    highest = max(highest, _resident())

            thread = threading.Thread(target=look)
            thread.start()
            try:
                yield
            finally:
                ended.set()
                thread.join()
                self.by_name[name] = max(highest - before, self.by_name.get(name, 0))

        return watched


def _resident() -> int:
    """Bytes in memory; 0 where the system does not tell in Linux's way."""
    status = Path("/proc/self/statm")
    return int(status.read_text().split()[1]) * 4096 if status.exists() else 0
