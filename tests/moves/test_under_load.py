"""Moves while their rows are written and read: nothing is lost, doubled or read as it was before."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from .clients import Load
from .fleet import Moves, keys_of

pytestmark = pytest.mark.servers

KEYSPACES = """\
keyspaces:
  tenants: {key: bigint, hash: {buckets: 64, owners: {s0: 0-31, s1: 32-63}}, tables: {ledger: tenant_id}}
"""
SCHEMA = "create table ledger (tenant_id bigint primary key, version bigint not null)"
CALM = ["--pause-limit", "20s", "--straggler-seconds", "60"]


@pytest.fixture
def moves(make_moves: Callable[[str, str], Moves]) -> Moves:
    return make_moves(KEYSPACES, SCHEMA)


@pytest.fixture
def keys(moves: Moves) -> list[int]:
    """Keys that move, and some that stay on either shard."""
    topology = moves.topology
    return keys_of(topology, "tenants", range(8), 18) + keys_of(topology, "tenants", range(20, 40), 6)


def test_there_and_back_and_there_again(moves: Moves, keys: list[int]) -> None:
    load = Load(moves.path, keys)
    with load:
        moves("move", "tenants", "--buckets", "0-7", "--to", "s1", *CALM)
        moves("move", "rollback", "1", *CALM)
        assert moves.topology.keyspaces["tenants"].shard_by_bucket[0] == "s0"
        moves("move", "finish", "1", *CALM)
        assert moves.left("s0") == moves.left("s1") == {}
        moves("move", "tenants", "--buckets", "0-7", "--to", "s1", *CALM)
        assert moves.json("verify", "--move", "2")["differences"] == []
        moves("move", "finish", "2", *CALM)
    load.check()
    assert moves.topology.keyspaces["tenants"].shard_by_bucket[0] == "s1"
    assert moves.left("s0") == moves.left("s1") == {}


KILLS = (
    "new topology: buckets",
    "on s1",
    "copying",
    "new topology: hand over",
    "on s0",
    "comparing",
    "handing over",
    "handed over",
    "new topology: moved",
    "moved; the copy",
)


def test_a_mover_that_is_killed_anywhere_is_taken_up(moves: Moves, keys: list[int]) -> None:
    load = Load(moves.path, keys)
    with load:
        command = ["move", "tenants", "--buckets", "0-7", "--to", "s1", *CALM]
        for line in KILLS:
            _killed(moves, command, line)
        moves("move", "resume", "1", *CALM)
        for line in ("new topology: take back", "on s1", "handing over", "new topology: moved"):
            _killed(moves, ["move", "rollback", "1", *CALM], line)
        moves("move", "rollback", "1", *CALM)
        assert moves.topology.keyspaces["tenants"].shard_by_bucket[0] == "s0"
        for line in ("deleting", "new topology: finished"):
            _killed(moves, ["move", "finish", "1", *CALM], line)
        if moves.topology.moves:
            moves("move", "finish", "1", *CALM)
    load.check()
    assert not moves.topology.moves


def _killed(moves: Moves, command: list[str], line: str) -> None:
    """Run a command, and kill it when it says this; one that ends before has nothing left to do there."""
    with moves.begin(*command) as process:
        assert process.stderr is not None
        for told in process.stderr:
            if line in told:
                process.send_signal(signal.SIGKILL)
                break
        process.communicate()


def test_what_is_undone_leaves_nothing(moves: Moves, keys: list[int]) -> None:
    load = Load(moves.path, keys)
    with load:
        for line in ("new topology: hand over", "comparing"):
            _killed(moves, ["move", "tenants", "--buckets", "0-7", "--to", "s1", *CALM], line)
            number = str(max(moves.topology.moves))
            moves("move", "abort", number, *CALM)
            assert not moves.topology.moves
            assert moves.left("s0") == moves.left("s1") == {}
    load.check()
    moving = "select count(*) from ledger where shardpool.bucket_tenants(tenant_id) <@ '[0,7]'::int4range"
    assert moves.query("s1", moving) == [(0,)] and moves.query("s0", moving) == [(18,)]


@pytest.mark.parametrize("guards", [False, True])
def test_stale_reads_are_found_when_nobody_guards(moves: Moves, keys: list[int], guards: bool) -> None:
    """The control. What follows back is stopped over each hand-over: it would bring the source up to date at once."""
    load = Load(moves.path, keys, guards=guards, lag=0.5)
    with load:
        for number, (source, target) in enumerate([("s0", "s1"), ("s1", "s0")], 1):
            _moved_unfollowed(moves, source, target)
            moves("move", "finish", str(number), *CALM)
    if guards:
        load.check()
    else:
        assert load.ledger.stale_reads


def _moved_unfollowed(moves: Moves, source: str, target: str) -> None:
    """Move the buckets, while the source applies nothing from the comparison before the hand-over until the end."""
    stopped: list[int] = []
    ((version,),) = moves.query(source, "select current_setting('server_version_num')::int")
    # Before 16 there is nothing to stop: it follows as soon as routers go to the target.
    follows_before = version >= 160000
    with moves.begin("move", "tenants", "--buckets", "0-7", "--to", target, *CALM) as process:
        assert process.stderr is not None
        try:
            for told in process.stderr:
                if "comparing" in told and follows_before and not stopped:
                    query = """select pid from pg_stat_subscription s join pg_subscription u on u.oid = s.subid
                        join pg_database d on d.oid = u.subdbid
                        where datname = current_database() and pid is not null"""
                    stopped = [pid for (pid,) in moves.query(source, query)]
                    assert stopped
                    for pid in stopped:
                        os.kill(pid, signal.SIGSTOP)
        finally:
            for pid in stopped:
                os.kill(pid, signal.SIGCONT)
        process.wait(timeout=300)
    assert process.returncode == 0 and bool(stopped) == follows_before


# `make soak` asks for 200.
HAND_OVERS = int(os.environ.get("SHARDPOOL_TEST_HANDOVERS", "8"))


def test_many_hand_overs_lose_and_double_nothing(moves: Moves, keys: list[int]) -> None:
    load = Load(moves.path, keys, lag=0.1)
    with load:
        for number in range(1, HAND_OVERS // 2 + 1):
            moves("move", "tenants", "--buckets", "0-7", "--to", "s1", *CALM)
            moves("move", "rollback", str(number), *CALM)
            moves("move", "finish", str(number), *CALM)
            load.check_so_far()
    load.check()
    print(f"{HAND_OVERS} hand-overs, {load.ledger.writes} writes, {load.ledger.reads} reads")
