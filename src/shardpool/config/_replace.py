"""The topology file on disk: read with what is needed to know it again, and replaced in one step.

The steps of a replacement, each of which leaves the file whole when it is the last: the folder is locked, the file is
looked at again, a new file is written beside it (`O_EXCL | O_NOFOLLOW`, the mode, the owner and the extended attributes
of the old, access lists among them), flushed to the disk, renamed over the old one, and the folder is flushed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import EditRefused

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def digest(text: str) -> str:
    """By which a text of a topology file is known again: SHA-256, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class FileSnapshot:
    """A topology file as it was read."""

    path: Path
    text: str
    mode: int
    owner: int
    group: int
    byte_order_mark: bool = False

    @property
    def digest(self) -> str:
        return digest(self.text)


def read_snapshot(path: str | os.PathLike[str]) -> FileSnapshot:
    """The file as it is now. Reads it. Raises `EditRefused` for a symbolic link and what is no plain file."""
    file = Path(path)
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if file.is_symlink():
            raise EditRefused(
                f"{file} is a symbolic link, and editing would put a file in its place",
                detail=f"It leads to {file.readlink()}.",
                hint="Name the file itself with --topology. What Kubernetes mounts of a ConfigMap is such a link: edit "
                "the file that the ConfigMap is made of, and let --settle cover how long it takes to arrive.",
            ) from None
        raise EditRefused(f"{file} cannot be read: {error.strerror}") from None
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise EditRefused(f"{file} is not a plain file")
        data = stream.read()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = None
    if text is None:
        raise EditRefused(f"{file} is not UTF-8", hint="Save the file as UTF-8.")
    marked = data.startswith(b"\xef\xbb\xbf")
    return FileSnapshot(file, text, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, marked)


class LockedFile:
    """The topology file of an edit that has its folder to itself; see `locked`."""

    def __init__(self, path: Path, folder: int) -> None:
        self.path = path
        self._folder = folder
        self._temporary = f".{path.name}.new"

    def read(self) -> FileSnapshot:
        """The file as it is now; raises `EditRefused`."""
        return read_snapshot(self.path)

    def check_writable(self, old: FileSnapshot) -> None:
        """Raise `EditRefused` where `replace` would, as far as an empty file that is made and removed can tell."""
        self._check(old)
        self._write(old, "")
        self._remove_temporary()

    def replace(self, old: FileSnapshot, text: str) -> None:
        """Put a new text in the place of what `old` holds, in one step; raises `EditRefused` when it has changed."""
        self._check(old)
        self._write(old, text)
        try:
            # Again, for an editor that keeps no lock: between this look and the rename there are microseconds.
            self._check(old)
            self._rename()
        except BaseException:
            self._remove_temporary()
            raise
        with suppress(OSError):  # the file is replaced; some file systems cannot flush a folder
            os.fsync(self._folder)

    def _check(self, old: FileSnapshot) -> None:
        if self.read() != old:
            raise EditRefused(
                f"{self.path} was changed by somebody else while this edit was made",
                hint="Look at the file, and run the same command again.",
            )

    def _rename(self) -> None:
        try:
            os.rename(self._temporary, self.path.name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        except OSError as error:
            raise EditRefused(
                f"{self.path} cannot be replaced: {error.strerror}",
                detail="A new file takes its place in one step.",
                hint="A file that is mounted by itself cannot be replaced: mount its folder, or edit the file that is "
                "mounted where it lies."
                if error.errno == errno.EBUSY
                else "Look at the permissions of the file and of its folder.",
            ) from None

    def _write(self, old: FileSnapshot, text: str) -> None:
        self._remove_left_behind()
        try:
            descriptor = os.open(self._temporary, _NEW, 0o600, dir_fd=self._folder)
        except OSError as error:
            raise EditRefused(
                f"{self.path.with_name(self._temporary)} cannot be made: {error.strerror}",
                detail="An edit writes the new file beside the old one, and renames it.",
                hint="Edit the file where it may be written; one that is mounted from elsewhere, as of a ConfigMap, is "
                "edited where it comes from.",
            ) from None
        try:
            with os.fdopen(descriptor, "wb") as stream:
                self._adopt(stream.fileno(), old)
                stream.write((b"\xef\xbb\xbf" if old.byte_order_mark else b"") + text.encode())
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            self._remove_temporary()
            raise EditRefused(
                f"{self.path.with_name(self._temporary)} cannot be written: {error.strerror}",
                detail=f"{self.path} is as it was.",
            ) from None
        except BaseException:
            self._remove_temporary()
            raise

    def _adopt(self, descriptor: int, old: FileSnapshot) -> None:
        """Owner, mode and attributes of the old file. Raises `EditRefused` where it would be somebody else's file."""
        made = os.fstat(descriptor)
        if (made.st_uid, made.st_gid) != (old.owner, old.group):
            try:
                os.fchown(descriptor, old.owner, old.group)
            except OSError:
                raise EditRefused(
                    f"{self.path} is of user {old.owner} and group {old.group}, and a new file cannot be given to them",
                    hint="Run the edit as the owner of the file, or as root.",
                ) from None
        os.fchmod(descriptor, old.mode)
        for name in _attributes(self.path):
            # What the kernel sets by itself, or only for root, is left to it.
            with suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(self.path, name, follow_symlinks=False))

    def _remove_left_behind(self) -> None:
        """What an edit that was killed has left; nobody else writes it, for the folder is locked."""
        try:
            status = os.stat(self._temporary, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISREG(status.st_mode):
            raise EditRefused(
                f"{self.path.with_name(self._temporary)} is in the way: it is no plain file",
                detail="An edit writes its new file under that name, and follows no link.",
                hint="Find out who made it, and remove it.",
            )
        self._remove_temporary()

    def _remove_temporary(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._temporary, dir_fd=self._folder)


def _attributes(path: Path) -> list[str]:
    """The names of the file's extended attributes; none where the system has no such thing."""
    if not hasattr(os, "listxattr"):
        return []
    try:
        return list(os.listxattr(path, follow_symlinks=False))
    except OSError:
        return []


@contextmanager
def locked(path: str | os.PathLike[str]) -> Iterator[LockedFile]:
    """The file, while nobody else edits in its folder; raises `EditRefused` at once when somebody does.

    The lock is on the folder itself, so nothing is left behind, and it ends with the process however that ends.
    """
    file = Path(path)
    try:
        folder = os.open(file.parent, _DIRECTORY)
    except OSError as error:
        raise EditRefused(f"{file.parent} cannot be opened: {error.strerror}") from None
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise EditRefused(
                f"{file} is being edited by another process", hint="Run the same command again when it has ended."
            ) from None
        yield LockedFile(file, folder)
    finally:
        os.close(folder)
