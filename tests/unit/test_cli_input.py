"""What may be typed: mistakes are told before any server is asked, with what was meant."""

from __future__ import annotations

import os
from pathlib import Path

import psycopg
import pytest
from click.testing import CliRunner, Result

from shardpool.cli.app import exit_code, shardpool
from shardpool.errors import LoadError, ScatterError

TOPOLOGY = """\
version: 1
fleet: shop
epoch: 1
shards: {s0: {primary: {host: 127.0.0.1, port: 1, dbname: a}}, s1: {primary: {host: 127.0.0.1, port: 1, dbname: b}}}
keyspaces: {t: {key: bigint, hash: {buckets: 8, owners: {s0: 0-3, s1: 4-7}}, tables: {orders: tenant_id}}}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SHARDPOOL_HOME", str(tmp_path / "home"))
    (tmp_path / "topology.yaml").write_text(TOPOLOGY)


def typed(*arguments: str, text: str | bytes = "") -> Result:
    return CliRunner().invoke(shardpool, arguments, input=text)


def refused(*arguments: str, text: str | bytes = "", code: int = 2) -> str:
    result = typed(*arguments, text=text)
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["chekc"], "check"),
        (["topology", "aply"], "apply"),
        (["topology", "shard", "drian"], "drain"),
        (["migrate", "staus"], "status"),
        (["local", "donw"], "down"),
    ],
)
def test_a_command_that_is_mistyped_is_told_the_nearest(words: list[str], meant: str) -> None:
    assert f"Did you mean {meant}" in refused(*words)


def test_a_command_that_is_like_no_other_is_told_all() -> None:
    told = refused("topology", "xyzzy")
    assert "Commands: " in told and "apply" in told


@pytest.mark.parametrize(
    "command",
    [
        "query 'select 1'", "explain 'select 1'", "check", "init", "stats", "shell", "top --once", "migrate status",
        "topology plan x.yaml", "topology set timeout 3s", "load orders topology.yaml",
    ],
)  # fmt: skip
@pytest.mark.parametrize("bad", ["-1", "0", "nan", "inf", "soon"])
def test_a_timeout_is_a_time_that_can_pass(command: str, bad: str) -> None:
    words = command.replace("'select 1'", "select").split()
    told = refused(*words, "--timeout", bad)
    assert "Invalid value for '--timeout'" in told


@pytest.mark.parametrize("command", [["query", "select 1"], ["shell"]])
def test_answers_have_one_form(command: list[str]) -> None:
    assert "give one of --json and --csv" in refused(*command, "--json", "--csv")


def test_a_quorum_that_can_never_be_had_is_refused() -> None:
    told = refused("serve", "--quorum", "9", "--listen", "127.0.0.1:0")
    assert "quorum 9 can never be had: the fleet has 2 shards" in told


@pytest.mark.parametrize("bad", ['"', "\n", "\r", "ab", ""])
def test_a_delimiter_is_a_character_that_can_separate(bad: str) -> None:
    assert "--delimiter is one character" in refused("load", "orders", "topology.yaml", "--delimiter", bad)


def test_sql_that_is_not_utf_8_is_told_with_its_line(tmp_path: Path) -> None:
    sql = "select 1;\nselect 'Zürich'".encode("latin-1")
    (tmp_path / "latin.sql").write_bytes(sql)
    assert "latin.sql:2 is not UTF-8" in refused("query", "-f", "latin.sql")
    assert "standard input:2 is not UTF-8" in refused("query", "-", text=sql)
    assert "SQL:2 is not UTF-8" in refused("query", os.fsdecode(sql))
    script = "\\?\nselect 'Zürich';".encode("latin-1")
    (tmp_path / "script.sql").write_bytes(script)
    assert "<stdin>:2 is not UTF-8" in refused("shell", text=script)
    assert "script.sql:2 is not UTF-8" in refused("shell", "-c", "\\i script.sql")


@pytest.mark.parametrize("name", ["../precious", "..", "/etc", "", "a/b", "A"])
@pytest.mark.parametrize("command", ["down", "status", "up", "psql s0"])
def test_names_of_local_fleets_lead_nowhere_else(name: str, command: str, tmp_path: Path) -> None:
    outside = tmp_path / "precious" / "state.json"
    outside.parent.mkdir()
    outside.write_text('{"format": 1}')
    told = refused("local", *command.split(), "--name", name)
    assert "is not the name of a fleet" in told
    assert outside.exists()


def test_an_encoding_that_is_none_is_refused() -> None:
    assert "'latin-99' is not an encoding" in refused("load", "orders", "topology.yaml", "--encoding", "latin-99")


def test_the_file_that_is_loaded_is_not_written_over_by_what_is_collected(tmp_path: Path) -> None:
    rows = "tenant_id,id\n1,1\n,2\n"
    (tmp_path / "rows.csv").write_text(rows)
    (tmp_path / "link.csv").symlink_to("rows.csv")
    for collect in ("rows.csv", "link.csv"):
        told = refused("load", "orders", "rows.csv", "--on-null-key", "collect", "--collect", collect)
        assert "it is the file that is loaded" in told and "Name another file" in told
    assert (tmp_path / "rows.csv").read_text() == rows


def test_a_file_that_cannot_be_loaded_is_a_mistake_of_the_call(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    assert "is empty" in refused("load", "orders", "empty.csv")
    (tmp_path / "rows.csv").write_text("tenant_id,id\n1,1\n")
    assert 'has no column "total"' in refused("load", "orders", "rows.csv", "--columns", "tenant_id,total")
    told = refused("load", "orders", "rows.csv", "--encoding", "utf-16")
    assert "rows.csv:1: " in told and "--encoding" in told


def test_a_value_that_is_no_yaml_is_a_mistake_of_the_call() -> None:
    assert "cannot be read as YAML" in refused("topology", "set", "shards.s1.pool.max_size", "{")


WRONG_SQL, LOST = psycopg.errors.DuplicateTable("relation exists"), psycopg.OperationalError("connection lost")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (psycopg.ProgrammingError("the query has 0 placeholders but 1 parameters were passed"), 2),
        (psycopg.DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes"), 2),
        (ScatterError("2 of 2 shards failed", failures={"s0": WRONG_SQL, "s1": WRONG_SQL}), 2),
        (ScatterError("1 of 2 shards failed", failures={"s0": WRONG_SQL}, results={"s1": None}), 1),
        (ScatterError("2 of 2 shards failed", failures={"s0": WRONG_SQL, "s1": LOST}), 1),
        (LoadError("nothing was loaded", failures={"s0": WRONG_SQL}), 2),
        (LoadError("nothing was loaded", failures={"s0": LOST}), 1),
        (ScatterError("1 of 1 shards failed", failures={"s0": psycopg.errors.InsufficientPrivilege("denied")}), 1),
        (LOST, 1),
    ],
)
def test_who_is_to_blame_is_told_by_the_exit_code(error: Exception, code: int) -> None:
    assert exit_code(error) == code
