"""A running router writes to a bucket that is being given away: it waits for the new owner, and sees no error."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, Router, ShardUnavailable, load_topology
from tests.commands import run
from tests.timing import SLOW, in_time, not_after

# An edit that waits, after the shards have been fenced and before the file is replaced, until a file is there.
_HELD = """
import sys, time
from pathlib import Path
import shardpool.cli.edit.running as edit
held = Path(sys.argv.pop(1))
class Held(dict):
    def __getitem__(self, step):
        while step == "file" and not held.exists():
            time.sleep(0.01)
        return step
edit._SAID = Held()
from shardpool.cli import main; main()
"""
INSERT = "insert into orders values (%s, %s, 'new')"
# Refuses every row as a shard does that has given it away.
NO = """
create function no() returns trigger language plpgsql as
$$begin raise exception 'given away' using errcode = 'RS001'; end$$
"""
FENCES = "select count(*) from pg_trigger where tgname = 'shardpool_fence'"


@contextmanager
def _held_edit(path: str, held: Path, *arguments: str) -> Iterator[None]:
    """Until the block ends the edit has fenced the shards, and not replaced the file."""
    command = [sys.executable, "-c", _HELD, str(held), "topology", *arguments, "--settle", "1"]
    environment = {**os.environ, "SHARDPOOL_TOPOLOGY": path}
    edit = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        end = monotonic() + 20
        with Router(path, reload_interval=None) as looker:
            while looker.shard("s0").execute(FENCES).one() == (0,):
                assert edit.poll() is None, edit.communicate()[1]
                not_after(end)
        yield
    finally:
        held.touch()
        _, told = edit.communicate(timeout=30)
    assert edit.returncode == 0, told


def _free(router: Router, shard: str, above: int = 1000) -> int:
    return next(key for key in range(above, above + 1000) if router.for_key(key, table="orders").shard == shard)


def _writes(router: Router, key: int, other: int) -> dict[str, Callable[[], Any]]:
    """All ways to write a row to the key's bucket, numbered apart; some write one of another key with it."""
    route = router.for_key(key, table="orders")
    return {
        "execute of a route": lambda: route.execute(INSERT, (key, 1)),
        "execute with a key": lambda: router.execute(INSERT, (key, 2), key=key, table="orders"),
        "execute": lambda: router.execute(INSERT, (key, 3)),
        "execute of a literal": lambda: router.execute(f"insert into orders values ({key}, 4, 'new')"),
        "split": lambda: router.execute(
            "insert into orders values (%s, %s, 'new'), (%s, %s, 'new')", (key, 5, other, 5)
        ),
        "map": lambda: router.map(
            lambda conn, item: conn.execute(INSERT, (item, 7)).rowcount, [key, other], key=int, table="orders"
        ),
        "executemany": lambda: router.executemany(
            INSERT, [(key, 9), (other, 9)], key=lambda row: row[0], table="orders"
        ),
        "map per shard": lambda: router.map(
            lambda conn, item: conn.execute(INSERT, (item, 8)).rowcount,
            [key, other],
            key=int,
            table="orders",
            per="shard",
        ),
    }


def test_every_write_that_can_be_made_again_waits_for_the_new_owner(topology_path: str, tmp_path: Path) -> None:
    outcomes: dict[str, Any] = {}
    with Router(topology_path, reload_interval=60) as router:
        key, other = _free(router, "s0"), _free(router, "s0", 5000)
        writes = _writes(router, key, other)

        def write(name: str) -> None:
            try:
                writes[name]()
                outcomes[name] = "done"
            except BaseException as error:
                outcomes[name] = error

        threads = [threading.Thread(target=write, args=(name,)) for name in writes]
        with _held_edit(topology_path, tmp_path / "go on", "pin", str(key), "s2"):
            for thread in threads:
                thread.start()
            threads[0].join(0.5)
            assert not outcomes, "they wait"
        for thread in threads:
            thread.join(20)
        assert outcomes == dict.fromkeys(writes, "done")
        assert router.for_key(key, table="orders").shard == "s2"
        found = router.scatter("select n from orders where tenant_id = %s order by n", (key,))
        assert {shard: [n for (n,) in result.rows] for shard, result in found.items()} == {
            "s0": [], "s1": [], "s2": [1, 2, 3, 4, 5, 7, 8, 9], "s3": [],
        }  # fmt: skip
        assert router.execute("select array_agg(n order by n) from orders where tenant_id = %s", (other,)).one() == (
            [5, 7, 8, 9],
        )
        assert router.check().ok


