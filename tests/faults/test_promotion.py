"""A primary that became a standby is noticed, and a standby that was promoted is found."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import Router, ShardpoolError, ShardUnavailable, Topology
from shardpool.local.server import Server
from tests.timing import in_time

from .calls import Calls
from .fleet import DATABASE
from .pair import Pair, wait_until
from .proxy import Delay, Pass, Refuse

FOUND_SECONDS = 1.0
INSERT = "insert into ledger values (%s, %s)"
KEY = 7


def _first_success(calls: Calls, seconds: float) -> float | None:
    """Seconds until a write is acknowledged."""
    begun = monotonic()
    while monotonic() - begun < seconds:
        try:
            calls.go(calls.execute(KEY, INSERT, (KEY, 1), timeout=1.0))
        except (ShardpoolError, psycopg.Error):
            Event().wait(0.02)
        else:
            return monotonic() - begun
    return None


def test_an_address_that_leads_to_a_standby_refuses_after_the_first_write(
    pair: Pair, open_pair: Callable[[Topology], Calls]
) -> None:
    calls = open_pair(pair.by_role)
    calls.go(calls.execute(KEY, INSERT, (KEY, 1)))
    pair.proxies[0].point_at(("127.0.0.1", pair.standby.port))
    errors: list[BaseException] = []
    for number in range(20):
        with pytest.raises((ShardpoolError, psycopg.Error)) as raised:
            calls.go(calls.execute(KEY, INSERT, (KEY, 100 + number)))
        errors.append(raised.value)
        Event().wait(0.02)
    read_only = [error for error in errors if isinstance(error, psycopg.errors.ReadOnlySqlTransaction)]
    assert len(read_only) <= 2, f"{len(read_only)} of {len(errors)} writes were sent to a standby"
    assert isinstance(errors[-1], ShardUnavailable)
    pair.standby.promote()
    seconds = _first_success(calls, 5)
    in_time(seconds, FOUND_SECONDS)


def test_a_promoted_standby_is_found_within_a_second(pair: Pair, open_pair: Callable[[Topology], Calls]) -> None:
    calls = open_pair(pair.by_hosts)
    calls.go(calls.execute(KEY, INSERT, (KEY, 1)))
    pair.primary.kill()
    with pytest.raises((ShardpoolError, psycopg.Error)):
        calls.go(calls.execute(KEY, INSERT, (KEY, 2)))
    Event().wait(0.5)
    pair.standby.promote()
    seconds = _first_success(calls, 8)
    in_time(seconds, FOUND_SECONDS)
    with Router(pair.by_hosts) as fresh:
        told = [(finding.subject, finding.message) for finding in fresh.check().findings if finding.level != "ok"]
    assert not [message for subject, message in told if subject == "s0/node-2"]
    assert ("s0/node-1", "cannot be reached: not read from") in told


def test_a_promoted_standby_is_found_while_the_old_primary_is_frozen(
    pair: Pair, open_pair: Callable[[Topology], Calls]
) -> None:
    calls = open_pair(pair.by_hosts)
    calls.go(calls.execute(KEY, INSERT, (KEY, 1)))
    pair.primary.pause()
    try:
        with pytest.raises((ShardpoolError, psycopg.Error)):
            calls.go(calls.execute(KEY, INSERT, (KEY, 2), timeout=1.0))
        pair.standby.promote()
        seconds = _first_success(calls, 8)
    finally:
        pair.primary.resume()
    in_time(seconds, FOUND_SECONDS)


def test_writes_that_wait_for_a_primary_get_it_over_a_reload(pair: Pair, open_pair: Callable[..., Calls]) -> None:
    calls = open_pair(pair.by_hosts)
    calls.go(calls.execute(KEY, INSERT, (KEY, 1)))
    pair.primary.kill()
    with pytest.raises((ShardpoolError, psycopg.Error)):
        calls.go(calls.execute(KEY, INSERT, (KEY, 2), timeout=0.5))
    held = calls.spawn(calls.execute(KEY, "select pg_is_in_recovery()", timeout=10.0))
    Event().wait(0.3)
    calls.go(calls.reload(pair.by_hosts))
    pair.standby.promote()
    assert held.result(5.0) == [(False,)]


def test_a_forked_child_finds_a_new_primary_too(pair: Pair) -> None:
    with Router(pair.by_hosts) as router:
        route = router.for_key(KEY)
        route.execute(INSERT, (KEY, 1))
        ready, go = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(_child(route, ready))
        pair.standby.promote()
        # The old primary's address leads to the new one's standby from now on: connections are made, and cannot write.
        pair.proxies[0].reset_all()
        with pair.primary.connect() as conn:
            conn.execute("alter system set default_transaction_read_only = on")
            conn.execute("select pg_reload_conf()")
        os.write(go, b"x")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def _child(route: Any, ready: int) -> int:
    try:
        route.execute("select 1")
        os.read(ready, 1)
        end = monotonic() + 20
        while monotonic() < end:
            with suppress(ShardpoolError, psycopg.Error):
                route.execute(INSERT, (KEY, 2), timeout=1.0)
                return 0
            Event().wait(0.05)
    except BaseException:
        return 2
    return 1


def _rows(server: Server) -> int:
    with server.connect("postgres", DATABASE) as conn:
        return len(conn.execute("select from ledger").fetchall())


def test_of_two_primaries_the_older_never_gets_a_write(pair: Pair, open_pair: Callable[..., Calls]) -> None:
    pair.standby.promote()
    # It answers later than the other, which has missed its demotion.
    pair.proxies[1].set(Delay(0.01))
    for number in range(3):
        calls = open_pair(pair.by_hosts)
        calls.go(calls.execute(KEY, INSERT, (KEY, number)))
        assert (_rows(pair.primary), _rows(pair.standby)) == (0, number + 1)


def test_an_old_primary_that_comes_back_at_the_promotion_gets_no_write(
    pair: Pair, open_pair: Callable[..., Calls]
) -> None:
    calls = open_pair(pair.by_hosts)
    calls.go(calls.execute(KEY, INSERT, (KEY, 1)))
    wait_until(lambda: _rows(pair.standby) == 1)
    pair.proxies[0].set(Refuse())
    with pytest.raises((ShardpoolError, psycopg.Error)):
        calls.go(calls.execute(KEY, INSERT, (KEY, 2), timeout=0.5))
    held = [calls.spawn(calls.execute(KEY, INSERT, (KEY, number), timeout=5.0)) for number in range(3, 9)]
    Event().wait(0.2)
    pair.proxies[1].set(Delay(0.01))
    pair.standby.promote()
    pair.proxies[0].set(Pass())
    for write in held:
        write.result(6.0)
    assert (_rows(pair.primary), _rows(pair.standby)) == (1, 7)
