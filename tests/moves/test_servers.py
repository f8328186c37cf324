"""Servers that are killed in the middle of a move: it waits, and goes on when they are back; nothing is lost."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from shardpool import Router
from shardpool.local import LocalFleet
from shardpool.local.binaries import find_binaries
from shardpool.local.reaper import watch

from .clients import Load
from .fleet import Moves, connect, keys_of
from .test_under_load import KEYSPACES, SCHEMA

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("servers")]

CALM = ["--pause-limit", "20s", "--straggler-seconds", "60"]


@pytest.fixture(scope="module")
def fleet() -> Iterator[LocalFleet]:
    name = f"moves-{os.getpid()}-{secrets.token_hex(2)}"
    reaper = watch(name)
    found = LocalFleet.up(name, 2)
    yield found
    found.down()
    reaper.communicate()


@pytest.fixture
def moves(fleet: LocalFleet, tmp_path: Path) -> Moves:
    if find_binaries().version < 16:
        for server in fleet.servers:
            with server.connect() as conn:
                conn.execute("alter role app superuser")
    path = tmp_path / "topology.yaml"
    fleet.write_topology(KEYSPACES, path=path)
    with Router(path) as router:
        router.init()
        router.scatter(SCHEMA)
    return Moves(path)


# What is said when the server is killed, whether it is the source or the target, and where the rows go.
KILLS = (("copying", True), ("new topology: hand over", False), ("handing over", True), ("handed over", False))


def test_a_server_that_is_killed_holds_the_move_up_and_loses_nothing(moves: Moves, fleet: LocalFleet) -> None:
    keys = keys_of(moves.topology, "tenants", range(8), 12) + keys_of(moves.topology, "tenants", range(20, 40), 4)
    for number, (line, of_target) in enumerate(KILLS, 1):
        source, target = ("s0", "s1") if number % 2 else ("s1", "s0")
        for shard in ("s0", "s1"):
            with connect(moves.topology, shard) as conn:
                conn.execute("delete from ledger")
        load = Load(moves.path, keys)
        server = fleet.server(target if of_target else source)
        with load:
            with moves.begin("move", "tenants", "--buckets", "0-7", "--to", target, *CALM) as process:
                assert process.stderr is not None
                for told in process.stderr:
                    if line in told:
                        server.kill()
                        server.start(find_binaries())
                        break
                _, rest = process.communicate()
                assert process.returncode == 0, rest
            moves("move", "finish", str(number), *CALM)
        load.check()
        assert moves.left("s0") == moves.left("s1") == {}
