"""What stands against a move is said before anything is changed; who holds one up is named; what is asked is done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from time import monotonic

import psycopg
import pytest

from shardpool import load_topology
from shardpool.config import parse_topology
from shardpool.control import guard
from tests.timing import SLACK, not_after

from .fleet import Moves, connect, keys_of, own

pytestmark = pytest.mark.servers

KEYSPACES = """\
keyspaces:
  tenants:
    key: bigint
    hash: {buckets: 64, owners: {s0: 0-31, s1: 32-63}}
    tables: {orders: tenant_id, items: tenant_id}
reference_tables: [countries]
"""
SCHEMA = """\
create table countries (code text primary key);
create table orders (tenant_id bigint not null, n int not null, note text, primary key (tenant_id, n));
create table items (id bigserial primary key, tenant_id bigint not null);
"""
# Without what is refused in the first test.
GOOD = SCHEMA.replace("id bigserial primary key", "id uuid primary key default gen_random_uuid()")
MOVE = ["move", "tenants", "--buckets", "0-7", "--to", "s1"]
CALM = ["--pause-limit", "20s"]


@pytest.fixture
def moves(make_moves: Callable[[str, str], Moves]) -> Moves:
    return make_moves(KEYSPACES, GOOD)


def test_everything_that_is_in_the_way_is_told_at_once(make_moves: Callable[[str, str], Moves]) -> None:
    moves = make_moves(KEYSPACES, SCHEMA)
    with connect(moves.topology, "s1") as target:
        target.execute("alter table orders drop constraint orders_pkey")
        target.execute("alter table orders add column more int")
        target.execute("insert into items (tenant_id) select id from generate_series(1, 200) as id")
    with connect(moves.topology, "s0") as source:
        source.execute("alter table items set unlogged")
    before = moves.path.read_text()
    moves(*MOVE, code=1)
    for told in (
        "table orders differs between s0 and s1: more",
        "table orders on shard s1 has no primary key",
        "table items on shard s0 is unlogged",
    ):
        assert told in moves.stderr, told
    with connect(moves.topology, "s0") as source, connect(moves.topology, "s1") as target:
        source.execute("alter table items set logged")
        target.execute("alter table orders drop column more")
        target.execute("alter table orders add primary key (tenant_id, n)")
    moves(*MOVE, "--dry-run", code=1)
    for told in (
        "shard s1 has rows of items that belong to what moves",
        "items.id is the primary key, and both shards give the same numbers",
    ):
        assert told in moves.stderr, told
    assert moves.path.read_text() == before
    assert moves.json("move", "status", "--all")["moves"] == []
    assert moves.left("s0") == moves.left("s1") == {}


def test_a_session_of_a_router_that_declares_nothing_is_named(moves: Moves) -> None:
    with connect(moves.topology, "s0", application_name="an old service") as old:
        moves(*MOVE, *CALM, code=1)
        assert f"process {old.info.backend_pid} of app" in moves.stderr and "an old service" in moves.stderr
        assert not moves.topology.moves
    with connect(moves.topology, "s1") as stale:
        # One that never hears of a newer epoch is waited for, and then named.
        epoch = moves.topology.epoch
        stale.execute(guard.DECLARE, (epoch,))
        moves(*MOVE, *CALM, "--straggler-seconds", "0.2", code=1)
        assert f"works by epoch {epoch}" in moves.stderr and "--stragglers terminate" in moves.stderr
        told = moves.json("move", "status", "1")["moves"][0]
        assert [(one["pid"], one["epoch"]) for one in told["stragglers"]] == [(stale.info.backend_pid, epoch)]
        moves("move", "resume", "1", *CALM, "--straggler-seconds", "0.2", "--stragglers", "terminate")
        with pytest.raises(psycopg.OperationalError):
            stale.execute("select 1")
    assert moves.topology.moves[1].state == "moved"
    moves("move", "finish", "1", *CALM)


@pytest.fixture
def begun(moves: Moves) -> Iterator[Moves]:
    """A move whose copy is made and that is not handed over: its window is another time of day."""
    with moves.begin(*MOVE, *CALM, "--window", "00:00-00:00") as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "waiting: for" in line:
                break
        yield moves
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        process.communicate()


def test_what_moves_is_not_edited_migrated_or_moved_twice(begun: Moves) -> None:
    moves = begun
    assert "move 1: buckets 0-7 of keyspace tenants, s0 → s1, is copying" in moves("check")
    assert "0 errors" in moves("check")
    assert "move 1" in _refused(moves, "topology", "shard", "drain", "s0")
    assert "move 1" in _refused(moves, "topology", "rename", "s1", "west")
    assert "moves some of that already" in _refused(moves, "move", "tenants", "--buckets", "7-9", "--to", "s2")
    assert "between the same two shards" in _refused(moves, "move", "tenants", "--buckets", "40", "--to", "s0")
    assert "another process makes move 1" in _refused(moves, "move", "resume", "1", "--patience", "1")


def _refused(moves: Moves, *arguments: str) -> str:
    with moves.begin(*arguments) as process:
        _, told = process.communicate()
    assert process.returncode in (1, 2), told
    return told


def test_a_move_waits_and_goes_on_and_is_undone_by_another_command(begun: Moves) -> None:
    moves = begun
    moves("move", "pause", "1")
    told = moves.json("move", "status", "1")["moves"][0]
    assert (told["wanted"], told["state"], told["is_made"], told["step"]) == ("pause", "copying", True, "following")
    assert told["behind"] and told["owner"] == "s0" and not any(told["errors"].values())
    # The process that makes it gives way.
    moves("move", "abort", "1")
    assert not moves.topology.moves and moves.left("s0") == moves.left("s1") == {}
    assert moves.json("move", "status", "1")["moves"][0]["step"] == "aborted"


def test_a_writer_that_does_not_end_is_named_and_nothing_is_handed_over(moves: Moves) -> None:
    with moves.begin(*MOVE, *CALM, "--straggler-seconds", "60") as process:
        assert process.stderr is not None
        topology = None
        for line in process.stderr:
            if "new topology: hand over" in line:
                break
        end = monotonic() + SLACK * 3
        while topology is None or not any(move.state == "guarded" for move in topology.moves.values()):
            not_after(end)
            topology = load_topology(moves.path)
        with connect(topology, "s0") as writer:
            writer.execute(guard.DECLARE, (topology.epoch,))
            writer.execute("begin")
            writer.execute("select pg_advisory_xact_lock_shared(1936747623, 1)")
            _, told = process.communicate()
            assert process.returncode == 1
            assert f"process {writer.info.backend_pid} of app" in told
            assert moves.query("s0", "select owner from shardpool.token") == [("s0",)]
        moves("move", "resume", "1", *CALM)
    assert parse_topology(moves.path.read_text(), folder=moves.path.parent).moves[1].state == "moved"


def test_a_hand_over_that_does_not_arrive_is_taken_back(begun: Moves) -> None:
    """Both shards refuse the rows meanwhile, who guards them and who writes them without."""
    moves = begun
    moves("move", "pause", "1")
    topology = moves.topology
    key = keys_of(topology, "tenants", range(8), 1)[0]
    with connect(topology, "s0") as source:
        source.execute("insert into orders values (%s, 1)", (key,))
    with connect(topology, "s1") as blocking:
        own(blocking)
        blocking.execute("begin")
        blocking.execute("lock table shardpool.token in share mode")
        _stopped(moves)
        with moves.begin("move", "resume", "1", *CALM) as process:
            end = monotonic() + SLACK * 6
            while moves.query("s0", "select owner from shardpool.token") != [("s1",)]:
                not_after(end)
            process.send_signal(signal.SIGKILL)
            process.communicate()
        topology = moves.topology
        for shard in ("s0", "s1"):
            with connect(topology, shard) as session:
                session.execute(guard.DECLARE, (topology.epoch,))
                with pytest.raises(psycopg.Error) as caught:
                    session.execute(guard.GUARD, (1,))
                assert caught.value.sqlstate == "RS001"
                with pytest.raises(psycopg.Error) as caught:
                    session.execute("update orders set note = 'lost' where tenant_id = %s", (key,))
                assert caught.value.sqlstate == "RS001"
        with moves.begin("move", "abort", "1") as process:
            assert process.stderr is not None
            for line in process.stderr:
                if "deleting" in line:  # what waited for the lock was ended: the token will not come any more
                    blocking.execute("rollback")
                    break
            _, told = process.communicate()
            assert process.returncode == 0, told
    assert not moves.topology.moves and moves.left("s0") == moves.left("s1") == {}
    assert moves.query("s1", "select count(*) from orders") == [(0,)]
    assert moves.query("s0", "select count(*) from orders") == [(1,)]


def _stopped(moves: Moves) -> None:
    """The process that makes the move has ended, as `abort` would have it end."""
    with connect(moves.topology, "s0") as conn:
        own(conn)
        conn.execute("update shardpool.moves set wanted = 'stop'")
    end = monotonic() + SLACK * 3
    while moves.json("move", "status", "1")["moves"][0]["is_made"]:
        not_after(end)


def test_two_moves_run_side_by_side(moves: Moves) -> None:
    one = moves.begin(*MOVE, *CALM, "--straggler-seconds", "60", "--finish")
    other = moves.begin(
        "move", "tenants", "--buckets", "8-15", "--to", "s2", *CALM, "--straggler-seconds", "60", "--finish"
    )
    for process in (one, other):
        _, told = process.communicate()
        assert process.returncode == 0, told
    space = moves.topology.keyspaces["tenants"]
    assert (space.shard_by_bucket[0], space.shard_by_bucket[8]) == ("s1", "s2")
    for shard in ("s0", "s1", "s2"):
        assert moves.left(shard) == {}
