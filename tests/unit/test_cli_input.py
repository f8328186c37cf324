"""What may be typed: mistakes are told before any server is asked, with what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from shardpool.cli.app import shardpool

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


@pytest.mark.parametrize("name", ["../precious", "..", "/etc", "", "a/b", "A"])
@pytest.mark.parametrize("command", ["down", "status", "up", "psql s0"])
def test_names_of_local_fleets_lead_nowhere_else(name: str, command: str, tmp_path: Path) -> None:
    outside = tmp_path / "precious" / "state.json"
    outside.parent.mkdir()
    outside.write_text('{"format": 1}')
    told = refused("local", *command.split(), "--name", name, code=1)
    assert "is not the name of a fleet" in told
    assert outside.exists()


def test_an_encoding_that_is_none_is_refused() -> None:
    assert "'latin-99' is not an encoding" in refused(
        "load", "orders", "topology.yaml", "--encoding", "latin-99", code=1
    )
