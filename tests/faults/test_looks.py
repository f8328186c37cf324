"""Looks for DDL at a shard that is slow, or whose system catalogs are locked: the calls go on as they would without."""

from __future__ import annotations

from threading import Event
from time import monotonic

from tests.timing import SLOW, in_time

from .calls import Calls
from .fleet import DATABASE, FaultFleet
from .processes import network
from .proxy import Delay

SICK = "s1"
QUERY = "select count(*) from ledger where tenant_id = %s"
# What a look holds, and some more.
DUE = 2.1


def test_a_shard_that_is_slow_answers_within_the_deadline_though_it_is_looked_at(
    fleet: FaultFleet, calls: Calls
) -> None:
    key = fleet.keys(1)[SICK]
    for _ in range(8):
        assert calls.go(calls.query(QUERY, key)) == [(0,)]
    with network(Delay(0.2))(fleet, SICK):
        end = monotonic() + 3 * DUE
        while monotonic() < end:
            assert calls.go(calls.query(QUERY, key, timeout=3.0)) == [(0,)]
    assert not calls.router.stats()["shards"][SICK]["primary"]["connect_failures"]


def test_a_lock_on_a_system_catalog_holds_up_one_call_in_a_while_and_ends_none(fleet: FaultFleet, calls: Calls) -> None:
    key = fleet.keys(1)[SICK]
    for _ in range(8):
        assert calls.go(calls.query(QUERY, key)) == [(0,)]
    with fleet.servers[SICK].connect("postgres", DATABASE) as other, other.transaction():
        other.execute("lock table pg_catalog.pg_enum in access exclusive mode")
        Event().wait(DUE)
        begun = monotonic()
        assert calls.go(calls.query(QUERY, key, timeout=SLOW)) == [(0,)]
        in_time(monotonic() - begun, 0.6)
        begun = monotonic()
        for _ in range(10):
            assert calls.go(calls.query(QUERY, key, timeout=SLOW)) == [(0,)]
        in_time(monotonic() - begun, 0.5)
