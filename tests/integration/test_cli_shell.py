"""The shell as a script: statements on standard input and by -c, on a real fleet."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from shardpool import Router
from tests.timing import not_after

from .test_cli import COMMAND, Cli, cli

__all__ = ["cli"]

ROWS = "insert into orders values " + ", ".join(f"({tenant}, 1, 'note {tenant}')" for tenant in range(8))


def documents(text: str) -> list[Any]:
    """All JSON documents of a text."""
    found = []
    decoder = json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def test_a_script_runs_over_all_shards(cli: Cli) -> None:
    script = f"""\
-- eight rows; on several shards
{ROWS};
select count(*) as n, 'a;b' as t
  from orders; select note from orders
  where tenant_id = 3;
"""
    told = cli("shell", text=script)
    assert "INSERT 0 8\n" in told
    assert "8  a;b" in told
    assert "note 3" in told
    assert "=>" not in told
    assert cli("shell", "--csv", text="select tenant_id from orders order by 1 limit 2") == "tenant_id\n0\n1\n"
    first, second = documents(cli("shell", "--json", text="select 1 as one;\nselect count(*) from orders;"))
    assert (first["rows"], first["columns"], first["format_version"]) == ([[1]], ["one"], 1)
    assert (second["rows"], second["strategy"], second["shards"]) == ([[8]], "add", ["s0", "s1", "s2", "s3"])


def test_the_first_error_ends_a_script(cli: Cli) -> None:
    told = cli("shell", text="select 1 as one;\n\nselect nothing from orders;\nselect 2 as two;\n", code=2)
    assert "one" in told and "two" not in told
    assert cli.stderr.startswith("ERROR:  ")
    assert "LOCATION:  <stdin>:3" in cli.stderr
    cli("shell", text="begin;\n", code=2)
    assert "each statement commits by itself" in cli.stderr
    cli("shell", text="create table t (x int);", code=2)
    assert "\\each" in cli.stderr
    cli("shell", text="\\nix\n", code=2)
    assert "unknown command \\nix" in cli.stderr
    cli("shell", text="\\x maybe\n", code=2)
    cli("shell", "--timeout", "0.3", text="select pg_sleep(20);", code=1)
    assert "deadline" in cli.stderr
    cli("shell", "--fanout", "one", text="select count(*) from orders;", code=2)
    assert "fanout='one' forbids it" in cli.stderr


def test_commands_by_c(cli: Cli) -> None:
    told = cli("shell", "-c", "select 1 as one; select 2 as two", "-c", "\\q", "-c", "select 3 as three")
    assert "one" in told and "two" in told and "three" not in told
    assert "\\timing" in cli("shell", "-c", "\\?")
    cli("shell", "-c", "selct 1", "-c", "select 2", code=2)


def test_tables_and_shards(cli: Cli) -> None:
    lines = [line.split() for line in cli("shell", "-c", "\\d").splitlines()]
    assert ["orders", "tenants", "tenant_id", "hash", "on", "s0,", "s1,", "s2,", "s3"] in lines
    assert ["countries", "reference:", "a", "copy", "on", "every", "shard"] in lines
    assert ["audit_log", "single:", "on", "s0", "alone"] in lines
    told = cli("shell", "-c", "\\d Orders;")
    assert ["tenant_id", "bigint", "not", "null", "key"] in [line.split() for line in told.splitlines()]
    assert "rows: hash on s0, s1, s2, s3 by tenant_id, in keyspace tenants" in told
    assert "single: on s0 alone" in cli("shell", "-c", "\\d audit_log")
    cli("shell", "-c", "\\d ordrs", code=2)
    assert "Did you mean orders?" in cli.stderr
    shards = cli("shell", "--csv", "-c", "\\shards").splitlines()
    assert [line.split(",")[0] for line in shards] == ["shard", "s0", "s1", "s2", "s3"]
    assert all(",yes," in line for line in shards[1:])


def test_a_shard_that_does_not_answer_is_told(cli: Cli) -> None:
    text = Path(cli.environment["SHARDPOOL_TOPOLOGY"]).read_text()
    # Port 1 answers nobody.
    away = re.sub(r"(  s1:\n    primary: \{.*)\}", r"\1, PORT}", text)
    away = re.sub(r"port: '?\d+'?(.*), PORT", r"port: '1'\1", away)
    assert away != text
    (cli.folder / "away.yaml").write_text(away)
    told = cli("shell", "-t", "away.yaml", "--timeout", "2", "--csv", "-c", "\\shards", "-c", "\\d orders")
    answers = {line.split(",")[0]: line.split(",")[2] for line in told.splitlines()[1:5]}
    assert answers == {"s0": "yes", "s1": "no", "s2": "yes", "s3": "yes"}
    assert "as shard s0 has them" in cli.stderr
    cli("shell", "-t", "away.yaml", "--timeout", "2", text="select count(*) from orders;", code=1)
    assert "s1" in cli.stderr


def test_one_shard_is_chosen_and_left(cli: Cli) -> None:
    script = f"""\
{ROWS};
\\shard s3
select count(*) as here from orders;
begin;
"""
    told = cli("shell", text=script, code=2)
    assert "Statements go to shard s3" in told
    cli("shell", text="\\shard s9\n", code=2)
    here = cli(
        "shell", "--csv", text="\\shard s3\nselect count(*) < 8 from orders;\n\\shard\nselect count(*) from orders;"
    )
    assert here == "?column?\nt\ncount\n8\n"
    told = cli("shell", "-c", "\\each create table made (x int)", "-c", "\\each select count(*) from made")
    assert "CREATE TABLE" in told and "(4 rows)" in told


def test_plan_time_and_blocks(cli: Cli) -> None:
    told = cli("shell", text="\\plan\n\\timing on\n\\x\nselect 1 as one, 'b' as two;\nselect count(*) from orders;\n")
    assert "─[ record 1 ]─\none │ 1\ntwo │ b\n(1 row)\nTime: " in told
    assert "strategy: one" in cli.stderr and "strategy: add" in cli.stderr
    told = cli("shell", "--csv", text="\\timing\n\\x\nselect 1 as one;\n")
    assert told == "one\n1\n"


def test_files_include_files(cli: Cli) -> None:
    (cli.folder / "outer.sql").write_text("select 1 as one;\n\\i inner.sql\n")
    (cli.folder / "inner.sql").write_text("\ufeffselect 2 as two;\nselct;\n")
    told = cli("shell", text="\\i outer.sql\nselect 3 as three;\n", code=2)
    assert "two" in told and "three" not in told
    assert "LOCATION:  inner.sql:2" in cli.stderr
    assert "LOCATION:  <stdin>:1" in cli.stderr
    (cli.folder / "self.sql").write_text("\\i self.sql\n")
    cli("shell", "-c", "\\i self.sql", code=2)
    assert "deep" in cli.stderr
    cli("shell", "-c", "\\i nix.sql", code=1)
    (cli.folder / "latin1.sql").write_bytes(b"select '\xe9';\n")
    cli("shell", "-c", "\\i latin1.sql", code=2)


def test_answers_come_before_the_input_ends(cli: Cli) -> None:
    process = subprocess.Popen(
        [*COMMAND, "shell", "--csv"],
        env=cli.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    timer = signal.signal(signal.SIGALRM, lambda *_: process.kill())
    signal.alarm(30)
    try:
        for number in range(2):
            process.stdin.write(f"select {number} as n;\n")
            process.stdin.flush()
            told = [process.stdout.readline() for _ in range(2)]
            assert told == ["n\n", f"{number}\n"], process.communicate()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, timer)
        process.communicate(timeout=30)
    assert process.returncode == 0


def _wait_until_it_sleeps(cli: Cli) -> None:
    asked = "select count(*) from pg_stat_activity where query = 'select pg_sleep(50)' and state = 'active'"
    end = time.monotonic() + 20
    with Router(cli.environment["SHARDPOOL_TOPOLOGY"]) as router:
        while not any(result.one() != (0,) for result in router.scatter(asked).values()):
            not_after(end, "it does not sleep")
            time.sleep(0.02)


def test_an_interrupted_script_ends(cli: Cli) -> None:
    process = subprocess.Popen(
        [
            *COMMAND,
            "shell",
            "--timeout",
            "60",
            "-c",
            "select 1 as one",
            "-c",
            "select pg_sleep(50)",
            "-c",
            "select 2 as two",
        ],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline()
        _wait_until_it_sleeps(cli)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "two" not in out and "Traceback" not in err


def test_the_shell_needs_prompt_toolkit_only_for_its_prompt(cli: Cli) -> None:
    code = (
        "import sys\nsys.modules['prompt_toolkit'] = None\nimport importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *rest: None if name == 'prompt_toolkit' else find(name, *rest)\n"
        "from shardpool.cli import shardpool\n"
        "sys.stdin.isatty = sys.stdout.isatty = lambda: len(sys.argv) == 1\n"
        "shardpool(['shell'], prog_name='shardpool')\n"
    )
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env=cli.environment, input="", capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "pip install 'shardpool[shell]'" in done.stderr
    done = subprocess.run(
        [*run, "piped"], env=cli.environment, input="select 1 as one;", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "one" in done.stdout
