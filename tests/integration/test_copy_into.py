"""copy_into: every row on the shard of its key, and nothing half loaded when it fails."""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterator
from time import monotonic

import psycopg
import pytest

from shardpool import DeadlineExceeded, LoadError, MissingKey, Router, UnknownTable, UnsupportedQuery
from tests.timing import SLOW, in_time

COLUMNS = ["tenant_id", "n", "note"]


def counts(router: Router, table: str = "orders") -> dict[str, int]:
    return {shard: result.one()[0] for shard, result in router.scatter(f"select count(*) from {table}").items()}


@pytest.mark.parametrize("binary", [None, True, False])
def test_rows_arrive_unchanged_on_the_shard_of_their_key(router: Router, binary: bool | None) -> None:
    rows = [(key, key % 7, f"tab\t back\\slash é {key}" if key % 5 else None) for key in range(3000)]
    loaded = router.copy_into("orders", iter(rows), columns=COLUMNS, binary=binary)
    assert sum(loaded.values()) == 3000
    assert loaded == counts(router)
    found = [row for result in router.scatter("select * from orders").values() for row in result]
    assert sorted(found, key=lambda row: row[0]) == rows
    assert router.check().ok


def test_a_pinned_key_goes_to_its_own_home(router: Router) -> None:
    assert router.copy_into("orders", [(17, 1, "x")], columns=COLUMNS) == {"s0": 0, "s1": 0, "s2": 0, "s3": 1}


def test_a_reference_table_is_copied_to_every_shard_and_a_single_one_to_its_own(router: Router) -> None:
    rows = [("de", "Germany"), ("fr", "France")]
    assert router.copy_into("countries", rows, columns=["code", "name"]) == {"s0": 2, "s1": 2, "s2": 2, "s3": 2}
    assert router.copy_into("audit_log", [("x",)], columns=["what"]) == {"s0": 1}


def test_range_keys_go_to_the_shard_of_their_interval(router: Router) -> None:
    days = [(dt.date(2024, 12, 31), 1), (dt.date(2025, 1, 1), 2), (dt.date(2030, 1, 1), 3)]
    assert router.copy_into("events", days, columns=["day", "n"]) == {"s0": 1, "s1": 1, "s2": 1}


def test_no_rows_are_no_error(router: Router) -> None:
    assert sum(router.copy_into("orders", [], columns=COLUMNS).values()) == 0


@pytest.mark.parametrize(
    ("bad", "detail"),
    [
        ((None, 1, "x"), "cannot use None"),
        (("x", 1, "x"), "x"),
        ((1, 1), "2 values for 3 columns"),
        ((1, "not a number", "x"), ""),
        ((1, 2**31, "x"), "out of range"),
        ((1, -(2**31) - 1, "x"), "out of range"),
    ],
)
def test_a_bad_record_is_told_by_its_number_and_nothing_is_loaded(
    router: Router, bad: tuple[object, ...], detail: str
) -> None:
    rows = [(key, 1, "x") for key in range(500)]
    rows.insert(321, bad)  # type: ignore[arg-type]
    with pytest.raises(LoadError) as raised:
        router.copy_into("orders", rows, columns=COLUMNS)
    assert raised.value.record == 322
    assert detail in (raised.value.detail or "")
    assert raised.value.rolled_back == ("s0", "s1", "s2", "s3")
    assert set(counts(router).values()) == {0}


def test_values_that_binary_copy_would_change_are_not_sent_so(router: Router) -> None:
    router.scatter("alter table orders add small smallint, add single real")
    columns = ["tenant_id", "n", "small"]
    router.copy_into("orders", [(1, 1, -(2**15)), (2, 1, None), (3, 2**31 - 1, 2**15 - 1)], columns=columns)
    with pytest.raises(LoadError, match="record 2 is bad"):
        router.copy_into("orders", [(4, 1, 0), (5, 1, 2**15)], columns=columns)
    with pytest.raises(LoadError, match="record 1 is bad"):
        router.copy_into("orders", [(6, 1, 1e300)], columns=["tenant_id", "n", "single"])
    assert sum(counts(router).values()) == 3


def test_binary_copy_is_chosen_by_the_types_of_the_columns_and_by_all_first_rows(router: Router) -> None:
    router.scatter("create domain short as varchar(3); alter table orders add code char(4), add s short, add day date")
    columns = ["tenant_id", "n", "code", "s", "day"]
    today = dt.date(2026, 1, 2)
    router.copy_into("orders", [(1, 1, "ab", "x", today), (2, 1, None, None, None)], columns=columns, binary=True)
    router.copy_into("orders", [(3, 1, "ab", "xyz  ", None), (4, 1, None, "y", "2026-01-02")], columns=columns)
    found = [row for result in router.scatter("select n, code, s, day from orders").values() for row in result]
    assert Counter(found) == Counter(
        [(1, "ab  ", "x", today), (1, None, None, None), (1, "ab  ", "xyz", None), (1, None, "y", today)]
    )
    with pytest.raises(LoadError, match="record 2 is bad") as raised:
        rows = [(5, 1, None, None, None), (6, 1, None, None, "2026-01-02")]
        router.copy_into("orders", rows, columns=columns, binary=True)
    assert "day is date" in str(raised.value) and "binary=False" in (raised.value.hint or "")


