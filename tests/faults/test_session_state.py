"""G11: nothing that a caller does to its session is met by the next one, and prepared statements go on working."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from .calls import Calls
from .fleet import FaultFleet

# What a caller does, and how the next one would see it: a value that must be as in a new session.
STATES = {
    "SET": ("set work_mem = '77MB'", "show work_mem"),
    "set_config": ("select set_config('timezone', 'Asia/Tokyo', false)", "show timezone"),
    "SET ROLE": ("set role pg_monitor", "select current_user::text"),
    "read-only": ("set default_transaction_read_only = on", "show transaction_read_only"),
    "search_path": ("set search_path = pg_catalog", "show search_path"),
    "temporary table": ("create temp table leak (a int)", "select to_regclass('pg_temp.leak')::text"),
    "advisory lock": (
        "select pg_advisory_lock(pg_backend_pid())",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
    ),
    "LISTEN": ("listen leak", "select count(*) from pg_listening_channels()"),
    "PREPARE": ("prepare leak as select 1", "select count(*) from pg_prepared_statements where name = 'leak'"),
    "cursor WITH HOLD": (
        "declare leak cursor with hold for select 1",
        "select count(*) from pg_cursors where name = 'leak'",
    ),
}

VERBS: dict[str, Callable[[Calls, int, str], Awaitable[Any]]] = {
    "execute": lambda calls, key, sql: calls.execute(key, sql),
    "run": lambda calls, key, sql: calls.run(key, sql),
    "connection": lambda calls, key, sql: calls.connection(key, sql),
    "transaction": lambda calls, key, sql: calls.transaction(key, sql),
    "scatter": lambda calls, key, sql: calls.scatter(sql),
    "scatter of a function": lambda calls, key, sql: calls.scatter_function(sql),
}


@pytest.mark.parametrize("state", STATES)
def test_what_a_caller_leaves_in_its_session_is_not_met_by_the_next(
    state: str, fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    leave, look = STATES[state]
    key = fleet.keys(1)["s1"][0]
    leaks = {}
    for verb, call in VERBS.items():
        calls = open_calls(fleet.topology(pool="{max_size: 1}", timeout=3.0))
        clean = calls.go(calls.execute(key, look))
        calls.go(_awaited(call(calls, key, leave)))
        found = calls.go(calls.execute(key, look))
        if found != clean:
            leaks[verb] = found
    assert leaks == {}


async def _awaited(call: Awaitable[Any]) -> None:
    await call


@pytest.mark.parametrize("dirty", [None, "set work_mem = '77MB'", "create temp table if not exists leak (a int)"])
def test_prepared_statements_go_on_working_between_sessions(
    dirty: str | None, fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    key = fleet.keys(1)["s1"][0]
    calls = open_calls(fleet.topology(pool="{max_size: 1}", timeout=3.0))
    for number in range(30):
        assert calls.go(calls.execute(key, "select %s::int", (number,))) == [(number,)]
        assert calls.go(calls.execute(key, "select %s::int + 1", (number,), prepare=True)) == [(number + 1,)]
        assert len(calls.go(calls.scatter("select %s::int", (number,)))) == 4
        if dirty and number % 7 == 3:
            calls.go(calls.connection(key, dirty))
    prepared = calls.go(calls.execute(key, "select count(*) from pg_prepared_statements where name like '\\_pg3%'"))
    assert dirty or prepared[0][0] >= 2, "a clean session keeps what psycopg has prepared"
