"""G10: a cancelled call leaks nothing, wherever it was; and a fork is safe."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, Router, ShardpoolError
from tests.timing import in_time, not_after

from .calls import Calls
from .fleet import FaultFleet
from .proxy import BlackHole

CANCELS = 2000
MAX_SIZE = 4

Verb = Callable[[AsyncRouter, int], Awaitable[Any]]


async def _run(router: AsyncRouter, key: int) -> None:
    async def function(conn: Any) -> None:
        await conn.execute("insert into ledger values (%s, 1)", (key,))
        await conn.execute("select 1")

    await router.for_key(key).run(function, timeout=20)


async def _connection(router: AsyncRouter, key: int) -> None:
    async with router.for_key(key).connection(timeout=20, block_timeout=20) as conn:
        await conn.execute("insert into ledger values (%s, 2)", (key,))
        await conn.execute("select 1")


async def _stream(router: AsyncRouter, key: int) -> None:
    rows: Any = router.stream("select tenant_id, id from ledger order by id", size=5, timeout=20)
    async with aclosing(rows):
        async for _ in rows:
            pass


VERBS: dict[str, Verb] = {
    "execute": lambda router, key: router.for_key(key).execute("select pg_sleep(0.001)", timeout=20),
    "query": lambda router, key: router.execute("select count(*) from ledger", timeout=20),
    "run": _run,
    "scatter": lambda router, key: router.scatter("select 1", timeout=20),
    "connection": _connection,
    "stream": _stream,
}


async def test_two_thousand_cancelled_calls_leave_every_pool_as_it_was(fleet: FaultFleet) -> None:
    rng = random.Random(11)
    keys = [key for keys in fleet.keys(3).values() for key in keys]
    fall_outs: list[BaseException] = []

    async def caller(share: int) -> None:
        for _ in range(share):
            task = asyncio.ensure_future(_as_coroutine(VERBS[rng.choice(list(VERBS))](router, rng.choice(keys))))
            await asyncio.sleep(rng.choice((0, 0.0002, 0.001, 0.004)) * rng.random())
            task.cancel()
            try:
                await task
            except asyncio.CancelledError:
                pass
            except (ShardpoolError, psycopg.Error) as error:
                fall_outs.append(error)

    async with AsyncRouter(
        fleet.topology(pool=f"{{max_size: {MAX_SIZE}}}", timeout=20.0, direct=tuple(fleet.servers))
    ) as router:
        await router.execute("select count(*) from ledger")
        async with asyncio.timeout(90):
            await asyncio.gather(*(caller(CANCELS // 10) for _ in range(10)))
        assert [repr(error) for error in fall_outs] == []
        await _settled(router)
        for name in router.shards:
            stats = router.stats()["shards"][name]["primary"]
            assert (stats["in_flight"], stats["waiting"]) == (0, 0), name
            assert stats["pool"]["pool_size"] <= MAX_SIZE
            open_transactions = await asyncio.to_thread(_in_transaction, fleet, name)
            assert open_transactions == [], name
            await _serves_all_at_once(router, name)


async def _as_coroutine(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


async def _settled(router: AsyncRouter) -> None:
    """What a cancelled call has left to be done in the background gets some time."""
    end = monotonic() + 20
    while monotonic() < end and any(  # noqa: ASYNC110
        shard["primary"]["in_flight"] for shard in router.stats()["shards"].values()
    ):
        await asyncio.sleep(0.02)


def _in_transaction(fleet: FaultFleet, name: str) -> list[Any]:
    with suppress(AssertionError):
        fleet.settle(name)
    return [session for session in fleet.sessions(name) if session[1] != "idle"]


async def _serves_all_at_once(router: AsyncRouter, name: str) -> None:
    """As many callers as the pool is to hold have a connection at the same time."""
    together = asyncio.Barrier(MAX_SIZE)

    async def one() -> None:
        async with router.shard(name).connection(timeout=5) as conn:
            await conn.execute("select 1")
            async with asyncio.timeout(5):
                await together.wait()

    await asyncio.gather(*(one() for _ in range(MAX_SIZE)))


@pytest.mark.parametrize("verb", ["execute", "run", "connection", "scatter", "query", "stream"])
async def test_a_call_that_is_cancelled_on_a_frozen_server_ends_by_its_deadline(verb: str, fleet: FaultFleet) -> None:
    key = fleet.keys(1)["s1"][0]
    async with AsyncRouter(fleet.topology(direct=tuple(fleet.servers))) as router:
        await VERBS[verb](router, key)
        await router.scatter("select 1")
        fleet.servers["s1"].pause()
        begun = monotonic()
        with suppress(TimeoutError, ShardpoolError, psycopg.Error):
            async with asyncio.timeout(0.3):
                await _UNDER_A_SECOND[verb](router, key)
        seconds = monotonic() - begun
        fleet.servers["s1"].resume()
        await _settled(router)
        assert router.stats()["shards"]["s1"]["primary"]["in_flight"] == 0
    in_time(seconds, 1.1)


async def _run_in_a_second(router: AsyncRouter, key: int) -> None:
    async def function(conn: Any) -> None:
        await conn.execute("select 1")

    await router.for_key(key).run(function, timeout=1)


async def _connection_in_a_second(router: AsyncRouter, key: int) -> None:
    async with router.for_key(key).connection(timeout=1, block_timeout=1) as conn:
        await conn.execute("select 1")


async def _stream_in_a_second(router: AsyncRouter, key: int) -> None:
    rows: Any = router.stream("select id from ledger order by id", timeout=1)
    async with aclosing(rows):
        async for _ in rows:
            pass


_UNDER_A_SECOND: dict[str, Verb] = {
    "execute": lambda router, key: router.for_key(key).execute("select 1", timeout=1),
    "query": lambda router, key: router.execute("select count(*) from ledger", timeout=1),
    "run": _run_in_a_second,
    "scatter": lambda router, key: router.scatter("select 1", timeout=1),
    "connection": _connection_in_a_second,
    "stream": _stream_in_a_second,
}


# -- requests to cancel that come late -----------------------------------------------------------------------------


def test_a_request_to_cancel_that_the_server_takes_up_late_ends_nothing_of_others(
    open_calls: Callable[..., Calls], fleet: FaultFleet
) -> None:
    """Its postmaster, which hears the request, is stopped for a moment; the process of the answer goes on."""
    calls = open_calls(fleet.topology(pool="{max_size: 1}", timeout=5.0, direct=tuple(fleet.servers)))
    calls.go(calls.copy_into([(number, 1) for number in range(3000)]))
    calls.go(calls.scatter("select 1"))
    postmasters = [server.pid for server in fleet.servers.values() if server.pid is not None]
    try:
        for pid in postmasters:
            os.kill(pid, signal.SIGSTOP)
        calls.go(calls.stream_one("select * from ledger"))
        nexts = [
            calls.spawn(calls.execute(keys[0], "select count(*) from generate_series(1, 3000000)", timeout=20))
            for keys in fleet.keys(1).values()
        ]
    finally:
        for pid in postmasters:
            os.kill(pid, signal.SIGCONT)
    assert [call.result(30) for call in nexts] == [[(3000000,)]] * len(nexts)


# -- fork ------------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "with calls in flight"])
def test_a_forked_child_and_its_parent_both_use_the_router(busy: bool, fleet: FaultFleet) -> None:
    keys = [key for keys in fleet.keys(2).values() for key in keys]
    ended = threading.Event()
    errors: list[BaseException] = []

    def call() -> None:
        while not ended.is_set():
            try:
                _ask_each(router, keys)
            except BaseException as error:
                errors.append(error)

    with Router(fleet.topology(timeout=5.0)) as router:
        _ask_each(router, keys)
        threads = [threading.Thread(target=call, daemon=True) for _ in range(4 if busy else 0)]
        for thread in threads:
            thread.start()
        children = [_forked(lambda: _ask_each(router, keys)) for _ in range(3)]
        statuses = [_status(child) for child in children]
        _ask_each(router, keys)
        ended.set()
        for thread in threads:
            thread.join(10)
    assert statuses == [0] * 3
    assert [repr(error) for error in errors] == []


def _ask_each(router: Router, keys: list[int]) -> None:
    for key in keys:
        assert router.for_key(key).execute("select %s::int", (key,)).one() == (key,)
    assert len(router.scatter("select 1")) == 4


def _forked(function: Callable[[], None]) -> int:
    """A child that ends with 0 when the function did not raise."""
    child = os.fork()
    if child:
        return child
    try:
        function()
        os._exit(0)
    except BaseException:
        os._exit(1)


def _status(child: int) -> int:
    """How a child ended; -9 when it did not within ten seconds."""
    end = monotonic() + 10
    while monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        threading.Event().wait(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -9


# -- the end of the interpreter --------------------------------------------------------------------------------------


_SYNC = """
    import sys, threading
    from shardpool import Router
    router = Router(sys.argv[1])
    router.open()
    router.scatter("select 1")
    for name in router.shards:
        threading.Thread(target=router.shard(name).execute, args=("select pg_sleep(8)",), daemon=True).start()
    sys.stdin.readline()
    print("ends", flush=True)
