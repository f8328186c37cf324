"""What docs/architecture.md says of files and names: one subject for a file, one thing for a name."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import shardpool

SOURCE = Path(shardpool.__file__).parent
MOST_LINES = 400
# Longer ones that have one subject all the same: how long they may become, and why they are not divided.
LONG = {
    "_async/router.py": (750, "the face: a few lines for each verb, below all that is to be said of its arguments"),
    "errors.py": (450, "every exception, of a few lines each"),
}


def sources() -> dict[str, str]:
    """The files that people write: `_sync` is generated."""
    files = {path.relative_to(SOURCE): path for path in sorted(SOURCE.rglob("*.py"))}
    return {name.as_posix(): path.read_text() for name, path in files.items() if name.parts[0] != "_sync"}


def test_no_file_is_longer_than_one_subject_takes() -> None:
    lines = {name: text.count("\n") for name, text in sources().items()}
    most = {name: LONG[name][0] if name in LONG else MOST_LINES for name in lines}
    assert {name: count for name, count in lines.items() if count > most[name]} == {}
    assert {name for name in LONG if lines[name] <= MOST_LINES} == set(), "no exceptions any more"


def test_no_two_classes_share_a_name() -> None:
    files_by_name: dict[str, list[str]] = defaultdict(list)
    for name, text in sources().items():
        for class_name in re.findall(r"^ *class (\w+)", text, re.MULTILINE):
            files_by_name[class_name].append(name)
    assert {name: files for name, files in files_by_name.items() if len(files) > 1} == {}
