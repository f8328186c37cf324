"""The runner is killed before and after everything it does; the shards tell the truth, and `up` finishes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ORDERS, Fleet8

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
    (fleet.folder / "runner.py").write_text(RUNNER)
    command = [sys.executable, "runner.py", str(fleet.path), str(at)]
    return subprocess.run(command, cwd=fleet.folder, env={**os.environ}, capture_output=True, text=True, timeout=60)


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
        # Each run has fewer events left: dying at its third to seventh, every kind of event is met.
        events = 3 + killed % 9
        assert killed < 60
    assert killed > 5
    for shard in fleet.shards:
        assert fleet.applied(shard) == versions
        assert fleet.ask(shard, "select n from made order by n") == [(1,), (2,), (3,)]
        assert fleet.ask(
            shard,
            "select indisvalid, pg_get_indexdef(indexrelid) from pg_index where indexrelid = 'orders_total'::regclass",
        ) == [(True, "CREATE INDEX orders_total ON public.orders USING btree (total DESC)")]
    assert "0 deviating" in fleet("status")


@pytest.mark.parametrize("at", range(1, 40))
def test_a_runner_killed_at_one_event_leaves_a_truth(shared: Fleet8, at: int) -> None:
    """Each event of a run on one shard, from a clean start."""
    _clean(shared)
    done = _run(shared, at)
    if done.returncode == 0:
        assert at > len(done.stdout.split())
        return
    assert done.returncode == -signal.SIGKILL, done.stderr
    claimed = _applied(shared)
    tables = {row[0] for row in shared.ask("s0", "select tablename from pg_tables where schemaname = 'public'")}
    assert ("orders" in tables) == (shared.versions[0] in claimed)
    if shared.versions[1] in claimed:
        assert "made" in tables
    shared("status", code=3 if len(claimed) < 3 and not _half(shared) else 1 if _half(shared) else 0)
    shared("up")
    assert _applied(shared) == shared.versions
    assert shared.ask("s0", "select n from made order by n") == [(1,), (2,), (3,)]
    assert shared.ask("s0", "select indisvalid from pg_index where indexrelid = 'orders_total'::regclass") == [(True,)]


class _Shared(Fleet8):
    versions: list[str]


@pytest.fixture(scope="module")
def shared(shardpool_fleet, tmp_path_factory):  # type: ignore[no-untyped-def]
    from .conftest import _fleet

    folder: Path = tmp_path_factory.mktemp("killed")
    for made in _fleet(shardpool_fleet, folder, 1):
        made.versions = [made.write("orders", ORDERS), made.write("steps", STEPS), made.write("last", LAST)]
        yield made


def _clean(fleet: Fleet8) -> None:
    fleet.do("s0", "drop table if exists orders, countries, made, shardpool.migrations, shardpool.migration_log")


def _applied(fleet: Fleet8) -> list[str]:
    if fleet.ask("s0", "select to_regclass('shardpool.migrations')") == [(None,)]:
        return []
    return fleet.applied("s0")


def _half(fleet: Fleet8) -> bool:
    if fleet.ask("s0", "select to_regclass('shardpool.migrations')") == [(None,)]:
        return False
    return bool(fleet.ask("s0", "select from shardpool.migrations where status = 'partial'"))
