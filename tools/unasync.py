"""Generates `src/shardpool/_sync` from `src/shardpool/_async`; with --check, says whether it is up to date.

The rules are on identifiers: `AsyncX` and `async_x` lose their prefix, `__aenter__` and `aclose` their `a`,
`Awaitable[T]` is `T`, and `async` and `await` go. What differs by more than a name stands in pairs in the modules
beside `_async`. The output is put in order by ruff. A word `async` or `await` that is left in the code is an error.

    python tools/unasync.py [--check]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src/shardpool/_async"
TARGET = ROOT / "src/shardpool/_sync"
HEADER = "# Generated from _async/{name} by tools/unasync.py: edit that one, then run `make sync`.\n"

RULES = [
    (re.compile(r"\basync (def|with|for)\b"), r"\1"),
    (re.compile(r"\bawait "), ""),
    (re.compile(r"\bAsync(?=[A-Z])"), ""),
    (re.compile(r"\basync_(?=[a-z])"), ""),
    (re.compile(r"\b__a(enter|exit|iter|next)__\b"), r"__\1__"),
    (re.compile(r"(Iterable\[Sequence\[Any\]\]) \| \1"), r"\1"),
    (re.compile(r"\basync(?=contextmanager\b)"), ""),
    (re.compile(r"\baclose\b"), "close"),
    (re.compile(r"\b_async\b"), "_sync"),
]
LEFT_OVER = re.compile(r"^[^#\"]*\b(async|await)\b", re.MULTILINE)


def convert(text: str) -> str:
    """The sync text of an async one."""
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return without_awaitable(text)


def without_awaitable(text: str) -> str:
    """`Awaitable[…]` → `…`, brackets matched."""
    while (start := text.find("Awaitable[")) >= 0:
        depth, end = 0, start + len("Awaitable")
        while True:
            depth += {"[": 1, "]": -1}.get(text[end], 0)
            end += 1
            if depth == 0:
                break
        text = text[:start] + text[start + len("Awaitable[") : end - 1] + text[end:]
    return text


def generate(folder: Path) -> None:
    for source in sorted(SOURCE.rglob("*.py")):
        name = source.relative_to(SOURCE)
        text = HEADER.format(name=name) + convert(source.read_text(encoding="utf-8"))
        if found := LEFT_OVER.search(text):
            sys.exit(f"{name}: {found[0].strip()!r} is not turned into its sync form")
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    config = ["--config", str(ROOT / "pyproject.toml")]
    subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--quiet", "--fix-only", "--select", "I,F401", *config, str(folder)],
        check=True,
    )
    subprocess.run([sys.executable, "-m", "ruff", "format", "--quiet", *config, str(folder)], check=True)


def texts_of(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}


def main() -> None:
    check = sys.argv[1:] == ["--check"]
    with tempfile.TemporaryDirectory(dir=TARGET.parent, prefix="_sync_") as made:
        generate(Path(made))
        texts = texts_of(Path(made))
    old = texts_of(TARGET)
    if texts == old:
        return
    if check:
        names = sorted(name for name in texts.keys() | old.keys() if texts.get(name) != old.get(name))
        sys.exit(f"_sync is not what _async gives: {', '.join(names)}. Run: make sync")
    for name in old.keys() - texts.keys():
        (TARGET / name).unlink()
        with suppress(OSError):  # the folder holds more
            (TARGET / name).parent.rmdir()
    for name, text in texts.items():
        path = TARGET / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
