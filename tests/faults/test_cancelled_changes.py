"""`close()` and `reload()` that are cancelled anywhere: nothing is left behind, and a snapshot is in force whole."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, RouterMisuse, ShardpoolError, Topology
from tests.timing import not_after

from .fleet import FaultFleet


async def _cancelled(call: Any, rng: random.Random) -> bool:
    """Whether it was told so; cancelled once it has begun, up to three times, after some rounds of the loop or later"""
    task = asyncio.ensure_future(call)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if rng.random() < 0.7:
            for _ in range(1 + rng.randrange(25)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(rng.random() * 0.01)
        task.cancel()
    await asyncio.wait({task})
    with suppress(ShardpoolError, psycopg.Error, asyncio.CancelledError):
        task.result()
    return task.cancelled()


async def _use(router: AsyncRouter) -> None:
    """Until it is closed; a busy machine may let nobody in for a while."""
    while True:
        try:
            await router.scatter("select pg_sleep(0.001)", timeout=30.0)
        except RouterMisuse:
            return
        except ShardpoolError:
            await asyncio.sleep(0.01)


def _variants(fleet: FaultFleet, epoch: int) -> Topology:
    """Another topology for each epoch: shards come by another way, or have pools of another size."""
    return fleet.topology(
        epoch=epoch, pool=f"{{max_size: {3 + epoch % 3}}}", direct=tuple(fleet.servers)[: epoch % 5], timeout=30.0
    )


def _others(fleet: FaultFleet, epoch: int) -> Topology:
    topology = fleet.topology(epoch=epoch)
    keyspace = topology.keyspaces["tenants"]
    owners = [replace(entry, shard="s0") for entry in keyspace.owners]
    return replace(topology, keyspaces={"tenants": replace(keyspace, owners=tuple(owners))})


async def test_a_close_that_is_cancelled_leaves_no_connection_and_no_task(fleet: FaultFleet) -> None:
    rng = random.Random("close")
    told = []
    for number in range(15):
        router = AsyncRouter(_variants(fleet, number + 1))
        await router.open()
        using = [asyncio.create_task(_use(router)) for _ in range(3)]
        await router.wait()
        if number % 2:
            await router.reload(_variants(fleet, number + 2))
        if number % 3 == 0:
            await asyncio.wait(using, timeout=0.02)
        elif number % 3 == 1:
            for task in using:
                task.cancel()
            await asyncio.wait(using)
        told.append(await _cancelled(router.close(), rng))
        await _no_task_is_left()
    assert sum(told) > 5
    await _nobody_is_connected(fleet)


async def _no_task_is_left() -> None:
    """A look that was cancelled in the middle of its statement waits 0.4 s for its server to be told."""
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=10)
    assert [repr(task) for task in left] == []


async def _nobody_is_connected(fleet: FaultFleet) -> None:
    end = monotonic() + 30
    while any(fleet.sessions(name) for name in fleet.servers):
        not_after(end, "connections stay open")
        await asyncio.sleep(0.02)


async def test_a_reload_that_is_cancelled_leaves_the_old_or_the_new_topology_whole(fleet: FaultFleet) -> None:
    rng = random.Random("reload")
    async with AsyncRouter(_variants(fleet, 1)) as router:
        using = [asyncio.create_task(_use(router)) for _ in range(3)]
        went: list[bool] = []
        for epoch in range(2, 30):
            # Every fourth has other owners than the shards.
            before, new = router.topology, _variants(fleet, epoch) if epoch % 4 else _others(fleet, epoch)
            pools = _pools(router)
            await _cancelled(router.reload(new), rng)
            assert router.topology.epoch in (before.epoch, new.epoch)
            went.append(router.topology.epoch == new.epoch)
            for pool in pools - _pools(router):
                assert pool.retired and (pool._inner.current is None or pool._inner.current.closed), epoch
            for pool in _pools(router):
                settings = router.topology.shard(pool.shard).primary.pool
                assert not pool.retired
                current = pool._inner.current
                if current is not None and not current.closed:
                    assert (current.min_size, current.max_size) == (settings.min_size, settings.max_size)
        assert True in went and False in went
        await router.wait()
        assert not any(task.done() for task in using)
    await _no_task_is_left()
    await _nobody_is_connected(fleet)


def _pools(router: AsyncRouter) -> set[Any]:
    return {pool for shard in router._fleet.snapshot.shards.values() for pool in shard.endpoints}


async def test_a_reload_that_comes_while_the_router_closes_opens_nothing(fleet: FaultFleet) -> None:
    router = AsyncRouter(_variants(fleet, 1))
    await router.open()
    await router.wait()
    closing = asyncio.create_task(router.close())
    await asyncio.sleep(0)
    with pytest.raises(ShardpoolError, match="closed"):
        await router.reload(_variants(fleet, 2))
    await closing
