"""The topology file follows a move: each state of it is an edit like any other, announced on every shard."""

from __future__ import annotations

import asyncio
import getpass
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import Any

from ..config import LockedFile, edit_text, file_data, locked, parse_topology
from ..errors import EditRefused
from ..operations.edit import Edit, apply_edit
from ..operations.unfinished_edits import resume
from ..patches import Operation, Put
from ..topology import Topology

FilePath = str | os.PathLike[str]
Make = Callable[[Any, Topology], list[Operation]]


async def publish(
    path: FilePath,
    mover: int | None,
    change: str,
    make: Make,
    *,
    timeout: float,
    author: str | None = None,
) -> Topology:
    """Make an edit of a move's own, and return when it is in force on the shards; nothing when it is made already.

    No time is given to routers: whoever needs them to have taken it over waits for that. Raises what `apply_edit` does.
    """
    async with _locked(path, timeout) as file:
        current = file.read()
        old = _parsed(current.text, current.path)
        await resume(current.digest, old, settle=0.0, timeout=timeout)
        operations = make(file_data(current.text), old)
        if not operations:
            return old
        text = edit_text(current.text, [Put(("epoch",), old.epoch + 1), *operations])
        new = _parsed(text, current.path)
        edit = Edit(current, text, old, new, change, author or _author(), mover)
        await apply_edit(file, edit, settle=0.0, timeout=timeout)
        return new


@asynccontextmanager
async def _locked(path: str | os.PathLike[str], timeout: float) -> AsyncIterator[LockedFile]:
    """The file, as soon as no other edit is made in its folder: moves run side by side, and each edits it."""
    end = monotonic() + timeout
    with ExitStack() as stack:
        while True:
            try:
                file = stack.enter_context(locked(path))
                break
            except EditRefused:
                if monotonic() >= end:
                    raise
            await asyncio.sleep(0.1)
        yield file


def _author() -> str:
    try:
        return f"{getpass.getuser()}@{socket.gethostname()}"
    except (KeyError, OSError):  # a container may run under a number that has no name
        return f"uid {os.getuid()}@{socket.gethostname()}"


def _parsed(text: str, path: Path) -> Topology:
    return parse_topology(text, file=str(path), folder=path.parent)
