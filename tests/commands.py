"""`shardpool` commands in processes of their own, forked from one that has imported all that they need.

A command is a real process, with arguments, an environment and a folder of its own; only the imports, which take longer
than what most commands do, are done once. How a command starts without that is tested where it is run as a program.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

_LONGEST_REQUEST = 1 << 20


def run(
    arguments: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: str | Path | None = None,
    text: str | None = None,
    timeout: float = 60,
    script: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """`shardpool ARGUMENTS` to its end, with `text` on its standard input, or nothing.

    A `script` is Python that is run with these arguments in place of the command, to change it and call it.
    Raises `subprocess.TimeoutExpired` when it has not ended after so many seconds; it is killed then.
    """
    request = {"arguments": list(arguments), "env": dict(env), "cwd": str(cwd or Path.cwd()), "script": script}
    reads, writes = os.pipe()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, os.fdopen(writes, "wb") as feed:
        told, tells = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with told:
            with tells:
                fds = [reads, out.fileno(), err.fileno(), tells.fileno()]
                socket.send_fds(_starter(), [json.dumps(request).encode()], fds)
                os.close(reads)
            with suppress(BrokenPipeError):
                feed.write((text or "").encode())
                feed.close()
            told.settimeout(timeout)
            pid = int(told.recv(32))
            try:
                code = int(told.recv(32))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(["shardpool", *arguments], timeout) from None
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(arguments), code, out.read().decode(), err.read().decode())


@cache
def _starter() -> socket.socket:
    """The process that forks; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        command = [sys.executable, __file__, str(theirs.fileno())]
        subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)
    return ours


def _serve(requests: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Fork for each request. Returns only in a process that is to be a command, with its request and descriptors."""
    # Nobody waits for those that wait for the commands.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        message, fds, _, _ = socket.recv_fds(requests, _LONGEST_REQUEST, 4)
        if not message:
            os._exit(0)
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            pid = os.fork()
            if pid == 0:
                return json.loads(message), fds
            with socket.socket(fileno=fds[3]) as tells:
                tells.send(str(pid).encode())
                tells.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
            os._exit(0)
        for fd in fds:
            os.close(fd)


def _become(request: dict[str, Any], fds: list[int]) -> None:
    """Look like a process that has just been started for this request."""
    for standard, fd in enumerate(fds[:3]):
        os.dup2(fd, standard)
    for fd in fds:
        os.close(fd)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[0] = request["cwd"]
    sys.argv[1:] = request["arguments"]


def _main() -> None:
    sys.path[0] = ""
    from shardpool.cli import main
    from shardpool.cli.app import COMMANDS

    for entry in COMMANDS.values():
        import_module(f"shardpool.cli.{entry.module}")
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        request, fds = _serve(requests)
    _become(request, fds)
    if request["script"] is None:
        main()
    else:
        exec(compile(request["script"], "script", "exec"), {"__name__": "__main__"})


if __name__ == "__main__":
    _main()