"""
_ASYNC = """
    import asyncio, sys
    from shardpool import AsyncRouter
    async def main():
        router = AsyncRouter(sys.argv[1])
        await router.open()
        await router.scatter("select 1")
        tasks = [asyncio.create_task(router.shard(name).execute("select pg_sleep(8)")) for name in router.shards]
        await asyncio.to_thread(sys.stdin.readline)
        print("ends", flush=True)
    asyncio.run(main())
"""


async def test_a_pool_that_is_cancelled_while_it_connects_ends_with_its_loop(fleet: FaultFleet) -> None:
    """As `asyncio.run` does it with what a router that was left open still does."""
    before = asyncio.all_tasks()
    router = AsyncRouter(fleet.topology(timeout=20.0))
    await router.open()
    for proxy in fleet.proxies.values():
        proxy.set(BlackHole())
    call = asyncio.create_task(router.shard("s1").execute("select 1"))
    while not router._fleet.snapshot.shards["s1"].primary._connector.connecting:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    left = asyncio.all_tasks() - before
    for task in left:
        task.cancel()
    _, going = await asyncio.wait(left, timeout=20)
    assert not going
    assert call.cancelled()


@pytest.mark.parametrize("frozen", [False, True], ids=["well", "frozen"])
@pytest.mark.parametrize("program", [_SYNC, _ASYNC], ids=["sync", "async"])
def test_an_interpreter_that_exits_with_calls_under_way_is_gone_soon(
    program: str, frozen: bool, fleet: FaultFleet, tmp_path: Any
) -> None:
    file = tmp_path / "topology.yaml"
    file.write_text(fleet.text(timeout=6.0))
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program), str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        for name in fleet.servers:
            _wait_for_sleepers(fleet, name)
        if frozen:
            fleet.servers["s1"].pause()
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"ends\n", process.stderr and process.stderr.read()
        begun = monotonic()
        process.wait(8)
        in_time(monotonic() - begun, 2.0)
    finally:
        process.kill()
        process.communicate()


def _wait_for_sleepers(fleet: FaultFleet, name: str) -> None:
    end = monotonic() + 60
    while not any("pg_sleep" in session[2] for session in fleet.sessions(name)):
        not_after(end)
        threading.Event().wait(0.01)