def test_a_value_that_binary_copy_cannot_take_after_the_first_rows_is_told(router: Router) -> None:
    router.scatter("alter table orders add paid boolean")
    rows = [*((key, 1, True) for key in range(200)), (200, 1, "f")]
    with pytest.raises(LoadError, match="record 201 is bad") as raised:
        router.copy_into("orders", rows, columns=["tenant_id", "n", "paid"])
    assert "binary=False" in (raised.value.hint or "")
    router.copy_into("orders", rows, columns=["tenant_id", "n", "paid"], binary=False)
    (paid,) = router.execute("select paid from orders where tenant_id = 200").one()
    assert paid is False


@pytest.mark.parametrize("binary", [True, False])
def test_a_key_that_the_column_cuts_is_placed_as_it_is_stored(router: Router, binary: bool) -> None:
    router.scatter("alter table stores alter region type varchar(2)")
    router.copy_into("stores", [("de  ", "a"), ("us ", "b"), ("fr", "c")], columns=["region", "name"], binary=binary)
    for region, name in (("de", "a"), ("us", "b"), ("fr", "c")):
        assert router.execute("select name from stores where region = %s", [region]).one() == (name,)
    assert router.check().ok


def test_rows_whose_key_a_server_may_change_are_not_loaded(router: Router) -> None:
    body = "create function touch() returns trigger language plpgsql as $$begin {} return new; end$$"
    trigger = "create trigger touch before insert on orders for each row execute function touch()"
    router.scatter(body.format("new.note := 'seen';") + ";" + trigger)
    router.copy_into("orders", [(1, 1, "x")], columns=COLUMNS)
    assert router.execute("select note from orders where tenant_id = 1").one() == ("seen",)
    router.scatter(body.replace("create", "create or replace", 1).format("new.tenant_id := 5;"))
    with pytest.raises(UnsupportedQuery, match="trigger touch may change the key"):
        router.copy_into("orders", [(2, 1, "x")], columns=COLUMNS)
    router.scatter("alter table events alter day type timestamptz(0)")
    with pytest.raises(UnsupportedQuery, match="key column day is timestamp"):
        router.copy_into("events", [("2025-01-01", 1)], columns=["day", "n"])
    assert sum(counts(router).values()) == 1


def test_a_row_that_a_server_refuses_rolls_all_shards_back(router: Router) -> None:
    router.shard("s2").execute("alter table orders add check (n <> 13)")
    rows = [(key, key % 100, "x") for key in range(2000)]
    with pytest.raises(LoadError) as raised:
        router.copy_into("orders", rows, columns=COLUMNS)
    assert list(raised.value.failures) == ["s2"]
    assert isinstance(raised.value.failures["s2"], psycopg.errors.CheckViolation)
    on_s2 = [row for row in rows if router.for_key(row[0], table="orders").shard == "s2"]
    assert on_s2[raised.value.rejected["s2"] - 1][1] == 13
    assert set(counts(router).values()) == {0}
    assert len(router.scatter("select 1")) == 4


def test_what_the_callers_rows_raise_passes_through_and_nothing_is_loaded(router: Router) -> None:
    def rows() -> Iterator[tuple[int, int, str]]:
        yield from ((key, 1, "x") for key in range(5000))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as raised:
        router.copy_into("orders", rows(), columns=COLUMNS)
    assert "nothing was loaded" in raised.value.__notes__[0]
    assert set(counts(router).values()) == {0}
    assert all(shard["primary"]["in_flight"] == 0 for shard in router.stats()["shards"].values())


def test_a_load_ends_by_its_deadline_and_says_so(router: Router) -> None:
    router.shard("s1").execute(
        "create function slow() returns trigger language plpgsql as $$begin perform pg_sleep(30); return new; end$$;"
        "create trigger slow before insert on orders for each row execute function slow()"
    )
    # The tables are known then: how long that takes is the machine's affair.
    router.copy_into("orders", [], columns=COLUMNS, timeout=SLOW)
    started = monotonic()
    with pytest.raises(LoadError) as raised:
        router.copy_into("orders", ((key, 1, "x") for key in range(400)), columns=COLUMNS, timeout=1.0)
    in_time(monotonic() - started, 1.5)
    assert isinstance(raised.value.failures["s1"], DeadlineExceeded)
    router.scatter("select pg_terminate_backend(pid) from pg_stat_activity where query like 'COPY%'", shards=["s1"])
    assert set(counts(router).values()) == {0}


def test_bad_calls_are_refused_before_anything_is_sent(router: Router) -> None:
    with pytest.raises(MissingKey, match="tenant_id"):
        router.copy_into("orders", [], columns=["n"])
    with pytest.raises(UnknownTable):
        router.copy_into("order", [], columns=["n"])
    with pytest.raises(LoadError, match="no column"):
        router.copy_into("orders", [], columns=["tenant_id", "nte"])


def test_progress_tells_every_row_once(router: Router) -> None:
    told: list[int] = []
    router.copy_into("orders", ((key, 1, "x") for key in range(10_000)), columns=COLUMNS, progress=told.append)
    assert sum(told) == 10_000
