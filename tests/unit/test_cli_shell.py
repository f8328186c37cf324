"""The parts of the shell that need no server and no terminal."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from shardpool.cli.shell.completion import candidates
from shardpool.cli.shell.history import history_file, may_be_saved
from shardpool.config import parse_topology
from shardpool.topology import Topology

YAML = """\
version: 1
fleet: shop
epoch: 1
shards:
  s0: {primary: {host: localhost, dbname: a, user: joe}}
  s1: {primary: {host: localhost, dbname: b, user: joe}}
keyspaces:
  tenants:
    key: bigint
    hash: {function: murmur3, buckets: 16, owners: {s0: 0-7, s1: 8-15}}
    tables: {orders: tenant_id, archive.orders: tenant_id}
"""


@pytest.fixture(scope="module")
def topology() -> Topology:
    return parse_topology(YAML)


@pytest.mark.parametrize(
    "text",
    [
        "alter role joe PASSWORD 'x'",
        "create user joe with encrypted password 'x'",
        "select dblink('host=h passwd=x')",
        "create subscription s connection 'postgresql://joe:secret@host/db' publication p",
        "create subscription s connection 'postgresql://joe:hunter2@host/db' publication p",
        "alter role joe x 'SCRAM-SHA-256$4096:abc'",
        "alter role joe x 'md50123456789abcdef0123456789abcdef'",
        "select 1;\nalter user mapping for joe server s options (set password 'x')",
    ],
)
def test_what_looks_like_a_password_is_not_saved(text: str) -> None:
    assert not may_be_saved(text)


@pytest.mark.parametrize("text", ["select * from orders", "select 'http://host:80/x'", "select 1::text, 'a@b'"])
def test_other_statements_are(text: str) -> None:
    assert may_be_saved(text)


def test_the_history_file_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDPOOL_HOME", str(tmp_path / "home"))
    path = history_file()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_text("kept")
    path.chmod(0o644)
    assert history_file().read_text() == "kept"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_history_file_that_is_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDPOOL_HOME", str(tmp_path))
    (tmp_path / ".shell_history").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        history_file()
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize(
    ("before", "word", "found"),
    [
        ("select * from or", "or", ["orders", "or", "order"]),
        ("SEL", "SEL", ["SELECT"]),
        ("select ", "", []),
        ("\\sh", "\\sh", ["\\shards", "\\shard"]),
        ("\\shard ", "", ["s0", "s1"]),
        ("\\d arch", "arch", ["archive.orders"]),
        ("select 1;\n\\shard s1", "s1", ["s1"]),
    ],
)
def test_tab_offers(topology: Topology, before: str, word: str, found: list[str]) -> None:
    assert candidates(topology, before) == (word, found)
