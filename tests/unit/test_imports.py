"""Every module without an underscore can be the first that is imported: a circle depends on where it is entered."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import shardpool

# Each module in a process of its own; what all of them need is there already, so that this takes seconds.
CALL = """
import os, sys, traceback
from importlib import import_module
import click, psycopg, psycopg_pool, pydantic, yaml
bad = []
for name in sys.argv[1:]:
    pid = os.fork()
    if not pid:
        try:
            import_module(name)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        bad.append(name)
print(*bad)
"""


def modules() -> list[str]:
    source = Path(shardpool.__file__).parent
    files = (file.relative_to(source.parent).with_suffix("") for file in sorted(source.rglob("*.py")))
    names = (".".join(file.parts).removesuffix(".__init__") for file in files)
    return [name for name in names if "._" not in name]


def test_every_module_can_be_the_first_that_is_imported() -> None:
    names = modules()
    assert "shardpool.schema.migrations" in names
    done = subprocess.run([sys.executable, "-c", CALL, *names], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
