"""Is the process of this number still the one that was started? And signals to it and to all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from threading import Event
from time import monotonic

from ..errors import LocalError


def identity(pid: int) -> str | None:
    """When a process was started and by which command; None when there is none, or only what is left of one."""
    if sys.platform == "linux":
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (FileNotFoundError, ProcessLookupError):
            return None
        # Fields 3 and 22 of proc(5): the state, and the start in clock ticks since boot.
        return None if fields[0] in "ZX" or not command else f"{fields[19]} {command}"
    listing = subprocess.run(["ps", "-o", "stat=,lstart=,command=", "-p", str(pid)], capture_output=True, text=True)
    line = listing.stdout.strip()
    return None if listing.returncode or line.startswith("Z") else line.partition(" ")[2].strip()


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    if sys.platform == "linux":
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if _parent(path) == pid]
    listing = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True)
    return [int(word) for word in listing.stdout.split()]


def _parent(process: Path) -> int | None:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return None


def send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def wait_until_gone(pid: int, known: str, seconds: float) -> None:
    """Return when the process has ended; `LocalError` when it is still there after so many seconds."""
    deadline = monotonic() + seconds
    pause = Event()
    while identity(pid) == known:
        if monotonic() >= deadline:
            raise LocalError(f"process {pid} did not end within {seconds:g} s", detail=known)
        pause.wait(0.01)
    with suppress(ChildProcessError):  # started by another process, which collects it
        while os.waitpid(pid, os.WNOHANG) == (0, 0) and monotonic() < deadline:
            pause.wait(0.005)
