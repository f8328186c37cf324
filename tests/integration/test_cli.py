"""The commands as a person calls them, on a real fleet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.commands import run

COMMAND = [sys.executable, "-m", "shardpool"]


class Cli:
    """Runs commands in processes of their own, with the shop's topology file in the environment."""

    def __init__(self, topology: str, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SHARDPOOL_TOPOLOGY": topology, "SHARDPOOL_HOME": str(folder / "home")}

    def __call__(self, *arguments: str, code: int = 0, text: str | None = None) -> str:
        done = run(arguments, env=self.environment, cwd=self.folder, text=text)
        assert done.returncode == code, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        self.stderr = done.stderr
        return done.stdout

    def json(self, *arguments: str, code: int = 0, text: str | None = None) -> Any:
        told = json.loads(self(*arguments, "--json", code=code, text=text))
        assert told.pop("format_version") == 1
        return told


@pytest.fixture
def cli(topology_path: str, tmp_path: Path) -> Cli:
    return Cli(topology_path, tmp_path)


def test_init_check_and_stats(cli: Cli) -> None:
    assert set(cli.json("init")["shards"].values()) == {"up to date"}
    assert "0 errors, 0 warnings" in cli("check")
    assert cli.json("check")["ok"] is True
    assert set(cli.json("stats")["shards"]) == {"s0", "s1", "s2", "s3"}
    cli("query", "--shard", "s2", "drop table countries")
    assert "s2/countries: the table does not exist here" in cli("check", code=1)
    assert "s2/countries" in cli("topology", "check", code=1)


def test_a_file_that_is_not_there_is_the_callers_mistake(cli: Cli) -> None:
    cli("load", "orders", "nowhere.csv", code=2)
    assert "'nowhere.csv' does not exist" in cli.stderr


def test_route_reads_the_file_alone(cli: Cli) -> None:
    told = cli.json("route", "17", "42", "--table", "orders")["routes"]
    assert [(route["key"], route["shard"]) for route in told] == [("17", "s3"), ("42", "s0")]
    assert told[1]["encoded"] == "2a00000000000000"
    assert "s1" in cli("route", "2025-06-01", "--keyspace", "events")
    cli("route", "42", code=2)
    assert "3 keyspaces, and none was named" in cli.stderr
    cli("route", "x", "--table", "orders", code=2)
    assert "HINT:" in cli.stderr
    cli("route", "atlantis", "--table", "stores", code=2)


def test_query_on_one_shard_and_on_all(cli: Cli) -> None:
    assert cli("query", "--key", "17", "--table", "orders", "insert into orders values (17, 1, %s)", "-p", "x") == (
        "INSERT 0 1\n"
    )
    assert cli("query", "--csv", "--key", "17", "--table", "orders", "select * from orders") == (
        "tenant_id,n,note\n17,1,x\n"
    )
    counts = cli.json("query", "--all-shards", "select count(*) as n from orders")["results"]
    assert {shard: result["rows"] for shard, result in counts.items()} == {
        "s0": [[0]],
        "s1": [[0]],
        "s2": [[0]],
        "s3": [[1]],
    }
    assert "(4 rows)" in cli("query", "--all-shards", "select 1 as one")
    assert cli("query", "select count(*) from countries").splitlines()[-1] == "(1 row)"
    assert cli("query", "--csv", "select * from orders") == "tenant_id,n,note\n17,1,x\n"
    told = cli.json("query", "select count(*) from orders")
    assert (told["rows"], told["strategy"], told["shards"]) == ([[1]], "add", ["s0", "s1", "s2", "s3"])
    cli("query", "--shard", "s0", "selct", code=2)
    cli("query", "--shard", "s9", "select 1", code=2)
    cli("query", "--shard", "s0", "--all-shards", "select 1", code=2)
    cli("query", "--shard", "s0", "--timeout", "0.2", "select pg_sleep(20)", code=1)
    assert "the deadline passed on shard s0" in cli.stderr


def test_load_a_file(cli: Cli) -> None:
    file = cli.folder / "orders.csv"
    file.write_text("n,tenant_id,note\n" + "".join(f"1,{key},note {key}\n" for key in range(1000)))
    told = cli.json("load", "orders", "orders.csv")
    assert told["rows"] == sum(told["rows_by_shard"].values()) == 1000
    assert "0 errors" in cli("check")
    assert "1 rows loaded into countries" in cli("load", "countries", "-", text="code,name\nde,Germany\n")
    assert cli("query", "--csv", "select * from countries") == "code,name\nde,Germany\n"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x,1,note", "cannot use 'x' as a bigint key"),
        (",1,note", "cannot use None as a bigint key"),
        ("5,1", "2 fields where the header has 3"),
        ("5,abc,note", "invalid input syntax for type integer"),
        ("77,1,twice", "duplicate key value"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_loaded(cli: Cli, line: str, message: str) -> None:
    lines = [f'{key},1,"of two\nlines"' for key in range(300)]
    lines.insert(200, line)
    (cli.folder / "bad.csv").write_text("\n".join(["tenant_id,n,note", *lines]) + "\n")
    cli("load", "orders", "bad.csv", code=2)
    assert f"ERROR:  bad.csv:402: {message}" in cli.stderr
    counts = cli.json("query", "--all-shards", "select count(*) from orders")["results"]
    assert {result["rows"][0][0] for result in counts.values()} == {0}


def test_rows_without_a_key_are_skipped_or_collected_in_the_open(cli: Cli) -> None:
    (cli.folder / "some.csv").write_text("tenant_id,n,note\n1,1,a\nNA,2,b\n3,3,NA\n")
    told = cli.json("load", "orders", "some.csv", "--null", "NA", "--on-null-key", "skip")
    assert (told["rows"], told["skipped"]) == (2, 1)
    cli("query", "--all-shards", "delete from orders")
    cli("load", "orders", "some.csv", "--null", "NA", "--on-null-key", "collect", "--collect", "left.csv")
    assert "1 rows without a key were not loaded" in cli.stderr
    assert (cli.folder / "left.csv").read_text().splitlines() == ["tenant_id,n,note", ",2,b"]
    cli("load", "orders", "some.csv", "--on-null-key", "collect", code=2)


def test_quoted_empty_text_stays_text_when_it_is_loaded_and_when_it_is_collected(cli: Cli) -> None:
    (cli.folder / "some.csv").write_text('tenant_id,n,note\n1,1,""\n2,2,\n,3,""\n,4,\n,5,"x,""y"""\n')
    cli("load", "orders", "some.csv", "--on-null-key", "collect", "--collect", "left.csv")
    found = cli.json("query", "--all-shards", "select n from orders where note = ''")["results"]
    assert [row for result in found.values() for row in result["rows"]] == [[1]]
    found = cli.json("query", "--all-shards", "select n from orders where note is null")["results"]
    assert [row for result in found.values() for row in result["rows"]] == [[2]]
    left = (cli.folder / "left.csv").read_text().splitlines()
    assert left == ["tenant_id,n,note", ',3,""', ",4,", ',5,"x,""y"""']


def test_an_interrupted_load_leaves_nothing(cli: Cli) -> None:
    process = subprocess.Popen(
        [*COMMAND, "load", "orders", "-", "--columns", "tenant_id,n,note", "--no-header"],
        env=cli.environment,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write("".join(f"{key},1,x\n" for key in range(200_000)))
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    process.stdin.close()
    assert process.stderr is not None
    told = process.stderr.read()
    process.stderr.close()
    assert process.wait(30) == 130, told
    assert "interrupted" in told
    assert "Traceback" not in told
    counts = cli.json("query", "--all-shards", "select count(*) from orders")["results"]
    assert {result["rows"][0][0] for result in counts.values()} == {0}


def test_topology_check_tells_all_problems_of_a_bad_file_at_once(cli: Cli) -> None:
    assert "no problems" in cli("topology", "check", "--offline")
    text = Path(cli.environment["SHARDPOOL_TOPOLOGY"]).read_text()
    (cli.folder / "bad.yaml").write_text(text.replace("0-1023", "0-1022").replace("[de, fr]", "[de, no]"))
    cli("topology", "check", "--offline", "bad.yaml", code=2)
    assert cli.stderr.count("bad.yaml:") == 2
    assert "bad.yaml:" in cli.stderr and "HINT:" in cli.stderr
    assert "tenants: tenant_id" in cli("topology", "show")
    assert cli.json("topology", "show")["fleet"]
    assert json.loads(cli("topology", "schema"))["type"] == "object"


def test_a_topology_file_that_is_not_there_is_a_mistake(cli: Cli) -> None:
    cli("-t", "nix.yaml", "check", code=2)
    assert "nix.yaml" in cli.stderr
    del cli.environment["SHARDPOOL_TOPOLOGY"]
    cli("check", code=2)
    assert "shardpool local up" in cli.stderr


def test_a_local_fleet_from_the_command_line(cli: Cli) -> None:
    del cli.environment["SHARDPOOL_TOPOLOGY"]
    told = cli.json("local", "up", "--shards", "2")
    try:
        assert [server["name"] for server in told["servers"]] == ["s0", "s1"]
        assert "0 errors" in cli("check")
        assert cli("local", "psql", "s1", "-At", "-c", "select shard from shardpool.self") == "s1\n"
        assert cli.json("local", "list")["fleets"][0]["running"] == 2
        cli("local", "up", "--shards", "3", code=2)
        cli("local", "psql", "s7", code=2)
    finally:
        cli("local", "down")
    cli("local", "status", code=2)


def test_help_and_completion_load_neither_psycopg_nor_pydantic() -> None:
    for arguments in (
        ["--help"],
        ["local", "--help"],
        ["completion", "bash"],
        ["route", "--help"],
        ["shell", "--help"],
    ):
        code = (
            "import sys\nfrom shardpool.cli import shardpool\n"
            f"try: shardpool({arguments!r}, prog_name='shardpool')\nexcept SystemExit: pass\n"
            "sys.exit(bool({'psycopg', 'pydantic', 'rich', 'yaml', 'prompt_toolkit'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_names_are_completed_from_the_topology(cli: Cli) -> None:
    def complete(words: str) -> list[str]:
        environment = {
            **cli.environment,
            "_SHARDPOOL_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split())),
        }
        done = run([], env=environment)
        return [line.partition(",")[2] for line in done.stdout.split()]

    assert complete("shardpool query --shard") == ["s0", "s1", "s2", "s3"]
    assert "orders" in complete("shardpool load")
