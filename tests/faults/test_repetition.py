"""A SELECT on several shards is run once more when connections were lost under it; what may write never is."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from threading import Event
from time import monotonic
from typing import Any

import pytest

from shardpool import CommitUnknown, ScatterError
from tests.timing import SLOW, not_after

from .calls import Calls
from .fleet import FaultFleet
from .processes import FAULTS, network
from .proxy import Cut

# The first one: a stream has given no row yet when it loses that.
SICK = "s0"
# By strategy, with what they give when each shard has one row with the id 1.
SELECTS = {
    "add": ("select count(*) from ledger", [(4,)]),
    "concatenate": ("select id from ledger", [(1,)] * 4),
    "merge": ("select id from ledger order by id", [(1,)] * 4),
    "combine": ("select id, count(*) from ledger group by id", [(1, 4)]),
    "pull": ("select count(*) from ledger a join ledger b on a.id = b.id", [(16,)]),
}


def _write_one_row_each(fleet: FaultFleet) -> None:
    for name, (key,) in fleet.keys(1).items():
        with fleet.connect(name) as conn:
            conn.execute("insert into ledger values (%s, 1)", (key,))


async def _streamed(calls: Calls, sql: str, **options: Any) -> list[Any]:
    return await calls.stream(sql, **options)


async def _executed(calls: Calls, sql: str, **options: Any) -> list[Any]:
    return await calls.query(sql, **options)


async def _scattered(calls: Calls, sql: str, **options: Any) -> list[Any]:
    found = await calls.scatter(sql, **options)
    return [row for result in found.values() for row in result.rows]


def _wait_until_well(calls: Calls) -> None:
    """A connection that is made meanwhile may have been the one that was cut: it is made again after a pause."""
    end = monotonic() + SLOW
    while True:
        try:
            calls.go(calls.scatter("select 1"))
            return
        except ScatterError:
            not_after(end)
            calls.go(calls.pause(0.01))


ASKED: list[tuple[Callable[..., Coroutine[Any, Any, list[Any]]], str, list[Any]]] = [
    (verb, *select) for verb in (_executed, _streamed) for select in SELECTS.values()
]
ASKED.append((_scattered, "select id from ledger", [(1,)] * 4))


def test_lost_connections_cost_a_select_on_several_shards_nothing(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(timeout=10))
    _write_one_row_each(fleet)
    for verb, sql, rows in ASKED:
        assert calls.go(verb(calls, sql)) == rows
        # Each shard is the one to which rows are brought in turn. A new connection names tables, and selects from none.
        for marker in (b"copy (", b"select count", b"commit") if "join" in sql else (b"from ledger",):
            with network(Cut(marker, times=1))(fleet, SICK):
                assert calls.go(verb(calls, sql)) == rows, (verb, sql)
                assert fleet.proxies[SICK].cuts == 1 or "join" in sql, (verb, sql)
            _wait_until_well(calls)


def test_a_connection_that_is_cut_while_it_is_made_is_made_once_more(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    (key,) = fleet.keys(1)[SICK]
    for number, wanted in enumerate(([(1,)], [(1,), (1,)])):
        calls = open_calls(fleet.topology(timeout=10))
        with network(Cut(b"shardpool.", times=1))(fleet, SICK):
            calls.go(calls.execute(key, "insert into ledger values (%s, 1)", (key,)))
            assert fleet.proxies[SICK].cuts == 1, number
        assert calls.go(calls.execute(key, "select id from ledger")) == wanted
        assert calls.router.stats()["shards"][SICK]["primary"]["connect_failures"] == 1


def test_a_select_whose_sessions_are_ended_is_run_once_more(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(timeout=10))
    _write_one_row_each(fleet)
    for verb, sql, rows in ASKED:
        assert calls.go(verb(calls, sql)) == rows
        with fleet.connect(SICK) as admin:
            admin.autocommit = False
            admin.execute("lock table ledger")
            asked = calls.spawn(verb(calls, sql))
            while not admin.execute(_WAITING).fetchall():
                Event().wait(0.01)
            admin.execute(f"select pg_terminate_backend(pid, 5000) from ({_WAITING}) as them")
            admin.rollback()
        assert asked.result(15) == rows, (verb, sql)


_WAITING = "select pid from pg_stat_activity where wait_event_type = 'Lock' and usename = 'app'"


def test_a_server_that_was_killed_and_started_between_two_calls_is_not_noticed(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(timeout=10))
    _write_one_row_each(fleet)
    for verb, sql, rows in ASKED[:3]:
        assert calls.go(verb(calls, sql)) == rows
        with FAULTS["killed"](fleet, SICK):
            pass
        assert calls.go(verb(calls, sql)) == rows, (verb, sql)


def test_it_is_run_once_more_and_no_more(fleet: FaultFleet, open_calls: Callable[..., Calls]) -> None:
    calls = open_calls(fleet.topology(timeout=10))
    sql = SELECTS["merge"][0]
    calls.go(calls.query(sql, timeout=SLOW))
    with network(Cut(b"order by id"))(fleet, SICK):
        with pytest.raises(ScatterError) as raised:
            calls.go(calls.query(sql))
        assert set(raised.value.failures) == {SICK}
        assert fleet.proxies[SICK].cuts == 2


def test_what_may_write_is_not_run_once_more(fleet: FaultFleet, open_calls: Callable[..., Calls]) -> None:
    calls = open_calls(fleet.topology(timeout=10))
    calls.go(calls.scatter(_WRITES))
    for sql in ("select * from quietly_noted", "select note(1)", "with n as (insert into noted values (1)) select 1"):
        calls.go(calls.scatter("truncate noted"))
        with network(Cut(sql.encode(), answer=True, times=1))(fleet, SICK):
            with pytest.raises(ScatterError) as raised:
                calls.go(calls.scatter(sql))
            assert all(isinstance(error, CommitUnknown) for error in raised.value.failures.values())
            assert SICK in raised.value.failures
        assert [result.one() for result in calls.go(calls.scatter("select count(*) from noted")).values()] == [(1,)] * 4


# A view does not tell that it writes.
_WRITES = """\
create table if not exists noted (n int);
create or replace function note(n int) returns int language sql as 'insert into noted values (n) returning n';
create or replace view quietly_noted as select note(1);
"""
