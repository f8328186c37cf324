"""Calls that meet each other, are left in the middle, are cut between two COMMITs, or meet close() or DDL."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from threading import Event
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import CommitUnknown, DeadlineExceeded, LoadError, RouterMisuse, ScatterError, ShardpoolError
from tests.timing import SLACK, SLOW, in_time, not_after

from .calls import Calls
from .fleet import FaultFleet
from .processes import FAULTS
from .proxy import Cut

COUNT = "select count(*) from ledger"


def _in_flight(calls: Calls) -> dict[str, int]:
    return {name: shard["primary"]["in_flight"] for name, shard in calls.router.stats()["shards"].items()}


def test_calls_on_all_shards_with_pools_of_one_never_wait_for_each_other(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(pool="{max_size: 1}", timeout=15.0))
    keys = [key for keys in fleet.keys(2).values() for key in keys]

    async def caller(number: int) -> None:
        for _ in range(6):
            # Half of them name the shards in the opposite order.
            await calls.scatter("select 1", shards=sorted(fleet.servers, reverse=bool(number % 2)))
            await calls.query(COUNT)
            await calls.query(COUNT, strategy="pull")
            await calls.stream("select id from ledger order by id")
            await calls.copy_into([(key, number) for key in keys])
            await calls.query("update ledger set id = id where id = %s", (number,))

    for future in [calls.spawn(caller(number)) for number in range(8)]:
        future.result(30)
    assert set(_in_flight(calls).values()) == {0}


@pytest.mark.parametrize("sql", ["select id from ledger", "select id from ledger order by id"])
def test_a_stream_left_in_the_middle_gives_its_connections_back(
    sql: str, fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(pool="{max_size: 1}"))
    keys = [key for keys in fleet.keys(2).values() for key in keys]
    calls.go(calls.copy_into([(keys[number % len(keys)], number) for number in range(40_000)], timeout=10))
    for _ in range(5):
        assert calls.go(calls.stream_one(sql, size=10, timeout=SLOW)) is not None
        assert set(_in_flight(calls).values()) == {0}
    assert calls.go(calls.query(COUNT)) == [(40_000,)]


@pytest.mark.parametrize("answer", [False, True], ids=["before the COMMIT", "after the COMMIT"])
def test_transactions_on_several_shards_cut_at_one_commit_tell_what_is_applied_where(
    answer: bool, fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    keys = {name: key for name, (key,) in fleet.keys(1).items()}
    rows = ", ".join(f"({key}, 7)" for key in keys.values())
    with fleet.apart("s3"):
        calls = open_calls()
        calls.go(calls.query(COUNT, timeout=SLOW))
        fleet.proxies["s1"].set(Cut(b"commit", answer=answer))
        with pytest.raises(ScatterError) as raised:
            calls.go(calls.query(f"insert into ledger values {rows}"))
    applied = {shard: getattr(error, "applied", None) for shard, error in raised.value.failures.items()}
    assert applied == {"s1": "unknown"}
    assert set(raised.value.results) == {"s0", "s2", "s3"}
    found = {name: sum(counts.values()) for name, counts in fleet.rows().items()}
    assert found == {"s0": 1, "s1": int(answer), "s2": 1, "s3": 1}


@pytest.mark.parametrize("answer", [False, True], ids=["before the COMMIT", "after the COMMIT"])
def test_a_write_on_several_shards_that_was_decided_is_finished_behind_the_caller(
    answer: bool, fleet: FaultFleet, calls: Calls
) -> None:
    keys = {name: key for name, (key,) in fleet.keys(1).items()}
    rows = ", ".join(f"({key}, 7)" for key in keys.values())
    calls.go(calls.query(COUNT, timeout=SLOW))
    fleet.proxies["s1"].set(Cut(b"commit prepared", answer=answer, times=1))
    result = calls.go(calls.result(f"insert into ledger values {rows}"))
    assert result.rowcount == 4
    begun = monotonic()
    while sum(fleet.rows()["s1"].values()) != 1:
        not_after(begun + SLACK * 2.0)
    assert {name: sum(counts.values()) for name, counts in fleet.rows().items()} == dict.fromkeys(keys, 1)


@pytest.mark.parametrize("answer", [False, True], ids=["before the COMMIT", "after the COMMIT"])
def test_a_load_cut_at_one_commit_tells_what_is_on_which_shard(answer: bool, fleet: FaultFleet, calls: Calls) -> None:
    keys = {name: key for name, (key,) in fleet.keys(1).items()}
    # A new connection has a COMMIT of its own.
    calls.go(calls.query(COUNT, timeout=SLOW))
    fleet.proxies["s1"].set(Cut(b"commit", answer=answer))
    with pytest.raises(LoadError) as raised:
        calls.go(calls.copy_into([(key, 7) for key in keys.values()]))
    assert raised.value.committed == {"s0": 1, "s2": 1, "s3": 1}
    assert raised.value.unknown == ("s1",)
    assert raised.value.rolled_back == ()
    found = {name: sum(counts.values()) for name, counts in fleet.rows().items()}
    assert found == {"s0": 1, "s1": int(answer), "s2": 1, "s3": 1}


@pytest.mark.parametrize("fault", ["frozen", "cut before insert"])
def test_a_write_on_several_shards_that_one_did_not_get_is_on_none(fault: str, fleet: FaultFleet, calls: Calls) -> None:
    keys = {name: key for name, (key,) in fleet.keys(1).items()}
    rows = ", ".join(f"({key}, 7)" for key in keys.values())
    calls.go(calls.query(COUNT, timeout=SLOW))
    with FAULTS[fault](fleet, "s1"), pytest.raises(ScatterError) as raised:
        calls.go(calls.query(f"insert into ledger values {rows}"))
    assert set(raised.value.failures) == {"s1"}
    assert all(not counts for counts in fleet.rows().values())
    assert getattr(raised.value.failures["s1"], "applied", "no") == "no", "no COMMIT was sent"


@pytest.mark.parametrize("shard", ["s0", "s2"])
def test_a_load_that_meets_a_frozen_shard_ends_in_time_with_an_account(
    shard: str, fleet: FaultFleet, calls: Calls
) -> None:
    keys = [key for keys in fleet.keys(1).values() for key in keys]
    calls.go(calls.copy_into([(key, 1) for key in keys], timeout=SLOW))
    with FAULTS["frozen"](fleet, shard), pytest.raises(LoadError) as raised:
        calls.go(calls.copy_into([(key, 2) for key in keys], timeout=1.0))
    assert isinstance(raised.value.failures[shard], DeadlineExceeded)
    assert set(raised.value.rolled_back) == {"s0", "s1", "s2", "s3"}
    assert sum(sum(counts.values()) for counts in fleet.rows().values()) == len(keys)


def _threads() -> int:
    """How many there are, but for those that an event loop keeps for what would hold it up: they end with it."""
    return sum(not thread.name.startswith("asyncio_") for thread in threading.enumerate())


def test_close_in_the_midst_of_calls_ends_all_of_them(fleet: FaultFleet, open_calls: Callable[..., Calls]) -> None:
    calls = open_calls()
    calls.go(calls.query(COUNT, timeout=SLOW))
    keys = [key for keys in fleet.keys(2).values() for key in keys]
    before = _threads()
    ended: list[BaseException] = []

    async def caller(number: int) -> None:
        while True:
            try:
                await calls.execute(keys[number % len(keys)], "select pg_sleep(0.01)")
                await calls.scatter("select 1")
                await calls.query(COUNT)
            except Exception as error:
                ended.append(error)
                return

    running = [calls.spawn(caller(number)) for number in range(8)]
    threading.Event().wait(0.3)
    begun = monotonic()
    calls.go(calls.close())
    for future in running:
        future.result(20)
    in_time(monotonic() - begun, 3)
    assert [repr(error) + str(error) for error in ended if not isinstance(error, RouterMisuse)] == []
    end = monotonic() + 20
    while _threads() > before and monotonic() < end:
        threading.Event().wait(0.02)
    assert _threads() <= before
    # A server takes a moment to notice.
    while any(fleet.sessions(name) for name in fleet.servers) and monotonic() < end:
        threading.Event().wait(0.02)
    assert all(fleet.sessions(name) == [] for name in fleet.servers)


VERBS = ("execute of a route", "execute of a key in the SQL", "scatter", "execute of all shards", "stream")


@pytest.mark.parametrize("verb", VERBS)
def test_prepared_statements_outlive_ddl_that_others_have_run(
    verb: str, fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    """Else PostgreSQL says that a cached plan must not change its result type."""
    calls = open_calls(fleet.topology(pool="{max_size: 1}"))
    key = fleet.keys(1)["s1"][0]
    fleet_rows = [(key, 1)]
    with fleet.connect("s1") as conn:
        conn.execute("insert into ledger values (%s, 1)", (key,))

    def ask() -> Any:
        one = "select * from ledger where tenant_id = %s"
        if verb == "execute of a route":
            return calls.go(calls.execute(key, one, (key,)))
        if verb == "execute of a key in the SQL":
            return calls.go(calls.query(one, (key,)))
        if verb == "scatter":
            return calls.go(calls.scatter("select * from ledger where id > %s", (0,)))["s1"].rows
        if verb == "execute of all shards":
            return calls.go(calls.query("select * from ledger where id > %s", (0,)))
        return calls.go(calls.stream("select * from ledger where id > 0"))

    for _ in range(8):
        assert ask() == fleet_rows
    try:
        for name in fleet.servers:
            with fleet.connect(name) as conn:
                conn.execute("alter table ledger add column more int default 5")
        errors = []
        found = None
        for _ in range(3):
            try:
                found = ask()
            except (psycopg.Error, ShardpoolError) as error:
                errors.append(error)
        assert errors == []
        assert found == [(key, 1, 5)]
    finally:
        for name in fleet.servers:
            with fleet.connect(name) as conn:
                conn.execute("alter table ledger drop column if exists more")


def test_a_procedure_that_has_committed_is_not_called_again(fleet: FaultFleet, calls: Calls) -> None:
    key = fleet.keys(1)["s1"][0]
    with fleet.connect("s1") as conn:
        conn.execute(
            "create procedure twice(key bigint) language plpgsql as $$ begin"
            " insert into ledger values (key, (select count(*) from ledger)); commit;"
            " execute 'prepare outdated as select * from ledger'; execute 'alter table ledger add column more int';"
            " execute 'execute outdated'; end $$"
        )
    try:
        with pytest.raises(psycopg.errors.FeatureNotSupported, match="cached plan"):
            calls.go(calls.execute(key, "call twice(%s)", (key,)))
        assert calls.go(calls.execute(key, "select count(*) from ledger where tenant_id = %s", (key,))) == [(1,)]
    finally:
        with fleet.connect("s1") as conn:
            conn.execute("drop procedure twice; alter table ledger drop column if exists more")


def test_a_write_meets_no_connection_that_was_ended_before_anybody_used_it(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(pool="{min_size: 4, max_size: 4}"))
    key = fleet.keys(1)["s0"][0]
    calls.go(calls.execute(key, "select 1"))
    _wait_for_sessions(fleet, "s0", 4)
    # Longer than what counts as just used.
    Event().wait(1.1)
    fleet.end_sessions("s0")
    Event().wait(0.1)
    for number in range(8):
        calls.go(calls.execute(key, "insert into ledger values (%s, %s)", (key, number)))


def _wait_for_sessions(fleet: FaultFleet, name: str, count: int) -> None:
    end = monotonic() + 20
    while len(fleet.sessions(name)) < count:
        not_after(end)
        Event().wait(0.02)


@pytest.fixture
def noting(fleet: FaultFleet) -> Iterator[None]:
    """On shard s1 a view and an operator that write a note each time they are read."""
    with fleet.connect("s1") as conn:
        conn.execute("create table notes (n int)")
        conn.execute("create function note_it() returns int language sql as 'insert into notes values (1) returning n'")
        conn.execute("create function note_by(int, int) returns int language sql as 'select note_it()'")
        conn.execute("create operator <#*#> (leftarg = int, rightarg = int, function = note_by)")
        conn.execute("create view noting as select note_it()")
        conn.execute("grant all on notes, noting to app")
    yield
    with fleet.connect("s1") as conn:
        conn.execute("drop view noting; drop operator <#*#> (int, int)")
        conn.execute("drop function note_by; drop function note_it; drop table notes")


@pytest.mark.usefixtures("noting")
def test_a_read_that_writes_where_its_text_does_not_show_it_is_not_done_twice(fleet: FaultFleet, calls: Calls) -> None:
    key = fleet.keys(1)["s1"][0]
    for number, (marker, sql) in enumerate([(b"noting", "select * from noting"), (b"<#*#>", "select 1 <#*#> 2")]):
        fleet.proxies["s1"].set(Cut(marker, answer=True, times=1))
        with pytest.raises(CommitUnknown):
            calls.go(calls.execute(key, sql))
        fleet.settle("s1")
        with fleet.connect("s1") as conn:
            assert conn.execute("select count(*) from notes").fetchone() == (number + 1,)
    fleet.proxies["s1"].set(Cut(b"count(*)", answer=True, times=1))
    assert calls.go(calls.execute(key, COUNT)) == [(0,)]


@pytest.mark.parametrize("text", ["commit", "rollback", "insert into ledger values (%s, 1); commit"])
def test_a_block_that_has_ended_its_transaction_by_a_text_and_is_cut_may_be_applied(
    text: str, kind: str, fleet: FaultFleet, calls: Calls
) -> None:
    (key,) = fleet.keys(1)["s0"]
    text = text.replace("%s", str(key))

    def write(conn: Any) -> None:
        conn.execute("insert into ledger values (%s, 0)", (key,))
        conn.execute(text)
        conn.execute("insert into ledger values (%s, 2) /* cut */", (key,))

    async def write_in_task(conn: Any) -> None:
        await conn.execute("insert into ledger values (%s, 0)", (key,))
        await conn.execute(text)
        await conn.execute("insert into ledger values (%s, 2) /* cut */", (key,))

    fleet.proxies["s0"].set(Cut(b"cut", answer=True))
    route = calls.router.for_key(key)

    async def run() -> None:
        if kind == "sync":
            route.run(write)
        else:
            await route.run(write_in_task)

    with pytest.raises(CommitUnknown) as raised:
        calls.go(run())
    assert raised.value.applied == "unknown"
