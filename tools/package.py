"""Builds the package and uses it as a stranger would: in an empty environment, without extras, from outside this tree.

Needs PyPI for what the package depends on, and for a second type checker.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
USER = ROOT / "tests" / "packaging" / "user.py"
PYRIGHT = "basedpyright==1.40.2"


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(ROOT, folder / "dist")
        sdist, wheel = next(folder.glob("dist/*.tar.gz")), next(folder.glob("dist/*.whl"))
        compare(wheel, files_of_wheel(wheel_of(sdist, folder)))
        use(install(wheel, folder / "venv"), folder)
    print("the package is as it should be")


def call(*command: str | Path, cwd: Path | None = None) -> str:
    """What a command prints; ends the program when it fails."""
    done = subprocess.run([str(part) for part in command], cwd=cwd, capture_output=True, text=True, env=_environment())
    if done.returncode != 0:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout


def _environment() -> dict[str, str]:
    """Without what would let a program find this tree, with what the example topology asks for."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "SHOP_DB_PASSWORD": "x"}


def build(tree: Path, where: Path) -> None:
    call(sys.executable, "-m", "hatchling", "build", "-d", where, cwd=tree)


def wheel_of(sdist: Path, folder: Path) -> Path:
    """The wheel that is built of the source distribution alone."""
    with tarfile.open(sdist) as packed:
        packed.extractall(folder / "source", filter="data")
    (tree,) = (folder / "source").iterdir()
    build(tree, folder / "again")
    return next((folder / "again").glob("*.whl"))


def files_of_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as packed:
        return set(packed.namelist())


def compare(wheel: Path, again: set[str]) -> None:
    """The wheel holds what git knows of the package, its licence, and what the sdist gives."""
    found = files_of_wheel(wheel)
    tracked = call("git", "ls-files", "src/shardpool", cwd=ROOT).split("\n")
    wanted = {path.removeprefix("src/") for path in tracked if path}
    package = {path for path in found if path.startswith("shardpool/")}
    if package != wanted:
        sys.exit(f"in the wheel or in git alone: {sorted(package ^ wanted)}")
    if found != again:
        sys.exit(f"the sdist makes another wheel: {sorted(found ^ again)}")
    if not any(path.endswith(".dist-info/licenses/LICENSE") for path in found):
        sys.exit("the wheel has no licence")


def install(wheel: Path, folder: Path) -> Path:
    """Python of an environment with the wheel and what it depends on, in the locked versions."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    pip = (python, "-m", "pip", "--quiet", "--disable-pip-version-check")
    call(*pip, "install", "--require-hashes", "--requirement", ROOT / "requirements" / "image.txt")
    call(*pip, "install", "--no-deps", wheel)
    call(*pip, "check")
    return python


def use(python: Path, folder: Path) -> None:
    """The command works, and type checkers see the types."""
    told = call(python, "-m", "shardpool", "--version", cwd=folder)
    version = call(python, "-c", "import shardpool; print(shardpool.__version__)", cwd=folder)
    if told != f"shardpool {version}":
        sys.exit(f"it says that it is {told}, and is {version}")
    shutil.copy(ROOT / "config" / "topology.yaml", folder)
    call(python, "-m", "shardpool", "--help", cwd=folder)
    call(python, "-m", "shardpool", "route", "42", "--table", "orders", cwd=folder)
    shutil.copy(USER, folder)
    call(sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "user.py", cwd=folder)
    uv = Path(sys.executable).with_name("uv")
    pyright = (uv, "tool", "run", "--from", PYRIGHT, "basedpyright")
    call(*pyright, "--level=error", "--pythonpath", python, USER.name, cwd=folder)


if __name__ == "__main__":
    main()
