"""The runner is killed before and after everything it does; the shards tell the truth, and `up` finishes."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from shardpool.testing import Fleet
from tests.commands import run

from .conftest import ORDERS, Fleet8, _fleet

pytestmark = pytest.mark.servers

# Dies at the event of that number; without one it tells how many there are.
RUNNER = """\
import asyncio, os, signal, sys
from shardpool import AsyncRouter
from shardpool.schema import Rollout

at = int(sys.argv[2])
seen = []

def progress(happened):
    seen.append(happened.what)
    if len(seen) == at:
        os.kill(os.getpid(), signal.SIGKILL)

async def main():
    async with AsyncRouter(sys.argv[1], reload_interval=None) as router:
        await router.migrations.up("migrations", rollout=Rollout(parallel=1), progress=progress)
    print(" ".join(seen))

asyncio.run(main())
"""

STEPS = """\
-- migrate:up transaction:false
create index concurrently orders_total on orders (total);
begin;
create table made (n int);
insert into made values (1);
commit;
insert into made values (2);
drop index concurrently orders_total;
create index concurrently orders_total on orders (total desc);
vacuum made;
-- migrate:down
drop index orders_total;
drop table made;
"""

LAST = """\
-- migrate:up
insert into made values (3);
-- migrate:down
delete from made where n = 3;
"""


def _run(fleet: Fleet8, at: int) -> subprocess.CompletedProcess[str]:
    return run([str(fleet.path), str(at)], env=os.environ, cwd=fleet.folder, script=RUNNER)


def test_up_finishes_what_was_killed_at_any_moment(fleet: Fleet8) -> None:
    versions = [fleet.write("orders", ORDERS), fleet.write("steps", STEPS), fleet.write("last", LAST)]
    events = 1
    killed = 0
    # One shard after another is killed at each of its events; the run goes on from there.
    while True:
        done = _run(fleet, events)
        if done.returncode == 0:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
        killed += 1
        # Each run has fewer events left: it dies early and late in turn.
        events = 3 + 4 * killed % 17
        assert killed < 60
    assert killed > 5
    for shard in fleet.shards:
        assert fleet.applied(shard) == versions
        _assert_whole(fleet, shard)
    assert "0 deviating" in fleet("status")


def test_a_runner_killed_at_any_of_its_events_leaves_a_truth(shardpool_fleet: Fleet, tmp_path: Path) -> None:
    """On one shard, each time from a clean start: what the records claim is there, and `up` brings the rest."""
    for fleet in _fleet(shardpool_fleet, tmp_path, 1):
        versions = [fleet.write("orders", ORDERS), fleet.write("steps", STEPS), fleet.write("last", LAST)]
        events = len(_run(fleet, 0).stdout.split())
        assert events > 20
        for at in range(1, events):
            _clean(fleet)
            done = _run(fleet, at)
            assert done.returncode == -signal.SIGKILL, done.stderr
            _assert_truth(fleet, versions)
            again = _run(fleet, 0)
            assert again.returncode == 0, f"after {at}: {again.stderr}"
            assert _applied(fleet) == versions
            _assert_whole(fleet, "s0")


def _assert_truth(fleet: Fleet8, versions: list[str]) -> None:
    claimed = _applied(fleet)
    tables = {row[0] for row in fleet.ask("s0", "select tablename from pg_tables where schemaname = 'public'")}
    assert ("orders" in tables) == (versions[0] in claimed)
    if claimed:
        half = fleet.ask("s0", "select steps_done, step_begun from shardpool.migrations where status = 'partial'")
        done = 7 if versions[1] in claimed else half[0][0] if half else 0
        # The second and the third step, each in one transaction with its record.
        rows = fleet.ask("s0", "select count(*) from made where n < 3")[0][0] if "made" in tables else 0
        assert rows == min(max(done - 1, 0), 2)


def _assert_whole(fleet: Fleet8, shard: str) -> None:
    assert fleet.ask(shard, "select n from made order by n") == [(1,), (2,), (3,)]
    query = "select indisvalid, pg_get_indexdef(indexrelid) from pg_index where indexrelid = 'orders_total'::regclass"
    assert fleet.ask(shard, query) == [(True, "CREATE INDEX orders_total ON public.orders USING btree (total DESC)")]


def _clean(fleet: Fleet8) -> None:
    fleet.do("s0", "drop table if exists orders, countries, made, shardpool.migrations, shardpool.migration_log")


def _applied(fleet: Fleet8) -> list[str]:
    if fleet.ask("s0", "select to_regclass('shardpool.migrations')") == [(None,)]:
        return []
    return fleet.applied("s0")
