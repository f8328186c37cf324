"""Rows that move between hosts while one of them is lost: the move waits for it and goes on, and nothing is lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest

from shardpool import Router
from tests.moves.clients import Load
from tests.moves.fleet import Moves, connect, keys_of
from tests.moves.test_under_load import CALM, KEYSPACES, SCHEMA

from .hosts import FAULTS, Hosts

# Seconds that a move may take with all that befalls it.
_LIMIT = 300.0
# What is said when the host is lost, and whether it is the target's.
LOSSES = (("copying", True), ("handing over", False), ("handed over", True))


@pytest.fixture
def moves(hosts: Hosts, tmp_path: Path) -> Moves:
    """Two of the hosts as a fleet of its own, in a database that is new."""
    database = f"moves_{tmp_path.name}"
    for shard in ("s0", "s1"):
        with hosts.connect(shard) as conn:
            conn.execute(f'create database "{database}"')
    password = tmp_path / "password"
    password.touch(0o600)
    password.write_text(hosts.password, encoding="utf-8")
    given = f"dbname: {database}, user: app, password_file: {password}, sslmode: disable"
    lines = [f"  {shard}: {{primary: {{host: {hosts.addresses[shard]}}}}}\n" for shard in ("s0", "s1")]
    path = tmp_path / "topology.yaml"
    path.write_text(
        f"version: 1\nfleet: {database}\nepoch: 1\ndefaults:\n  connect: {{{given}}}\n"
        f"shards:\n{''.join(lines)}{KEYSPACES}",
        encoding="utf-8",
    )
    with Router(path) as router:
        router.init(timeout=60)
        router.scatter(SCHEMA, timeout=60)
    return Moves(path)


@contextmanager
def _ended_by(process: subprocess.Popen[str], seconds: float) -> Iterator[None]:
    """A process that waits for good is killed, so that whoever reads what it says goes on."""
    timer = Timer(seconds, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        process.kill()


@pytest.mark.parametrize("fault", ["killed", "disconnected"])
def test_a_host_that_is_lost_holds_the_move_up_and_loses_nothing(fault: str, hosts: Hosts, moves: Moves) -> None:
    keys = keys_of(moves.topology, "tenants", range(8), 12) + keys_of(moves.topology, "tenants", range(20, 40), 4)
    for number, (line, of_target) in enumerate(LOSSES, 1):
        source, target = ("s0", "s1") if number % 2 else ("s1", "s0")
        for shard in ("s0", "s1"):
            with connect(moves.topology, shard) as conn:
                conn.execute("delete from ledger")
        load = Load(moves.path, keys)
        with load:
            # So slow that the host is lost in the midst of it.
            slow = ("--throttle", "20b/s") if line == "copying" else ()
            command = ("move", "tenants", "--buckets", "0-7", "--to", target, *slow, *CALM)
            with moves.begin(*command) as process, _ended_by(process, _LIMIT):
                assert process.stderr is not None
                told = iter(process.stderr)
                assert any(line in said for said in told)
                with FAULTS[fault](hosts, target if of_target else source):
                    assert any(": waiting: " in said for said in told)
                _, rest = process.communicate()
                assert process.returncode == 0, rest
            moves("move", "finish", str(number), *CALM)
        load.check()
        assert moves.left("s0") == moves.left("s1") == {}
