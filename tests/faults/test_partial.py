"""G8: a scatter is all, or a partial answer that names what is missing; a fleet starts with a shard down."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event
from time import monotonic

import pytest

from shardpool import ScatterError, ShardError, parse_topology
from tests.timing import SLOW, in_time

from .calls import Calls
from .fleet import FaultFleet
from .processes import FAULTS, network
from .proxy import Cut

SICK = "s1"
WELL = {"s0", "s2", "s3"}
COUNT = "select count(*) from ledger"


def _write_one_row_each(fleet: FaultFleet) -> None:
    for name, (key,) in fleet.keys(1).items():
        with fleet.connect(name) as conn:
            conn.execute("insert into ledger values (%s, 1)", (key,))


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_scatter_without_one_shard_is_an_error_that_names_it(fault: str, fleet: FaultFleet, calls: Calls) -> None:
    calls.go(calls.query(COUNT, timeout=SLOW))
    with FAULTS[fault](fleet, SICK):
        with pytest.raises(ScatterError) as raised:
            calls.go(calls.scatter(COUNT, timeout=0.5))
        assert set(raised.value.failures) == {SICK}
        with pytest.raises((ScatterError, ShardError)) as asked:
            calls.go(calls.query(COUNT, timeout=0.5))
        assert SICK in str(asked.value)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_a_partial_scatter_gives_the_others_and_names_the_missing(fault: str, fleet: FaultFleet, calls: Calls) -> None:
    calls.go(calls.scatter(COUNT))
    _write_one_row_each(fleet)
    with FAULTS[fault](fleet, SICK):
        found = calls.go(calls.scatter(COUNT, timeout=1.0, partial=True))
        assert {name: result.one() for name, result in found.items()} == dict.fromkeys(WELL, (1,))
        assert set(found.missing) == {SICK} and isinstance(found.missing[SICK], ShardError)


@pytest.mark.parametrize("fault", ["killed", "frozen"])
@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        (COUNT, [(3,)]),
        ("select id from ledger", [(1,)] * 3),
        ("select id from ledger order by id", [(1,)] * 3),
        ("select count(distinct tenant_id) from ledger", [(3,)]),
        ("select count(*) from ledger a join ledger b on a.id = b.id", [(9,)]),
    ],
    ids=["added", "concatenated", "merged", "combined", "pulled"],
)
def test_a_partial_answer_has_the_rows_of_the_others_and_names_the_missing(
    sql: str, rows: list[tuple[int]], fault: str, fleet: FaultFleet, calls: Calls
) -> None:
    _write_one_row_each(fleet)
    whole = calls.go(calls.result(sql, partial=True, timeout=SLOW))
    assert not whole.missing
    with FAULTS[fault](fleet, SICK):
        found = calls.go(calls.result(sql, timeout=1.0, partial=True))
        assert found.rows == rows
        assert set(found.missing) == {SICK} and isinstance(found.missing[SICK], ShardError)
        assert set(found.shards) == WELL


@pytest.mark.parametrize(
    "sql", ["select count(distinct tenant_id) from ledger", "select count(*) from ledger a, ledger b"]
)
def test_a_shard_that_is_lost_while_its_rows_are_brought_is_missing_too(
    sql: str, fleet: FaultFleet, calls: Calls
) -> None:
    _write_one_row_each(fleet)
    calls.go(calls.result(sql, partial=True, timeout=SLOW))
    with network(Cut(b"copy ("))(fleet, SICK):
        # Each shard is the one to which rows are brought in turn, and sends none then.
        for _ in fleet.servers:
            begun = monotonic()
            found = calls.go(calls.result(sql, partial=True, timeout=SLOW))
            in_time(monotonic() - begun, 0.5)
            if found.missing:
                break
        assert set(found.missing) == {SICK} and isinstance(found.missing[SICK], ShardError)
        assert set(found.shards) == WELL
        with pytest.raises(ScatterError) as raised:
            for _ in fleet.servers:
                begun = monotonic()
                calls.go(calls.result(sql, timeout=SLOW))
        in_time(monotonic() - begun, 0.5)
        assert set(raised.value.failures) == {SICK}


def test_a_write_is_never_partial(fleet: FaultFleet, calls: Calls) -> None:
    _write_one_row_each(fleet)
    calls.go(calls.query(COUNT, timeout=SLOW))
    with FAULTS["killed"](fleet, SICK), pytest.raises(Exception) as raised:
        calls.go(calls.result("update ledger set id = 2", timeout=1.0, partial=True))
    assert not isinstance(raised.value, TypeError), "partial= is not known"
    assert all(row[1] == 1 for rows in fleet.rows().values() for row in rows)


def test_a_fleet_with_one_shard_down_starts_and_serves_the_others(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    keys = fleet.keys(1)
    with FAULTS["frozen"](fleet, SICK):
        calls = open_calls()
        begun = monotonic()
        for name in WELL:
            assert calls.go(calls.execute(keys[name][0], "select 1", timeout=SLOW)) == [(1,)]
        assert set(calls.go(calls.scatter("select 1", shards=sorted(WELL), timeout=SLOW))) == WELL
        in_time(monotonic() - begun, 0.5)
        for name in WELL:
            # Found in the SQL, which asks a shard for its catalog first.
            assert calls.go(calls.query("select id from ledger where tenant_id = %s", keys[name], timeout=SLOW)) == []


def test_a_router_that_starts_in_an_outage_asks_each_healthy_shard_for_its_tables_once(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    with FAULTS["killed"](fleet, SICK):
        calls = open_calls()
        with pytest.raises(ScatterError):
            calls.go(calls.query(COUNT))
        for name in WELL:
            fleet.proxies[name].set(Cut(b"json_build_object"))
        for _ in range(4):
            with pytest.raises(ScatterError) as raised:
                calls.go(calls.query(COUNT))
            assert set(raised.value.failures) == {SICK}
        assert not any(proxy.cuts for proxy in fleet.proxies.values())


def test_a_shard_without_a_primary_is_missing_and_not_waited_for_to_the_end(
    fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    port = fleet.proxies[SICK].port
    asked = fleet.text().replace(
        f"primary: {{host: 127.0.0.1, port: {port}}}",
        f"hosts: [{{host: 127.0.0.1, port: {port}}}, {{host: 127.0.0.1, port: 1}}]",
    )
    calls = open_calls(parse_topology(asked, file=str(fleet.local.directory / "asked.yaml")))
    assert set(calls.go(calls.scatter(COUNT, timeout=5.0))) == {SICK, *WELL}
    calls.go(calls.query(COUNT, timeout=5.0))
    with FAULTS["killed"](fleet, SICK):
        # Until it is known that there is none.
        Event().wait(1.0)
        for call in (calls.scatter(COUNT, partial=True), calls.result(COUNT, partial=True)):
            begun = monotonic()
            found = calls.go(call)
            in_time(monotonic() - begun, 0.9)
            assert set(found.missing) == {SICK} and isinstance(found.missing[SICK], ShardError)
