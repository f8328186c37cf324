"""What is wrong or dangerous in files of migrations: our own rules, and squawk's where it is installed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import BadMigration
from ..topology import Topology
from .files import Folder, Migration
from .plan import shards_of
from .rows import HINT, row_problems
from .steps import check, statement_count, steps

_SECONDS = 60.0
# Each migration runs with these limits set.
_KEPT_BY_RUNNER = ("require-lock-timeout", "require-statement-timeout")


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One thing in one file; `line` is 0 when it is about all of it."""

    level: Literal["error", "warning"]
    file: str
    line: int
    rule: str
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: {self.level}: {self.message} [{self.rule}]"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def lint(folder: Folder, topology: Topology | None = None) -> Iterator[LintFinding]:
    """Our own rules; with a topology also those on the rows of its tables. Pure."""
    for problem in folder.sum_problems:
        yield LintFinding("error", "migrations.sum", 0, "sum", problem)
    for file in folder.others:
        yield LintFinding("warning", file, 0, "no-version", "it is not run: its name begins with no version")
    for migration in folder.migrations:
        try:
            check(migration)
        except BadMigration as error:
            yield LintFinding("error", migration.file, 0, "cannot-run", str(error).replace("\n", " "))
            continue
        yield from _warnings(migration)
        if topology is not None:
            for row_problem in row_problems(migration, topology, len(shards_of(migration, topology))):
                yield LintFinding(
                    "error", migration.file, row_problem.line, "rows-of-shards", f"{row_problem.message}. {HINT}"
                )


def _warnings(migration: Migration) -> Iterator[LintFinding]:
    if migration.down is None or not statement_count(migration.down):
        yield LintFinding("warning", migration.file, 0, "no-down", "it cannot be taken back: no `-- migrate:down`")
    if not migration.up.transactional:
        for step in steps(migration.file, migration.up):
            if step.kind == "unsure":
                what = "killed in its midst, nobody knows how far it came"
                yield LintFinding("warning", migration.file, step.line, "unsure-step", what)


def squawk_findings(folder: Folder, wanted: bool | None) -> Iterator[LintFinding]:
    """What squawk says of each `up`; None asks it when it is installed. Runs the program."""
    # Beside this Python first: an environment that is not activated is not in PATH.
    program = shutil.which("squawk", path=str(Path(sys.executable).parent)) or shutil.which("squawk")
    if program is None:
        if wanted:
            raise BadMigration("squawk is not installed", hint="pip install squawk-cli")
        return
    if wanted is False:
        return
    for migration in folder.migrations:
        yield from _squawk(program, migration)


def _squawk(program: str, migration: Migration) -> Iterator[LintFinding]:
    command = [program, "--reporter", "json", "--stdin-filepath", migration.file]
    if migration.up.transactional:
        command.append("--assume-in-transaction")
    # Lines before the block keep its numbers; what takes things back is dangerous by its nature, and left out.
    text = "\n" * (migration.up.line - 1) + migration.up.sql
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=_SECONDS, check=False)
    try:
        reports = json.loads(done.stdout)
    except ValueError:
        raise BadMigration("squawk did not answer in JSON", detail=done.stderr.strip()[:200] or None) from None
    for entry in reports:
        if entry.get("rule_name") in _KEPT_BY_RUNNER:
            continue
        level: Literal["error", "warning"] = "error" if entry.get("level") == "Error" else "warning"
        message = entry.get("message", "") + (f" {entry['help']}" if entry.get("help") else "")
        # Its lines count from 0, those of files from 1.
        yield LintFinding(level, migration.file, int(entry.get("line", 0)) + 1, entry.get("rule_name", ""), message)
