"""Files that a topology is read from, or names: opened so that none of them can hang the process, or fill it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..report import Finding
from ..topology import Topology


def read_file(path: str | Path, most: int) -> bytes:
    """The bytes of a regular file of at most `most` bytes. Raises `OSError`, whose `strerror` says what is wrong.

    A FIFO would wait for a writer for ever, and a device may never end: they are opened without waiting, and refused.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    with os.fdopen(descriptor, "rb") as stream:
        data = stream.read(most + 1)
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return data


def file_findings(path: str | None, topology: Topology) -> Iterator[Finding]:
    """Warnings of files that anybody on this machine may write. Looks at the files, and reads none."""
    endpoints = [endpoint for shard in topology.shards.values() for endpoint in shard.endpoints]
    passwords = sorted({endpoint.password_file for endpoint in endpoints if endpoint.password_file is not None})
    for what, file in [("topology", path), *(("password", file) for file in passwords)]:
        if file is not None and _may_be_written_by_all(file):
            message = f"anybody on this machine may write the {what} file {file}"
            yield Finding("warning", topology.fleet, message, f"chmod o-w {file}")


def _may_be_written_by_all(file: str) -> bool:
    with suppress(OSError):
        return bool(Path(file).stat().st_mode & stat.S_IWOTH)
    return False
