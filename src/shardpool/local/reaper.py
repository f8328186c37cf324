"""Takes a local fleet down when the process that wanted it has ended, however it ended.

Run as `python -m shardpool.local.reaper NAME` with a pipe from that process as standard input: the pipe is closed by
the kernel when the process is gone, kill -9 included.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress

from ..errors import LocalError
from .fleet import LocalFleet


def watch(name: str) -> subprocess.Popen[bytes]:
    """Start a reaper for the fleet; it acts when this process ends or closes the reaper's standard input."""
    return subprocess.Popen(
        [sys.executable, "-m", "shardpool.local.reaper", name], stdin=subprocess.PIPE, start_new_session=True
    )


def main() -> None:
    name = sys.argv[1]
    sys.stdin.buffer.read()
    with suppress(LocalError):
        LocalFleet.load(name).down()


if __name__ == "__main__":
    main()
