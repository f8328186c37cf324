"""`migrations.sum`: the checksum of every file, and of all of them in the first line. Pure: text in, text out.

Two branches that each add a migration both change the first line, so that git shows a conflict rather than merging two
histories that nobody has run together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

FILE = "migrations.sum"
_HEAD = "all"


def sum_text(checksum_by_file: Mapping[str, str]) -> str:
    """The contents of the sum file."""
    lines = [f"{file} sha256:{checksum}" for file, checksum in sorted(checksum_by_file.items())]
    return "\n".join([f"{_HEAD} sha256:{_chained(lines)}", *lines]) + "\n"


def _chained(lines: list[str]) -> str:
    """Each line's hash goes into the next, so that the order counts too."""
    digest = b""
    for line in lines:
        digest = hashlib.sha256(digest + line.encode()).digest()
    return digest.hex()


def problems(text: str, checksum_by_file: Mapping[str, str]) -> Iterator[str]:
    """In what the folder is not as the sum file says, in the order of the files."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if any(line.startswith(("<<<<<<<", "=======", ">>>>>>>")) for line in lines):
        yield "it holds a conflict of git"
        return
    head, *rest = lines or [""]
    known = dict(line.rsplit(" sha256:", 1) for line in rest if " sha256:" in line)
    for file in sorted(known.keys() | checksum_by_file.keys()):
        if file not in known:
            yield f"{file} is not in it"
        elif file not in checksum_by_file:
            yield f"{file} is in it, and not in the folder"
        elif known[file] != checksum_by_file[file]:
            yield f"{file} was changed since"
    if head != f"{_HEAD} sha256:{_chained(rest)}":
        yield "its first line does not fit the others"