def test_writes_of_an_async_router_wait_too(topology_path: str, tmp_path: Path) -> None:
    async def writes(key: int, other: int) -> list[Any]:
        async with AsyncRouter(topology_path, reload_interval=60) as router:
            route = router.for_key(key, table="orders")
            both = "insert into orders values (%s, %s, 'new'), (%s, %s, 'new')"
            edit = _held_edit(topology_path, tmp_path / "go on", "pin", str(key), "s1")
            await asyncio.to_thread(edit.__enter__)
            try:
                tasks = [
                    asyncio.ensure_future(call)
                    for call in (
                        route.execute(INSERT, (key, 1)),
                        router.execute(INSERT, (key, 2)),
                        router.execute(both, (key, 3, other, 3)),
                    )
                ]
                await asyncio.sleep(0.5)
                assert not any(task.done() for task in tasks)
            finally:
                await asyncio.to_thread(edit.__exit__, None, None, None)
            return await asyncio.gather(*tasks, return_exceptions=True)

    with Router(topology_path) as router:
        key, other = _free(router, "s0"), _free(router, "s0", 5000)
        outcomes = asyncio.run(writes(key, other))
        assert not [error for error in outcomes if isinstance(error, BaseException)]
        assert router.reload(load_topology(topology_path)).epoch > 1
        found = router.scatter("select count(*) from orders where tenant_id = %s", (key,))
        assert {shard: result.one()[0] for shard, result in found.items()} == {"s0": 0, "s1": 3, "s2": 0, "s3": 0}


def test_what_cannot_be_made_again_is_told_and_is_right_the_next_time(topology_path: str, tmp_path: Path) -> None:
    with Router(topology_path, reload_interval=60) as router:
        key = _free(router, "s0")
        route = router.for_key(key, table="orders")
        router.shard("s0").execute(
            "create procedure twice(key bigint) language plpgsql as $$ begin"
            " insert into countries values (key::text, 'called'); commit;"
            " insert into orders values (key, 9, ''); end $$"
        )
        with _held_edit(topology_path, tmp_path / "go on", "pin", str(key), "s2"):
            with pytest.raises(psycopg.DatabaseError, match="has given away") as refused, route.transaction() as conn:
                conn.execute(INSERT, (key, 1))
            assert refused.value.sqlstate == "RS001"
            with pytest.raises(psycopg.DatabaseError, match="has given away"):
                route.execute("call twice(%s)", (key,))
            assert router.shard("s0").execute("select count(*) from countries").one() == (1,)
            with pytest.raises(psycopg.DatabaseError, match="has given away"):
                router.shard("s0").execute(INSERT, (key, 1))
            begun = monotonic()
            with pytest.raises(psycopg.DatabaseError, match="has given away"):
                route.execute(INSERT, (key, 1), timeout=0.4)
            assert 0.2 < monotonic() - begun < 20
        # The look at the file that the errors brought about was too early: a next call brings another.
        route.execute(INSERT, (key, 1))
        assert router.for_key(key, table="orders").shard == "s2"


def test_a_router_without_a_file_to_follow_does_not_wait(topology_path: str, tmp_path: Path) -> None:
    with Router(load_topology(topology_path)) as router, Router(topology_path, reload_interval=None) as unwatched:
        key = _free(router, "s0")
        with _held_edit(topology_path, tmp_path / "go on", "pin", str(key), "s2"):
            for each in (router, unwatched):
                with pytest.raises(psycopg.DatabaseError, match="has given away") as refused:
                    each.execute(INSERT, (key, 1), timeout=20)
                assert refused.value.diag.message_hint == "Reload the topology, and route the key again."


