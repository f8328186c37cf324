"""Transactions that wait for each other on different shards: one of them is made to fail, and begun again."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import psycopg
import pytest

from shardpool import AsyncFleetTransaction, AsyncRouter, DistributedDeadlock, FleetTransaction, Router

KEYSPACES = """\
defaults: {timeout: 60s}
keyspaces:
  tenants:
    key: bigint
    hash:
      function: murmur3
      buckets: 4096
      owners: {s0: 0-1023, s1: 1024-2047, s2: 2048-3071, s3: 3072-4095}
    tables: {accounts: id}
"""
SCHEMA = "create table accounts (id bigint primary key, v int not null);"
ADD = "update accounts set v = v + %s where id = %s"
# By default a second and a half, on a machine that has time for it.
_SECONDS = 15.0


@pytest.fixture
def path(shardpool_make_topology: Callable[..., Path]) -> str:
    return str(shardpool_make_topology(KEYSPACES, SCHEMA))


@pytest.fixture
def bank(path: str) -> Iterator[Router]:
    with Router(path) as router:
        router.execute(f"insert into accounts values {', '.join(f'({key}, 100)' for key in range(12))}")
        yield router


def keys(router: Router | AsyncRouter) -> list[int]:
    """A key of each shard."""
    owned = {router.for_key(key).shard: key for key in range(12)}
    return [owned[name] for name in router.shards]


def meet(bank: Router, pairs: list[tuple[int, int]], write: Callable[[FleetTransaction, int], object]) -> list[object]:
    """Transactions that each write at their first key, and when all have done that, at their second."""
    barrier = threading.Barrier(len(pairs))
    outcomes: list[object] = [None] * len(pairs)

    def work(number: int) -> None:
        begun = monotonic()
        try:
            with bank.transaction() as tx:
                write(tx, pairs[number][0])
                barrier.wait(60)
                begun = monotonic()
                write(tx, pairs[number][1])
            outcomes[number] = "done"
        except DistributedDeadlock as error:
            outcomes[number] = error
            assert monotonic() - begun < _SECONDS

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(pairs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def test_one_of_those_in_a_circle_fails_and_names_the_statements(bank: Router) -> None:
    for count in (2, 3, 2, 2):
        around = keys(bank)[:count]
        outcomes = meet(
            bank, list(zip(around, around[1:] + around[:1], strict=True)), lambda tx, key: tx.execute(ADD, (1, key))
        )
        (error,) = [error for error in outcomes if isinstance(error, DistributedDeadlock)]
        assert outcomes.count("done") == count - 1
        assert isinstance(error, psycopg.errors.DeadlockDetected) and error.sqlstate == "40P01"
        assert str(error).count("update accounts set v = v + $1 where id = $2") == count
        assert "deadlock over shards" in str(error) and "run()" in str(error)
    assert bank.execute("select sum(v) from accounts").one() == (1210,)
    assert bank.stats()["transactions"]["deadlock"] == 4
    # On connections that are lent, too.
    first, second, *_ = keys(bank)
    outcomes = meet(bank, [(first, second), (second, first)], lambda tx, key: tx.connection(key).execute(ADD, (1, key)))
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["DistributedDeadlock", "str"]


def test_who_waits_and_is_in_no_circle_goes_on(bank: Router) -> None:
    first, second, third, _ = keys(bank)
    waited = []

    def wait() -> None:
        with bank.transaction() as tx:
            tx.execute(ADD, (1, second))
            waited.append(tx.execute(ADD, (1, first)).rowcount)

    with bank.transaction() as tx:
        tx.execute(ADD, (1, first))
        thread = threading.Thread(target=wait)
        thread.start()
        looked = "select count(*)::int from pg_stat_activity where application_name = 'shardpool deadlocks'"
        limit = monotonic() + 60
        while bank.shard("s0").execute(looked).one() == (0,):
            assert monotonic() < limit
            threading.Event().wait(0.02)
        tx.execute(ADD, (1, third))
    thread.join()
    assert waited == [1]
    # Nobody looks any more when nobody waits.
    while bank.shard("s0").execute(looked).one() != (0,):
        assert monotonic() < limit
        threading.Event().wait(0.02)


_OTHER = """
import sys
from shardpool import Router
first, second = map(int, sys.argv[2:])
with Router(sys.argv[1]) as router:
    def write(tx):
        tx.execute("update accounts set v = v + 10 where id = %s", (first,))
        print("first", flush=True)
        tx.execute("update accounts set v = v + 10 where id = %s", (second,))
    router.run(write)
print("done", flush=True)
"""


def test_transactions_of_two_processes_are_begun_again_by_run(bank: Router, path: str) -> None:
    first, second, *_ = keys(bank)
    tries = 0
    command = [sys.executable, "-c", _OTHER, path, str(second), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout is not None

            def write(tx: FleetTransaction) -> None:
                nonlocal tries
                tries += 1
                tx.execute(ADD, (1, first))
                if tries == 1:
                    assert other.stdout is not None and other.stdout.readline() == "first\n"
                tx.execute(ADD, (1, second))

            bank.run(write)
            # The later one gives way, whichever process it is of.
            assert [line for line in other.stdout if line == "done\n"] == ["done\n"]
        finally:
            other.kill()
    assert bank.execute("select sum(v) from accounts").one() == (1222,)


def test_tasks(bank: Router, path: str) -> None:
    async def main() -> None:
        async with AsyncRouter(path) as router:
            first, second, *_ = keys(router)
            barrier = asyncio.Barrier(2)
            tries: list[int] = []

            async def write(one: int, other: int) -> None:
                async def body(tx: AsyncFleetTransaction) -> None:
                    tries.append(one)
                    await tx.execute(ADD, (1, one))
                    if len(tries) <= 2:
                        await barrier.wait()
                    await tx.execute("update accounts set v = v + 1 where id = any (%s)", ([other],))

                await router.run(body)

            await asyncio.gather(write(first, second), write(second, first))
            assert len(tries) == 3
            assert (await router.execute("select sum(v) from accounts")).one() == (1204,)

    asyncio.run(main())
