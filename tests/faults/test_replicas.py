"""Reads of replicas: what one of them cannot answer another does, over reloads too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from threading import Event
from time import monotonic

import pytest

from shardpool import ShardpoolError
from shardpool.tokens import Token

from .calls import Calls
from .pair import Pair, wait_until
from .proxy import Refuse

KEY = 7
READ = "select count(*) from ledger"


def _uses_replica(calls: Calls) -> bool:
    return calls.go(calls.execute(KEY, "select pg_is_in_recovery()", readonly=True)) == [(True,)]


@pytest.mark.parametrize("options", [{}, {"hedge": True}], ids=["plain", "hedged"])
def test_reads_go_elsewhere_when_their_replica_refuses(
    options: dict[str, bool], pair: Pair, open_pair: Callable[..., Calls]
) -> None:
    calls = open_pair(pair.with_replica)
    wait_until(lambda: _uses_replica(calls))
    pair.proxies[1].set(Refuse())
    for _ in range(100):
        assert calls.go(calls.execute(KEY, READ, readonly=True, **options)) == [(0,)]
        Event().wait(0.005)


def test_reads_of_all_shards_go_elsewhere_when_a_replica_refuses(pair: Pair, open_pair: Callable[..., Calls]) -> None:
    calls = open_pair(pair.with_replica)
    wait_until(lambda: _uses_replica(calls))
    pair.proxies[1].set(Refuse())
    with suppress(ShardpoolError):
        # On a connection that is lost under it: it is not asked again.
        calls.go(calls.scatter(READ, readonly=True))
    for number in range(20):
        found = calls.go(calls.scatter(READ, readonly=True, partial=number % 2 == 0))
        assert list(found) == ["s0"] and not found.missing
        Event().wait(0.005)


@pytest.mark.parametrize("kind_of_read", ["after", "hedged"])
def test_reads_of_replicas_go_on_over_reloads(kind_of_read: str, pair: Pair, open_pair: Callable[..., Calls]) -> None:
    calls = open_pair(pair.with_replica)
    token: Token = calls.go(calls.token(KEY))
    wait_until(lambda: _uses_replica(calls))
    options = {"after": token} if kind_of_read == "after" else {"hedge": True}
    failures: list[BaseException] = []
    ended: list[bool] = []

    async def read() -> None:
        while not ended:
            try:
                await calls.execute(KEY, READ, readonly=True, timeout=5.0, **options)
            except ShardpoolError as error:
                failures.append(error)
            await calls.pause(0)

    readers = [calls.spawn(read()) for _ in range(4)]
    first, second = (proxy.port for proxy in pair.proxies)
    shard = f"primary: {{host: 127.0.0.1, port: {first}}}, replicas: [{{host: 127.0.0.1, port: {second}}}]"
    end = monotonic() + 2.0
    epoch = 1
    while monotonic() < end:
        epoch += 1
        calls.go(calls.reload(pair.topology(shard, epoch=epoch, connect=f", application_name: at-{epoch}")))
        Event().wait(0.02)
    ended.append(True)
    for reader in readers:
        reader.result(10)
    assert not failures
