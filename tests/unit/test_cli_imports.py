"""What a command does not need it does not import: help and completion are asked for at every key press."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from shardpool.cli.app import COMMANDS

# Each takes as long to import as all of `--help`, or longer.
HEAVY = frozenset(
    "asyncio google mmh3 opentelemetry postgast prometheus_client prompt_toolkit psycopg psycopg_pool pydantic "
    "rich sqlalchemy yaml yaml_edit".split()
)
TOLD = "imported:"
CALL = f"""
import atexit, sys
atexit.register(lambda: print("{TOLD}", *sorted(sys.modules), file=sys.stderr))
sys.argv[0] = "shardpool"
from shardpool.cli import main
main()
"""


def imported(*arguments: str, folder: Path | None = None, **environment: str) -> set[str]:
    """The modules that a call of the command line has imported, at its end."""
    done = subprocess.run(
        [sys.executable, "-c", CALL, *arguments],
        env={**os.environ, **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
    )
    said, _, modules = done.stderr.rpartition(TOLD)
    assert done.returncode == 0, said or done.stdout
    return set(modules.split())


GROUPS = {
    "migrate": ["up", "status", "new", "drift"],
    "topology": ["show", "set", "pin", "plan"],
    "local": ["up"],
}
BELOW = [[group, command] for group, commands in GROUPS.items() for command in commands]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), *BELOW], ids=" ".join)
def test_help_imports_no_library_but_click(command: list[str]) -> None:
    found = imported(*command, "--help")
    assert "click" in found
    assert sorted(HEAVY & found) == []


def test_help_imports_no_command() -> None:
    ours = {name for name in imported("--help") if name.split(".")[0] == "shardpool"}
    assert ours == {
        "shardpool",
        "shardpool._exports",
        "shardpool.cli",
        "shardpool.cli.app",
        "shardpool.cli.groups",
        "shardpool.cli.wording",
        "shardpool.version",
    }


@pytest.mark.parametrize("words", ["shardpool ", "shardpool topology ", "shardpool migrate up --"])
def test_completion_of_commands_and_options_imports_no_library_but_click(words: str) -> None:
    typed = {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    found = imported(_SHARDPOOL_COMPLETE="bash_complete", **typed)
    assert "click.shell_completion" in found
    assert sorted(HEAVY & found) == []


FILE = """\
version: 1
fleet: shop
epoch: 1
control: none
shards:
  s0: {primary: {host: 127.0.0.1}}
keyspaces:
  tenants: {key: bigint, hash: {buckets: 4, owners: {s0: 0-3}}, tables: {orders: tenant_id}}
"""


@pytest.mark.parametrize(
    ("command", "unneeded"),
    [
        ("topology show", "postgast rich psycopg_pool yaml_edit shardpool.query shardpool.config._edit"),
        ("topology check --offline", "postgast rich psycopg_pool yaml_edit shardpool.query shardpool.config._edit"),
        ("route 42", "postgast rich psycopg_pool yaml_edit shardpool.query shardpool.config._edit"),
        (
            "topology set shards.s0.pool.max_size 5",
            "postgast rich psycopg_pool shardpool.query shardpool._async.router",
        ),
        ("migrate new add_status", "postgast rich psycopg_pool pydantic yaml shardpool._async.router"),
    ],
)
def test_what_needs_no_connection_imports_no_pools_and_no_parser(command: str, unneeded: str, tmp_path: Path) -> None:
    (tmp_path / "topology.yaml").write_text(FILE, encoding="utf-8")
    found = imported(*command.split(), folder=tmp_path, SHARDPOOL_TOPOLOGY="topology.yaml")
    assert sorted(found.intersection(unneeded.split())) == []
