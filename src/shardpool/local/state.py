"""What is written down of a fleet, so that a later process finds its servers; and the lock that keeps two apart."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import LocalError, LocalMisuse
from .binaries import account
from .server import Server

HOME_VARIABLE = "SHARDPOOL_HOME"
_FORMAT = 1
_NAME = re.compile(r"[a-z][a-z0-9_-]{0,40}")
_ROOM = 1 << 30


def home() -> Path:
    """Where fleets are written down: `SHARDPOOL_HOME`, else `shardpool` in the user's state folder."""
    if HOME_VARIABLE in os.environ:
        return Path(os.environ[HOME_VARIABLE])
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local/state")
    return Path(state) / "shardpool"


def data_root(folder: str | os.PathLike[str] | None, *, durable: bool = False) -> Path:
    """Where data may lie: on disk where it has to last, else in memory where there is room for it."""
    if folder is not None:
        return Path(folder)
    memory = Path("/dev/shm")
    if not durable and memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= _ROOM:
        return memory / f"shardpool-{os.geteuid()}"
    return Path("/var/tmp") / f"shardpool-{os.geteuid()}"


def make_private(folder: Path, *, for_servers: bool = False) -> Path:
    """A folder of ours alone; servers that run under another account may pass through it, but not look."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if folder.is_symlink() or status.st_uid != os.geteuid():
        raise LocalError(f"{folder} does not belong to us", hint="Remove it, or choose another place.")
    folder.chmod(0o711 if for_servers and account() is not None else 0o700)
    return folder


@dataclass
class State:
    """One fleet as it is written down; `complete` is False while it is being started."""

    name: str
    database: str
    data: str
    servers: list[Server]
    options: dict[str, Any]
    complete: bool = False

    @property
    def folder(self) -> Path:
        return folder_of(self.name)

    def save(self) -> None:
        """Replace the file whole, so that a crash leaves the old one or the new one."""
        text = json.dumps({"format": _FORMAT, **asdict(self)}, indent=1)
        make_private(home())
        make_private(self.folder)
        part = self.folder / "state.json.part"
        part.unlink(missing_ok=True)
        part.touch(mode=0o600, exist_ok=False)
        part.write_text(text, encoding="utf-8")
        part.replace(self.folder / "state.json")


def folder_of(name: str) -> Path:
    """Where a fleet is written down; raises `LocalMisuse` for what is no name, and might be a path to elsewhere."""
    if not _NAME.fullmatch(name):
        raise LocalMisuse(f"{name!r} is not the name of a fleet", hint="A fleet has a name like my-fleet.")
    return home() / name


def load(name: str) -> State | None:
    """The fleet as it was written down, or None."""
    try:
        text = (folder_of(name) / "state.json").read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        read = json.loads(text)
        if read.pop("format") != _FORMAT:
            raise LocalError(f"the state of fleet {name} was written by another version of shardpool")
        return State(**{**read, "servers": [Server(**server) for server in read["servers"]]})
    except (ValueError, KeyError, TypeError) as error:
        raise LocalError(
            f"the state of fleet {name} cannot be read", detail=str(error), hint=f"Look at {home() / name}/state.json."
        ) from error


def names() -> list[str]:
    """The names of all fleets that are written down."""
    return sorted(path.parent.name for path in home().glob("*/state.json"))


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Nobody else starts or stops the fleet meanwhile; ends with the process, however it ends."""
    folder = folder_of(name)
    path = make_private(home()) / f"{name}.lock"
    while True:
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                message = f"another process is starting or stopping fleet {name}"
                raise LocalError(message, hint="Try again later.") from None
            # The file that was locked may have been removed by the one who held the lock before.
            if not path.exists() or path.stat().st_ino != os.fstat(file.fileno()).st_ino:
                continue
            yield
            if not folder.exists():
                path.unlink(missing_ok=True)
            return
