"""Locks held by others, shards that are down, two runners, builds that were killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from threading import Thread
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, Router
from shardpool.schema import Limits, MigrationError, Rollout
from shardpool.schema.report import Happened
from tests.timing import in_time, not_after

from .conftest import ADD, ORDERS, Fleet8

pytestmark = pytest.mark.servers

BUILD = "-- migrate:up transaction:false\ncreate index concurrently orders_total on orders (total);\n"


def until(condition: Callable[[], Any], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        not_after(end, "it did not come to that")
        time.sleep(0.02)


def test_a_lock_that_is_held_is_named_and_given_up_and_had_later(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet("up")
    fleet.write("status", ADD)
    with fleet.connect("s1", autocommit=False, application_name="nightly report") as holder:
        holder.execute("select count(*) from orders -- of the night")
        began = time.monotonic()
        told = fleet.json("up", "--lock-timeout", "300ms", "--lock-retries", "2", "--on-error", "continue", code=1)
        in_time(time.monotonic() - began, 10)
        pid = holder.info.backend_pid
        assert f"pid {pid} (nightly report), idle in transaction" in fleet.stderr
        assert "select count(*) from orders -- of the night" in fleet.stderr
        outcomes = [told["shards"][name]["outcome"] for name in fleet.shards]
        assert outcomes == ["done", "failed", "done"]
        # While it waited it held up nobody for longer than its timeout, and nothing of it is left.
        holder.execute("select 1")
    assert fleet.json("status", code=1)["migrations"][1]["shards"] == {"s0": "applied", "s1": "failed", "s2": "applied"}
    fleet("up")
    fleet("status")


def test_a_lock_that_is_let_go_is_had_by_a_retry(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet("up")
    fleet.write("status", ADD)
    holder = fleet.connect("s0", autocommit=False)
    holder.execute("select from orders")
    process = fleet.popen("up", "--lock-timeout", "200ms", "--lock-retries", "50")
    assert process.stderr is not None
    for line in process.stderr:
        if "again in" in line:
            break
    holder.close()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err
    fleet("status")


def test_of_two_runners_one_waits_and_finds_everything_done(fleet: Fleet8) -> None:
    versions = [fleet.write("orders", ORDERS), fleet.write("slow", "-- migrate:up\nselect pg_sleep(0.5);\n")]
    first, second = fleet.popen("up"), fleet.popen("up")
    for process in (first, second):
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
    for shard in fleet.shards:
        assert fleet.applied(shard) == versions
        assert fleet.ask(shard, "select count(*) from shardpool.migration_log") == [(2,)]


def test_a_runner_that_does_not_end_is_named(fleet: Fleet8) -> None:
    fleet.write("slow", "-- migrate:up\nselect pg_sleep(30);\n")
    first = fleet.popen("up")
    try:
        until(lambda: len(fleet.lock_holders("s0")) == 2)
        fleet("up", "--wait", "300ms", code=1)
        assert "is being migrated by another" in fleet.stderr
        assert f"pid {first.pid}" in fleet.stderr
        assert "is being migrated now by" in fleet("status", code=3)
    finally:
        first.kill()
        first.wait()
        first.communicate()


def test_a_shard_that_is_down_in_the_midst_is_told_and_finished_later(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet("up")
    fleet.write("slow", "-- migrate:up\nselect pg_sleep(1.5);\n" + ADD[len("-- migrate:up\n") :])
    process = fleet.popen("up", "--canary", "none", "--on-error", "continue")
    # As a crash looks to the runner: every session of the database ends, and nobody is let in.
    until(lambda: fleet.running("s1", "select pg_sleep"))
    name = fleet.params["s1"]["dbname"]
    with fleet.connect("s1", dbname="postgres") as conn:
        conn.execute(f'alter database "{name}" allow_connections false')
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        out, err = process.communicate(timeout=60)
        assert process.returncode == 1, out + err
        assert "shard s1 was lost" in err
        shown = fleet.json("status", code=1)
        assert list(shown["unreached"]) == ["s1"]
        assert shown["migrations"][1]["shards"] == {"s0": "applied", "s1": "?", "s2": "applied"}
        fleet("up", code=1)
        conn.execute(f'alter database "{name}" allow_connections true')
    assert fleet.json("status", code=1)["migrations"][1]["shards"]["s1"] == "pending"
    fleet("up")
    fleet("status")


def _killed_build(fleet: Fleet8) -> None:
    """Kill -9 of the runner while its build waits for an old transaction; its server then leaves it invalid."""
    holder = fleet.connect("s0", autocommit=False)
    holder.execute("insert into orders values (1, 1, 1)")
    process = fleet.popen("up")
    invalid = "select count(*) from pg_index where not indisvalid and indexrelid = to_regclass('orders_total')"
    until(lambda: fleet.ask("s0", invalid) == [(1,)])
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.communicate()
    # The holder stays: the build ends since its client has gone.
    until(lambda: not fleet.running("s0", "create index"))
    holder.rollback()
    holder.close()
    assert fleet.ask("s0", invalid) == [(1,)]


def test_an_invalid_index_of_a_killed_build_is_built_again(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet("up")
    fleet.write("index", BUILD)
    _killed_build(fleet)
    assert "step 1 of 1 was begun" in fleet("status", code=1)
    assert "index orders_total of orders is invalid" in fleet("verify", code=1)
    fleet("up")
    assert "orders_total is a leftover, and invalid: dropped and built again" in fleet.stderr
    fleet("verify")
    fleet("status")
    assert fleet.ask("s0", "select indisvalid from pg_index where indexrelid = 'orders_total'::regclass") == [(True,)]


def test_repair_builds_invalid_indexes_again(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet("up")
    fleet.do("s2", "insert into orders values (1, 1, 1), (1, 2, 1)")
    with pytest.raises(psycopg.errors.UniqueViolation):
        fleet.do("s2", "create unique index concurrently one_total on orders (total)")
    fleet("verify", code=1)
    fleet.do("s2", "delete from orders")
    assert "index one_total rebuilt" in fleet("repair", "--indexes")
    fleet("verify")


def test_what_is_built_concurrently_does_not_end_by_the_lock_timeout(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet("up")
    fleet.write("index", BUILD)
    holder = fleet.connect("s0", autocommit=False)
    holder.execute("insert into orders values (1, 1, 1)")
    process = fleet.popen("up", "--lock-timeout", "100ms", "--lock-retries", "0")
    assert process.stderr is not None
    for line in process.stderr:
        if "waits for pid" in line:
            break
    # Five times the lock timeout: it would have ended it by now.
    time.sleep(0.5)
    holder.rollback()
    holder.close()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, out + err


def test_a_step_of_which_nobody_knows_the_end_asks_a_person(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet.write(
        "batch",
        "-- migrate:up\ncreate table log (n int);\n"
        "create procedure fill() language plpgsql as $$ begin "
        "for i in 1..50 loop insert into log values (i); commit; perform pg_sleep(0.1); end loop; end $$;\n",
    )
    fleet("up")
    version = fleet.write("fill", "-- migrate:up transaction:false\ncall fill();\nvacuum log;\n")
    process = fleet.popen("up")
    until(lambda: fleet.ask("s0", "select count(*) > 3 from log") == [(True,)])
    process.kill()
    process.wait()
    process.communicate()
    fleet("up", code=1)
    assert "how it ended is not known" in fleet.stderr
    assert "repair --step-done" in fleet.stderr
    fleet.do("s0", "truncate log")
    fleet("repair", "--step-again", version, "--shard", "s0")
    fleet("up", "--shard", "s0")
    assert fleet.ask("s0", "select count(*) from log") == [(50,)]


async def test_the_statements_end_with_the_session_that_holds_the_lock(fleet: Fleet8) -> None:
    fleet.write("slow", "-- migrate:up\nselect pg_sleep(30);\ncreate table t (n int);\n")

    def cut() -> None:
        until(lambda: fleet.running("s0", "select pg_sleep"))
        fleet.do("s0", f"select pg_terminate_backend({fleet.lock_holders('s0')[0]})")

    cutting = Thread(target=cut)
    cutting.start()
    async with AsyncRouter(fleet.path) as router:
        with pytest.raises(MigrationError, match="shard s0 was lost"):
            await router.migrations.up(fleet.migrations)
        assert not (await router.migrations.status(fleet.migrations)).ok
    cutting.join()


def test_the_sync_router_migrates_and_its_pools_forget_the_old_tables(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    seen: list[Happened] = []
    with Router(fleet.path) as router:
        assert router.migrations.up(fleet.migrations, progress=seen.append).changed == 3
        for _ in range(8):  # prepared by now
            router.for_key(1).execute("select * from orders")
        fleet.write("status", ADD)
        router.migrations.up(fleet.migrations, rollout=Rollout(canary="s2"), limits=Limits(lock_retries=1))
        result = router.for_key(1).execute("select * from orders")
        assert [column.name for column in result.description or ()] == ["tenant_id", "id", "total", "status"]
        assert router.migrations.status(fleet.migrations).ok
        assert router.migrations.drift().ok
    assert {happened.what for happened in seen} >= {"locked", "begin", "step", "commit", "applied", "done"}


def test_a_partition_that_was_half_detached_is_finished(fleet: Fleet8) -> None:
    fleet.write(
        "parts",
        "-- migrate:up\ncreate table parts (n int) partition by range (n);\n"
        "create table low partition of parts for values from (0) to (10);\n",
    )
    fleet("up")
    fleet.write("detach", "-- migrate:up transaction:false\nalter table parts detach partition low concurrently;\n")
    holder = fleet.connect("s0", autocommit=False)
    holder.execute("select from parts")
    process = fleet.popen("up")
    pending = "select count(*) from pg_inherits where inhdetachpending"
    until(lambda: fleet.ask("s0", pending) == [(1,)])
    process.kill()
    process.wait()
    process.communicate()
    holder.close()
    fleet("up")
    fleet("status")
    assert fleet.ask("s0", "select count(*) from pg_inherits where inhparent = 'parts'::regclass") == [(0,)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_undoes_what_is_not_committed_and_says_what_next(fleet: Fleet8, number: signal.Signals) -> None:
    version = fleet.write("orders", ORDERS)
    fleet.write("slow", "-- migrate:up\ncreate table t (n int);\nselect pg_sleep(30);\n")
    process = fleet.popen("up")
    until(lambda: fleet.running("s0", "select pg_sleep"))
    process.send_signal(number)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "What was not committed is undone" in err and "Traceback" not in err
    until(lambda: not fleet.lock_holders("s0"))
    assert fleet.applied("s0") == [version]
    assert fleet.ask("s0", "select to_regclass('t')") == [(None,)]


def test_an_interrupt_ends_a_program_and_what_it_has_started(fleet: Fleet8) -> None:
    process = fleet.popen("exec", "--", "sh", "-c", "echo $$; sleep 60; true")
    assert process.stderr is not None
    group = int(process.stderr.readline().split()[-1])
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=50)
    in_time(time.monotonic() - began, 4)
    until(lambda: not _is_there(group))


def _is_there(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_settings_of_a_session_are_made_again_where_a_file_goes_on(fleet: Fleet8) -> None:
    fleet.write("side", "-- migrate:up\ncreate schema side; create table side.t (n int); create table gate (n int);\n")
    fleet("up")
    fleet.write(
        "steps",
        "-- migrate:up transaction:false\nset search_path = side, public;\ninsert into t values (1);\n"
        "insert into t select 2 / count(*) from gate;\n",
    )
    fleet("up", code=1)
    assert "division by zero" in fleet.stderr
    for shard in fleet.shards:
        fleet.do(shard, "insert into gate values (1)")
    fleet("up")
    assert fleet.ask("s0", "select n from side.t order by n") == [(1,), (2,)]


def test_a_file_may_set_a_role_that_knows_nothing_of_the_records(fleet: Fleet8) -> None:
    role = f"owner_{fleet.params['s0']['dbname']}"
    # A server has several shards of the fleet, and one list of roles.
    servers = {fleet.params[shard]["port"]: shard for shard in fleet.shards}
    for shard in servers.values():
        fleet.do(shard, f"create role {role}; grant {role} to current_user")
    for shard in fleet.shards:
        fleet.do(shard, f"grant create on schema public to {role}")
    versions = [
        fleet.write("whole", f"-- migrate:up\nset role {role};\ncreate table whole (n int);\n"),
        fleet.write(
            "steps",
            f"-- migrate:up transaction:false\nset role {role};\ncreate table steps (n int);\n"
            "create index concurrently steps_n on steps (n);\n",
        ),
    ]
    try:
        fleet("up")
        for shard in fleet.shards:
            assert fleet.applied(shard) == versions
            owners = "select distinct tableowner from pg_tables where schemaname = 'public'"
            assert fleet.ask(shard, owners) == [(role,)]
    finally:
        for shard in fleet.shards:
            fleet.do(shard, f"drop owned by {role}")
        for shard in servers.values():
            fleet.do(shard, f"drop role {role}")


def test_a_shard_that_is_down_from_the_start_keeps_none_of_the_others_back(fleet: Fleet8) -> None:
    """Also where it would have been the first to go."""
    fleet.write("orders", ORDERS)
    name = fleet.params["s0"]["dbname"]
    with fleet.connect("s0", dbname="postgres") as conn:
        conn.execute(f'alter database "{name}" allow_connections false')
        conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,))
        fleet("up", "--on-error", "continue", "--canary", "s0", code=1)
        told = fleet.json("up", "--on-error", "continue", code=1)
        conn.execute(f'alter database "{name}" allow_connections true')
    assert {shard: report["outcome"] for shard, report in told["shards"].items()} == {
        shard: "failed" if shard == "s0" else "done" for shard in fleet.shards
    }
    assert all(fleet.applied(shard) for shard in fleet.shards if shard != "s0")
