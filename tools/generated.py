"""What every tool does with the file that it generates: write it, or with --check say whether it is up to date."""

from __future__ import annotations

import sys
from pathlib import Path


def main(target: Path, text: str) -> int:
    """0 when the file is what it should be, or was written; 1 when it differs, 2 for wrong arguments."""
    program = Path(sys.argv[0]).name
    match sys.argv[1:]:
        case []:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
            return 0
        case ["--check"]:
            if target.exists() and target.read_text(encoding="utf-8") == text:
                return 0
            print(f"{target.name} is out of date\nHINT:  Run: make sync", file=sys.stderr)
            return 1
        case _:
            print(f"usage: {program} [--check]", file=sys.stderr)
            return 2
