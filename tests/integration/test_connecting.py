"""Servers that take a connection and then say nothing, pools that open and close, and what a refused server is told as.

A server that freezes is a proxy before a real one that stops to pass bytes on.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, DeadlineExceeded, Router, RouterMisuse, ScatterError, ShardUnavailable, Topology
from shardpool._endpoint.refusals import Retired
from shardpool.operations.connections import open_link
from tests.timing import in_time

READY_FOR_QUERY = b"Z\x00\x00\x00\x05I"


class Proxy:
    """Passes bytes between clients and a server, until it is told to swallow them."""

    def __init__(self, host: str, port: int) -> None:
        self.freezes_after_startup = False
        self.frozen = False
        self._server = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self.port: int = self._listener.getsockname()[1]
        self._run(self._accept)

    def close(self) -> None:
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _run(self, function: Callable[..., None], *arguments: Any) -> None:
        threading.Thread(target=function, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
                self._sockets += [client, server]
                swallows = threading.Event()
                self._run(self._pass_on, client, server, swallows)
                self._run(self._pass_on, server, client, swallows)

    def _pass_on(self, source: socket.socket, target: socket.socket, swallows: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if swallows.is_set() or self.frozen:
                    continue
                if self.freezes_after_startup and READY_FOR_QUERY in data:
                    swallows.set()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(router: Router) -> Iterator[Proxy]:
    """A proxy before the server of s0."""
    params = dict(router.topology.shards["s0"].primary.params)
    made = Proxy(params["host"], int(params["port"]))
    yield made
    made.close()


def through(topology: Topology, proxy: Proxy, **params: str) -> Topology:
    """The topology with the proxy in the place of the server of s0."""
    shard = topology.shards["s0"]
    changed = {**dict(shard.primary.params), "host": "127.0.0.1", "port": str(proxy.port), **params}
    primary = replace(shard.primary, params=tuple(sorted(changed.items())))
    return replace(topology, shards={**topology.shards, "s0": replace(shard, primary=primary)})


def test_a_server_that_freezes_when_it_has_let_us_in_is_unavailable_and_is_found_again(
    router: Router, proxy: Proxy
) -> None:
    proxy.freezes_after_startup = True
    with Router(through(router.topology, proxy, connect_timeout="2")) as through_proxy:
        shard = through_proxy.shard("s0")
        started = monotonic()
        with pytest.raises(ShardUnavailable, match="shard s0 cannot be used: it did not answer in time"):
            shard.execute("select 1", timeout=6)
        assert 1.9 < monotonic() - started < 20
        proxy.freezes_after_startup = False
        started = monotonic()
        through_proxy.wait(2)
        assert shard.execute("select 1", timeout=2).rows == [(1,)]
        in_time(monotonic() - started, 2)


def test_what_configure_asks_of_a_frozen_server_is_bounded_too(router: Router, proxy: Proxy) -> None:
    def configure(conn: psycopg.Connection[Any]) -> None:
        proxy.frozen = asked.append(1) is None and len(asked) == 1
        conn.execute("select 1")
        conn.commit()

    asked: list[int] = []
    with Router(through(router.topology, proxy, connect_timeout="2"), configure=configure) as configured:
        with pytest.raises(ShardUnavailable, match="it did not answer in time"):
            configured.shard("s0").execute("select 1", timeout=6)
        proxy.frozen = False
        sleep(0.1)
        configured.wait(2)
        assert configured.shard("s0").execute("select 1", timeout=2).rows == [(1,)]


def test_giving_back_an_open_transaction_of_a_frozen_server_is_bounded(router: Router, proxy: Proxy) -> None:
    with Router(through(router.topology, proxy, connect_timeout="2")) as through_proxy:
        shard = through_proxy.shard("s0")
        lent = shard.getconn()
        lent.execute("select 1")
        proxy.frozen = True
        giver = threading.Thread(target=shard.putconn, args=(lent,), daemon=True)
        giver.start()
        giver.join(3)
        assert not giver.is_alive()
        assert lent.closed
        proxy.frozen = False
        through_proxy.wait(5)


async def test_a_task_that_is_cancelled_giving_back_to_a_frozen_server_is_free_and_loses_no_place(
    router: Router, proxy: Proxy
) -> None:
    async with AsyncRouter(through(router.topology, proxy, connect_timeout="2")) as through_proxy:
        shard = through_proxy.shard("s0")
        lent = await shard.getconn()
        await lent.execute("select 1")
        proxy.frozen = True
        giver = asyncio.create_task(shard.putconn(lent))
        await asyncio.sleep(0.2)
        giver.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.wait_for(giver, 0.5)
        await asyncio.sleep(1.2)
        assert lent.closed
        assert through_proxy.stats()["shards"]["s0"]["primary"]["in_flight"] == 0
        proxy.frozen = False
        await through_proxy.wait(5)


def test_an_open_transaction_is_rolled_back_when_it_is_given_back(router: Router) -> None:
    shard = router.shard("s0")
    lent = shard.getconn()
    pid = lent.info.backend_pid
    lent.execute("insert into audit_log values ('never')")
    shard.putconn(lent)
    assert shard.execute("select count(*), pg_backend_pid() from audit_log").rows == [(0, pid)]


def within(seconds: float, function: Callable[[], Any]) -> Any:
    """What the function gives or raises, which must be there within so many seconds."""
    outcomes: list[Any] = []

    def run() -> None:
        try:
            outcomes.append(function())
        except BaseException as error:
            outcomes.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    assert outcomes, f"still at it after {seconds:g} s"
    return outcomes[0]


def test_a_pool_that_could_not_be_opened_is_opened_by_the_next_call(router: Router) -> None:
    usual = threading.stack_size(2**47)  # No thread gets such a stack, so that the pool's cannot start.
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            router.shard("s0").execute("select 1")
    finally:
        threading.stack_size(usual)
    assert within(5, lambda: router.shard("s0").execute("select 1", timeout=2).rows) == [(1,)]


def test_a_pool_that_was_closed_under_the_router_is_replaced(router: Router) -> None:
    router.scatter("select 1")
    inner = router._fleet.snapshot.shards["s0"].primary._inner.current
    assert inner is not None
    inner.close()
    assert within(5, lambda: router.shard("s0").execute("select 1").rows) == [(1,)]
    assert router._fleet.snapshot.shards["s0"].primary._inner.current is not inner


def test_a_pool_that_is_closed_while_it_is_opened_stays_closed(router: Router) -> None:
    pool = router._fleet.snapshot.shards["s0"].primary
    outcomes: list[BaseException] = []

    def take() -> None:
        try:
            pool.take(monotonic() + 3)
        except Exception as error:
            outcomes.append(error)

    opener = threading.Thread(target=take)
    with pool._inner._making:
        opener.start()
        sleep(0.2)
        pool.close()
    opener.join()
    assert [type(error) for error in outcomes] == [Retired]
    assert pool._inner.current is None or pool._inner.current.closed
    assert pool.in_flight == 0


def test_a_pool_that_stays_retired_ends_a_scatter_at_its_deadline(router: Router) -> None:
    router._fleet.snapshot.shards["s1"].primary.close()
    error = within(3, lambda: router.scatter("select 1", timeout=0.5))
    assert isinstance(error, ScatterError)
    assert isinstance(error.failures["s1"], DeadlineExceeded)


def test_a_pool_that_stays_retired_ends_a_wait_at_its_deadline(router: Router) -> None:
    router._fleet.snapshot.shards["s1"].primary.close()
    error = within(3, lambda: router.wait(0.5))
    assert isinstance(error, ScatterError)
    assert list(error.failures) == ["s1/primary"]


@pytest.mark.parametrize("gone", [False, True], ids=["corrected", "taken away"])
def test_a_wait_goes_on_with_the_topology_that_a_reload_brings(router: Router, proxy: Proxy, gone: bool) -> None:
    good = router.topology
    wrong = through(good, proxy, port="1")
    extra = replace(wrong.shards["s0"], name="s9")
    with Router(replace(wrong, shards={**(good.shards if gone else wrong.shards), "s9": extra})) as waiting:
        threading.Timer(0.5, lambda: waiting.reload(replace(good, epoch=good.epoch + 1))).start()
        assert within(8, lambda: waiting.wait(5)) is None


def test_a_server_of_a_newer_epoch_says_that_the_topology_is_to_be_reloaded(router: Router) -> None:
    newer = "update shardpool.owner set epoch = 7 where keyspace = 'tenants' and shard = 's1'"
    router.shard("s1").execute(newer)
    with Router(router.topology) as stale:
        with pytest.raises(ShardUnavailable) as raised:
            stale.shard("s1").execute("select 1")
        assert raised.value.message == "shard s1 cannot be used: its owners are of a newer epoch"
        assert raised.value.hint == "Call reload(), with the topology file of epoch 7."
        stale.reload(replace(router.topology, epoch=7))
        assert stale.shard("s1").execute("select 1").rows == [(1,)]


def test_a_replica_that_cannot_be_reached_is_not_told_as_late(router: Router) -> None:
    shard = router.topology.shards["s2"]
    params = tuple(sorted({**dict(shard.primary.params), "port": "1"}.items()))
    replica = replace(shard.primary, name="replica-1", role="replica", params=params)
    topology = replace(router.topology, shards={**router.topology.shards, "s2": replace(shard, replicas=(replica,))})
    with Router(topology) as partly:
        told = [f"{f.level}: {f.message}" for f in partly.check().findings if f.subject == "s2/replica-1"]
    assert told[0].startswith("error: ") and "refused" in told[0]
    assert told[1:] == ["warning: cannot be reached: not read from"]


def test_the_lag_behind_a_primary_that_cannot_be_reached_is_not_known(router: Router) -> None:
    shard = router.topology.shards["s2"]
    params = tuple(sorted({**dict(shard.primary.params), "port": "1"}.items()))
    replica = replace(shard.primary, name="replica-1", role="replica")
    without = replace(shard, primary=replace(shard.primary, params=params), replicas=(replica,))
    with Router(replace(router.topology, shards={**router.topology.shards, "s2": without})) as partly:
        told = [f.message for f in partly.check().warnings if f.subject == "s2/replica-1" and "read from" in f.message]
    assert told == ["its lag is not known, for its primary cannot be reached: not read from"]


def test_raw_cursors_are_refused_where_they_would_be_the_default(topology_path: str) -> None:
    with pytest.raises(RouterMisuse, match=r"placeholders like %s"):
        Router(topology_path, kwargs={"cursor_factory": psycopg.RawCursor})

    def configure(conn: psycopg.Connection[Any]) -> None:
        conn.cursor_factory = psycopg.RawCursor

    with Router(topology_path, configure=configure) as router, pytest.raises(ShardUnavailable, match="placeholders"):
        router.shard("s0").execute("select 1", timeout=5)
    with Router(topology_path) as router, router.shard("s0").connection() as conn:
        assert psycopg.RawCursor(conn).execute("select $1::int", [1]).fetchone() == (1,)


async def test_a_link_that_waits_without_a_limit_asks_whether_its_host_is_there(router: Router) -> None:
    async with open_link(router.topology, "s0") as conn:
        told = conn.info.get_parameters()
    assert (told["keepalives_idle"], told["tcp_user_timeout"]) == ("10", "30000")
    shard = router.topology.shards["s0"]
    primary = replace(shard.primary, params=(*shard.primary.params, ("tcp_user_timeout", "7000")))
    topology = replace(router.topology, shards={**router.topology.shards, "s0": replace(shard, primary=primary)})
    async with open_link(topology, "s0") as conn:
        told = conn.info.get_parameters()
    assert (told["keepalives_idle"], told["tcp_user_timeout"]) == ("10", "7000")
