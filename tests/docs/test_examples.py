"""The documentation is run: its code on real servers, its topology files through the loader, its links on disk.

Of each page, all ```python blocks, the hidden ones (`<!-- python`) and all ```sh blocks become one script, run from
top to bottom in a process and a folder of its own, so that the blocks of a page share their names. A block that begins
with the name of a file in a folder, or of manage.py, is that file. A ```text block is what the script has printed by
then. Other blocks are shown and not run.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from shardpool import errors, parse_topology

ROOT = Path(__file__).resolve().parents[2]
TUTORIAL = ROOT / "docs" / "tutorial.md"
INDEX = ROOT / "docs" / "index.md"
TESTING = ROOT / "docs" / "howto" / "testing.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
# These start servers of their own; the others find a topology.yaml with the tables below.
SELF_CONTAINED = [ROOT / "README.md", TUTORIAL, INDEX]
HOWTOS = [page for page in sorted((ROOT / "docs" / "howto").glob("*.md")) if page != TESTING]
NEEDS = {
    "fastapi.md": ("fastapi", "httpx"),
    "django.md": ("django",),
    "sqlalchemy.md": ("sqlalchemy",),
    "observe.md": ("prometheus_client", "opentelemetry.sdk"),
}

_PRELUDE = (
    "import subprocess as _s; _sh = lambda text: (print(end='', flush=True), "
    "_s.run(['bash', '-euo', 'pipefail', '-c', text], check=True))"
)
_FILE = re.compile(r"# ((?:\w+/)+\w+\.py|manage\.py)\n")
_BLOCK = re.compile(r"^(?:```|<!-- )(\w+)\n(.*?)^(?:```|-->)$", re.M | re.S)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the line (from 0) on which the text begins."""

    language: str
    text: str
    line: int


def blocks(page: Path, *languages: str) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    found = (Block(match[1], match[2], text.count("\n", 0, match.start(2))) for match in _BLOCK.finditer(text))
    return [block for block in found if block.language in languages]


# What the page on the fleet of the how-tos makes.
KEYSPACES, SCHEMA, AUDIT_LOG = re.findall(r'"""(?:\\\n)?(.*?)"""', blocks(INDEX, "python")[0].text, re.S)


def script(page: Path) -> str:
    """The page's blocks as one script, each on the lines that it has in the page, so that a traceback names them."""
    lines = [_PRELUDE]
    for block in blocks(page, "python", "sh"):
        if _FILE.match(block.text):
            continue
        text = block.text if block.language == "python" else _shell_call(block.text)
        lines += [""] * (block.line - len(lines)) + text.splitlines()
    return "\n".join(lines) + "\n"


def write_files(page: Path, folder: Path) -> None:
    """The files that blocks of the page are."""
    for block in blocks(page, "python"):
        if match := _FILE.match(block.text):
            file = folder / match[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.text, encoding="utf-8")


def _shell_call(text: str) -> str:
    return f"_sh({text!r})"


def run(page: Path, folder: Path, *, home: Path | None = None) -> str:
    """What the page's script prints; the test fails with its traceback when it fails."""
    write_files(page, folder)
    file = folder / f"{page.stem}_md.py"
    file.write_text(script(page), encoding="utf-8")
    done = subprocess.run([sys.executable, file.name], cwd=folder, env=_environment(home), text=True, **_PIPES)
    assert done.returncode == 0, f"{page.relative_to(ROOT)} does not run as written:\n{done.stdout}"
    return done.stdout


_PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL, "timeout": 180}


def _environment(home: Path | None) -> dict[str, str]:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    found = {**os.environ, "PATH": programs, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "120"}
    found.pop("SHARDPOOL_TOPOLOGY", None)
    return found if home is None else {**found, "SHARDPOOL_HOME": str(home)}


def assert_prints(page: Path, printed: str) -> None:
    """Each ```text block of the page comes in the output, in their order; `…` in it stands for anything."""
    at = 0
    for block in blocks(page, "text"):
        pattern = "\n".join(r"[ \t]*" + re.escape(line).replace("…", ".*") for line in block.text.strip().splitlines())
        match = re.compile(pattern).search(printed, at)
        assert match, f"{page.relative_to(ROOT)}:{block.line} is not what is printed:\n{block.text}\n--\n{printed}"
        at = match.end()


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Where local fleets are written down, for this test alone; fleets that it leaves up are taken down."""
    folder = tmp_path / "home"
    yield folder
    code = "from shardpool.local import list_fleets\nfor fleet in list_fleets(): fleet.down()"
    subprocess.run([sys.executable, "-c", code], env=_environment(folder), check=True)


@pytest.mark.servers
@pytest.mark.parametrize("page", SELF_CONTAINED, ids=lambda page: page.name)
def test_page_runs_as_written_on_servers_of_its_own(page: Path, tmp_path: Path, home: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    assert_prints(page, run(page, folder, home=home))


@pytest.mark.servers
@pytest.mark.parametrize("page", HOWTOS, ids=lambda page: page.name)
def test_howto_runs_as_written(page: Path, tmp_path: Path, shardpool_make_topology: Callable[..., Path]) -> None:
    missing = [name for name in NEEDS.get(page.name, ()) if not _is_installed(name)]
    if missing and not os.environ.get("CI"):
        compile(script(page), page.name, "exec")
        pytest.skip(f"compiled only: {', '.join(missing)} is not installed")
    assert not missing, f"install {', '.join(missing)}"
    folder = tmp_path / "work"
    folder.mkdir()
    topology = shardpool_make_topology(KEYSPACES, schema=SCHEMA)
    (folder / "topology.yaml").write_text(topology.read_text(encoding="utf-8"), encoding="utf-8")
    create_audit_log(topology)
    assert_prints(page, run(page, folder))


def _is_installed(name: str) -> bool:
    with suppress(ModuleNotFoundError):
        return find_spec(name) is not None
    return False


def create_audit_log(topology: Path) -> None:
    from shardpool import Router

    with Router(topology) as router:
        router.shard("s0").execute(AUDIT_LOG)


@pytest.mark.servers
def test_the_test_module_of_the_testing_howto_passes(tmp_path: Path, home: Path) -> None:
    text = "\n\n".join(block.text for block in blocks(TESTING, "python"))
    (tmp_path / "test_orders.py").write_text(text, encoding="utf-8")
    # A folder without the settings of this project: the reader's own project has none of them.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "test_orders.py"]
    done = subprocess.run(command, cwd=tmp_path, env=_environment(home), text=True, **_PIPES)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_topology_files_of_the_page_can_be_loaded(page: Path) -> None:
    for block in blocks(page, "yaml"):
        if block.text.startswith("# topology.yaml"):
            parse_topology(block.text, file=f"{page.name}:{block.line}", env={"SHOP_DB_PASSWORD": "secret"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_the_page_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith(("http://", "https://", "mailto:")):
            name, _, anchor = target.partition("#")
            found = page.parent / name if name else page
            assert found.exists(), f"{page.relative_to(ROOT)}: {target}"
            assert not anchor or anchor in anchors(found), f"{page.relative_to(ROOT)}: {target}"


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_exception_is_in_the_reference_of_errors() -> None:
    text = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    described = set(re.findall(r"^### (\w+)$", text, re.M))
    raised = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert described == raised - {"ShardpoolError"}


def test_the_reference_of_the_configuration_is_up_to_date() -> None:
    done = subprocess.run([sys.executable, ROOT / "tools" / "config_reference.py", "--check"], text=True, **_PIPES)
    assert done.returncode == 0, done.stdout