def test_a_bucket_that_is_not_divided_is_followed_by_transactions_that_are_run_again(
    topology_path: str, tmp_path: Path
) -> None:
    new = tmp_path / "new.yaml"
    new.write_text(Path(topology_path).read_text().replace("s0: 0-1023, s1: 1024-2047", "s0: 0-511, s1: 512-2047"))
    with Router(topology_path, reload_interval=60) as router:
        key = next(key for key in range(1000, 9000) if 512 <= router.for_key(key, table="orders").bucket < 1024)
        route = router.for_key(key, table="orders")
        calls = []

        def insert(conn: Any) -> int:
            calls.append(conn.info.backend_pid)
            return conn.execute(INSERT, (key, 1)).rowcount

        outcomes: list[Any] = []
        thread = threading.Thread(target=lambda: outcomes.append(route.run(insert)))
        with _held_edit(topology_path, tmp_path / "go on", "apply", str(new)):
            thread.start()
            thread.join(0.3)
            assert not outcomes
        thread.join(20)
        assert outcomes == [1] and len(calls) > 1
        assert route.shard == "s1"
        assert router.shard("s1").execute("select count(*) from orders where tenant_id = %s", (key,)).one() == (1,)


def test_a_router_that_servers_refuse_for_its_older_file_reads_the_file_and_goes_on(topology_path: str) -> None:
    """No call fails, even when an edit leaves routers no time at all, as long as the file is there to be read."""
    with Router(topology_path, reload_interval=60) as router:
        key = _free(router, "s0")
        command = ["topology", "pin", str(key), "s2", "--settle", "0"]
        run(command, env={**os.environ, "SHARDPOOL_TOPOLOGY": topology_path}).check_returncode()
        # It has no connections yet: each of these is refused first.
        assert router.shard("s3").execute("select 1").one() == (1,)
        assert router.execute("select count(*) from orders").one() == (0,)
        assert router.for_key(key, table="orders").shard == "s2"


def test_a_router_whose_file_stays_behind_is_refused_at_once_after_a_moment(topology_path: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.yaml"
    copy.write_text(Path(topology_path).read_text() + "topology: file\n")
    with Router(copy, reload_interval=60) as behind:
        key = _free(behind, "s0")
        command = ["topology", "pin", str(key), "s2", "--settle", "0"]
        run(command, env={**os.environ, "SHARDPOOL_TOPOLOGY": topology_path}).check_returncode()
        with pytest.raises(ShardUnavailable, match="newer epoch"):
            behind.shard("s1").execute("select 1", timeout=10)
        begun = monotonic()
        with pytest.raises(ShardUnavailable, match="newer epoch"):
            behind.shard("s1").execute("select 1", timeout=10)
        in_time(monotonic() - begun, 0.5)


async def test_many_calls_that_are_held_leave_the_shard_time_for_others(topology_path: str) -> None:
    async with AsyncRouter(topology_path) as router:
        key = next(key for key in range(1000) if router.for_key(key, table="orders").shard == "s1")
        shard = router.shard("s1")
        await shard.execute(NO)
        await shard.execute("create trigger no before insert on orders for each row execute function no()")

        async def write(number: int, timeout: float) -> str:
            try:
                await router.execute(INSERT, (key, number), timeout=timeout)
            except Exception as error:
                return str(getattr(error, "sqlstate", error))
            return ""

        def used() -> int:
            return int(router.stats()["shards"]["s1"]["primary"]["calls"])

        before, begun = used(), monotonic()
        ended = await asyncio.gather(*[write(number, 2.0) for number in range(300)])
        in_time(monotonic() - begun, 2.1)
        # Each has asked the shard a few times only, and is told by it why it was held, or that its time was over.
        assert set(ended) <= {"RS001", "None"}
        assert used() - before < 12 * 300
        calls = [asyncio.create_task(write(number, SLOW)) for number in range(300)]
        await asyncio.sleep(0.5)
        await shard.execute("drop trigger no on orders")
        assert set(await asyncio.gather(*calls)) == {""}


async def test_calls_that_are_cancelled_while_they_are_held_end_at_once(topology_path: str) -> None:
    async with AsyncRouter(topology_path) as router:
        key = next(key for key in range(1000) if router.for_key(key, table="orders").shard == "s1")
        shard = router.shard("s1")
        await shard.execute(NO)
        await shard.execute("create trigger no before insert on orders for each row execute function no()")
        calls = [asyncio.create_task(router.execute(INSERT, (key, number), timeout=5.0)) for number in range(300)]
        await asyncio.sleep(0.5)
        begun = monotonic()
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        in_time(monotonic() - begun, 1.0)
