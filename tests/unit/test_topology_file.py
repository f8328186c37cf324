"""The topology file on disk: what a replacement keeps, and where it is refused."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shardpool import EditRefused
from shardpool.config import locked


def test_a_replacement_keeps_mode_mark_and_attributes(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_bytes(b"\xef\xbb\xbfa: 1\r\n")
    path.chmod(0o604)
    os.setxattr(path, "user.note", b"ours")
    with locked(path) as file:
        file.replace(file.read(), "a: 2\r\n")
    assert path.read_bytes() == b"\xef\xbb\xbfa: 2\r\n"
    assert path.stat().st_mode & 0o777 == 0o604
    assert os.getxattr(path, "user.note") == b"ours"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "topology.yaml"
    path.write_text("a: 1\n", encoding="utf-8")
    with locked(path) as file:
        before = file.read()
        # Larger than any file may be: the disc is full, as far as this process can tell.
        limit = _file_size_limit(16)
        try:
            with pytest.raises(EditRefused, match="cannot be written: File too large"):
                file.replace(before, "a: 2\n" + "#" * 4096)
        finally:
            _file_size_limit(limit)
    assert path.read_text(encoding="utf-8") == "a: 1\n"
    assert list(tmp_path.iterdir()) == [path]


def _file_size_limit(size: int) -> int:
    """Set how large a file this process may write; gives what it was before."""
    import resource
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    return before


def test_a_file_that_would_be_somebody_elses_is_not_replaced(tmp_path: Path) -> None:
    """Told by a process that is not root, and may not give files away."""
    path = tmp_path / "topology.yaml"
    path.write_text("a: 1\n", encoding="utf-8")
    told, tell = os.pipe()
    with locked(path) as file:
        mine = file.read()
        if os.fork() == 0:
            if os.getuid() == 0:
                os.setgid(54321)
                os.setuid(54321)
            try:
                file._adopt(os.memfd_create("new"), replace(mine, owner=0, group=0))
            except EditRefused as error:
                os.write(tell, str(error).encode())
            os._exit(0)
        os.close(tell)
        os.wait()
    assert b"is of user 0 and group 0, and a new file cannot be given to them" in os.read(told, 4096)
