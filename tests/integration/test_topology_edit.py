"""Edits of the topology as a person makes them: the file, the shards and the running routers, on real servers."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shardpool import Router, load_topology

COMMAND = [sys.executable, "-m", "shardpool", "topology"]


class Editor:
    """Runs `shardpool topology` in processes of their own, on the shop's topology file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.environment = {**os.environ, "SHARDPOOL_TOPOLOGY": path}

    def begin(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env={**self.environment, **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str, code: int = 0, **more: str) -> str:
        with self.begin(*arguments, **more) as process:
            out, self.stderr = process.communicate(timeout=60)
        assert process.returncode == code, f"{arguments}: {process.returncode}\n{out}\n{self.stderr}"
        assert "Traceback" not in self.stderr
        return out

    def json(self, *arguments: str, code: int = 0) -> Any:
        told = json.loads(self(*arguments, "--json", code=code))
        assert told.pop("format_version") == 1
        return told

    @property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def epoch(self) -> int:
        return load_topology(self.path).epoch

    def changed_lines(self, before: str) -> int:
        """How many lines of the file are not as they were, those that are new and gone among them."""
        old, new = before.splitlines(), self.text.splitlines()
        return len([line for line in new if line not in old]) + len([line for line in old if line not in new])


@pytest.fixture
def editor(topology_path: str) -> Editor:
    return Editor(topology_path)


def epochs(router: Router) -> set[tuple[int, int]]:
    """(epoch of the topology, highest epoch of owners), as the shards have them."""
    query = "select epoch, (select max(epoch) from shardpool.owner) from shardpool.meta"
    return {result.one() for result in router.scatter(query).values()}


def test_set_touches_one_line_and_the_epoch_and_is_recorded(editor: Editor) -> None:
    before, epoch = editor.text, editor.epoch
    os.chmod(editor.path, 0o640)
    out = editor("set", "shards.s2.pool.max_size", "20", "--author", "ada")
    assert "shard s2: primary.pool.max_size: 10 → 20" in out
    topology = load_topology(editor.path)
    assert topology.epoch == epoch + 1 and topology.shards["s2"].primary.pool.max_size == 20
    assert stat.S_IMODE(editor.path.stat().st_mode) == 0o640
    assert {entry.name for entry in editor.path.parent.iterdir() if entry.name.startswith(f".{editor.path.name}")} == set()
    added = set(editor.text.splitlines()) - set(before.splitlines())
    assert len(added) <= 3 and f"epoch: {epoch + 1}" in added
    (change,) = editor.json("history")["changes"]
    assert (change["author"], change["outcome"], change["epoch"]) == ("ada", "done", epoch + 1)
    assert change["change"].startswith("set shards.s2.pool.max_size 20")
    assert change["shards"] == ["s0", "s1", "s2", "s3"]
    assert "nothing to change" in editor("set", "shards.s2.pool.max_size", "20")
