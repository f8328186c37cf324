"""The router's verbs on real servers."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections import Counter
from time import monotonic
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from shardpool import (
    DeadlineExceeded,
    InvalidKey,
    KeyNotCovered,
    MissingKey,
    ResultTooLarge,
    Router,
    RouterMisuse,
    RoutingError,
    ScatterError,
    UnknownShard,
    UnknownTable,
    UnsupportedQuery,
)
from tests.timing import in_time


def test_a_row_is_found_on_the_shard_of_its_key_and_nowhere_else(router: Router) -> None:
    for key in range(50):
        with router.for_key(key, table="orders").connection() as conn:
            conn.execute("insert into orders values (%s, 1, 'x')", (key,))
    found = router.scatter("select tenant_id from orders")
    assert sorted(key for result in found.values() for (key,) in result) == list(range(50))
    for shard, result in found.items():
        assert all(router.for_key(key, table="orders").shard == shard for (key,) in result)


def test_connection_commits_on_success_and_rolls_back_on_error(router: Router) -> None:
    route = router.for_key(1, table="orders")
    with route.connection() as conn:
        conn.execute("insert into orders values (1, 1, 'kept')")
    with pytest.raises(ZeroDivisionError), route.connection() as conn:
        conn.execute("insert into orders values (1, 2, 'lost')")
        raise ZeroDivisionError
    assert route.execute("select note from orders").rows == [("kept",)]


def test_transaction_forbids_commit_inside(router: Router) -> None:
    route = router.for_key(1, table="orders")
    with pytest.raises(psycopg.ProgrammingError), route.transaction() as conn:
        conn.execute("insert into orders values (1, 1, 'x')")
        conn.commit()
    assert route.execute("select * from orders").rows == []


def test_execute_is_autocommit_and_gives_rows_and_description(router: Router) -> None:
    route = router.for_key(1, table="orders")
    inserted = route.execute("insert into orders values (%s, %s, %s)", (1, 5, "x"))
    assert (inserted.rowcount, inserted.rows, inserted.description) == (1, [], None)
    result = route.execute("select tenant_id, n as number from orders where tenant_id = %(key)s", {"key": 1})
    assert result.rows == [(1, 5)]
    assert result.columns == ("tenant_id", "number")
    assert result.description is not None
    assert [column.type_display for column in result.description] == ["int8", "int4"]
    assert result.shards == (route.shard,)
    assert result.one() == (1, 5)
    assert route.execute("select 1 as a", row_factory=dict_row).rows == [{"a": 1}]


def test_an_error_of_postgresql_passes_through_with_the_name_of_the_shard(router: Router) -> None:
    route = router.for_key(1, table="orders")
    with pytest.raises(psycopg.errors.UndefinedColumn) as raised:
        route.execute("select nix from orders")
    assert any(route.shard in note for note in raised.value.__notes__)
    with pytest.raises(psycopg.errors.DivisionByZero) as raised, route.connection() as conn:
        conn.execute("select 1/0")
    assert any(route.shard in note for note in raised.value.__notes__)


def test_run_repeats_a_transaction_that_could_not_be_serialized(router: Router) -> None:
    route = router.for_key(1, table="orders")
    route.execute("insert into orders values (1, 0, 'counter')")
    attempts = 0

    def increment(conn: psycopg.Connection[tuple[int]]) -> int:
        nonlocal attempts
        attempts += 1
        conn.execute("set transaction isolation level serializable")
        row = conn.execute("select n from orders").fetchone()
        assert row is not None
        if attempts == 1:
            route.execute("update orders set n = n + 10")
        conn.execute("update orders set n = %s", (row[0] + 1,))
        return row[0] + 1

    assert route.run(increment) == 11
    assert attempts == 2


def test_an_autocommit_verb_leaves_no_mode_behind(router: Router) -> None:
    route = router.for_key(1, table="orders")
    route.execute("select 1")
    with pytest.raises(ZeroDivisionError), route.connection() as conn:
        assert not conn.autocommit
        conn.execute("insert into orders values (1, 1, 'lost')")
        raise ZeroDivisionError
    assert route.execute("select count(*) from orders").one() == (0,)


def test_the_routers_own_row_factory_makes_the_rows_of_every_verb(topology_path: str) -> None:
    with Router(topology_path, kwargs={"row_factory": dict_row}) as router:
        # Keyless: what functions the server has is asked for first, whose rows are the router's own affair.
        assert router.execute("select abs(-1) as a").rows == [{"a": 1}]
        assert router.shard("s0").execute("select 1 as a").rows == [{"a": 1}]
        assert router.scatter("select 1 as a")["s3"].rows == [{"a": 1}]
        assert router.check().ok


@pytest.mark.parametrize("statement", ["begin", "begin; insert into orders values (1, 1, 'x')"])
def test_a_transaction_that_execute_left_open_is_rolled_back_and_refused(router: Router, statement: str) -> None:
    route = router.for_key(1, table="orders")
    with pytest.raises(RouterMisuse, match="left a transaction open, which was rolled back"):
        route.execute(statement)
    assert route.execute("select count(*) from orders").one() == (0,)
    route.execute("begin; insert into orders values (1, 1, 'x'); commit")
    assert route.execute("select count(*) from orders").one() == (1,)


def test_a_transaction_that_scatter_left_open_is_rolled_back_and_refused(router: Router) -> None:
    with pytest.raises(ScatterError) as raised:
        router.scatter("begin; insert into orders values (1, 1, 'x')")
    failures = raised.value.failures
    assert list(failures) == ["s0", "s1", "s2", "s3"]
    for failure in failures.values():
        assert type(failure) is psycopg.ProgrammingError
        assert "left a transaction open, which was rolled back" in str(failure)
    assert [result.one() for result in router.scatter("select count(*) from orders").values()] == [(0,)] * 4
    with pytest.raises(ScatterError):
        router.scatter("begin", params=())


def test_scatter_runs_on_all_shards_on_those_named_or_on_those_of_keys(router: Router) -> None:
    assert list(router.scatter("select 1")) == ["s0", "s1", "s2", "s3"]
    assert list(router.scatter("select 1", shards=["s2", "s0"])) == ["s0", "s2"]
    keys = [1, 2]
    wanted = {router.for_key(key, table="orders").shard for key in keys}
    assert set(router.scatter("select 1", keys=keys, table="orders")) == wanted
    with pytest.raises(UnknownShard, match="no shard"):
        router.scatter("select 1", shards=["s9"])


def test_scatter_passes_parameters_as_psycopg_does(router: Router) -> None:
    params = (1, "é", None, 2.5, dt.date(2024, 2, 29), [1, 2])
    query = "select %s::int + 1, %s, %s::int, %s, %s, %s, '100%%'"
    expected = router.shard("s0").execute(query, params).rows
    for _ in range(8):  # beyond psycopg's prepare_threshold: prepared from here on
        assert [result.rows for result in router.scatter(query, params).values()] == [expected] * 4
    assert router.scatter("select '100%'")["s0"].rows == [("100%",)]
    named = router.scatter("select %(a)s::text || %(b)s || %(a)s", {"a": "x", "b": "y"})
    assert named["s3"].rows == [("xyx",)]
    composed = sql.SQL("select {}::int").format(sql.Literal(5))
    assert router.scatter(composed)["s1"].rows == [(5,)]
    assert router.scatter("select 1 as a", binary=True, row_factory=dict_row)["s1"].rows == [{"a": 1}]


def test_scatter_goes_on_after_ddl_has_changed_a_prepared_statement(router: Router) -> None:
    for _ in range(8):
        router.scatter("select * from orders where n > %s", (0,))
    router.scatter("alter table orders add column added int default 7")
    router.scatter("insert into orders (tenant_id, n, note) values (%s, 1, 'x')", (1,))
    result = router.scatter("select * from orders where n > %s", (0,))
    assert all(answer.rows == [(1, 1, "x", 7)] for answer in result.values())


def test_scatter_reports_every_failed_shard_and_keeps_the_results_of_the_others(router: Router) -> None:
    router.shard("s1").execute("insert into orders values (0, 0, 'x')")
    router.shard("s3").execute("insert into orders values (0, 0, 'x')")
    with pytest.raises(ScatterError) as raised:
        router.scatter("select 1 / (1 - count(*)) from orders")
    assert sorted(raised.value.failures) == ["s1", "s3"]
    assert all(isinstance(error, psycopg.errors.DivisionByZero) for error in raised.value.failures.values())
    assert {shard: result.rows for shard, result in raised.value.results.items()} == {"s0": [(1,)], "s2": [(1,)]}
    assert len(router.scatter("select 1")) == 4


def test_scatter_of_a_function_is_one_transaction_on_each_shard(router: Router) -> None:
    def insert(conn: psycopg.Connection[tuple[int]]) -> int:
        conn.execute("insert into orders values (1, 1, 'x')")
        name = conn.execute("select shard from shardpool.self").fetchone()
        if name == ("s2",):
            raise ZeroDivisionError
        return 1

    with pytest.raises(ScatterError) as raised:
        router.scatter(insert)
    assert list(raised.value.failures) == ["s2"]
    counts = {shard: result.one()[0] for shard, result in router.scatter("select count(*) from orders").items()}
    assert counts == {"s0": 1, "s1": 1, "s2": 0, "s3": 1}


def test_copy_cannot_be_scattered_and_leaves_the_connections_usable(router: Router) -> None:
    with pytest.raises(ScatterError) as raised:
        router.scatter("copy orders from stdin")
    assert all("copy_into" in str(error) for error in raised.value.failures.values())
    assert len(router.scatter("select 1")) == 4


def test_large_parameters_and_answers_do_not_block_each_other(router: Router) -> None:
    big = "x" * 4_000_000
    answers = router.scatter("select %s::text", (big,))
    assert all(answer.one() == (big,) for answer in answers.values())


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda r: r.for_key(1), MissingKey),
        (lambda r: r.for_key(None, table="orders"), InvalidKey),
        (lambda r: r.for_key("x", table="orders"), InvalidKey),
        (lambda r: r.for_key(True, table="orders"), InvalidKey),
        (lambda r: r.for_key(1, table="order"), UnknownTable),
        (lambda r: r.for_key("atlantis", table="stores"), KeyNotCovered),
        (lambda r: r.for_range(1, 2, table="orders"), RoutingError),
        (lambda r: r.shard("s9"), UnknownShard),
        (lambda r: r.execute("select ctid from orders"), UnsupportedQuery),
        (lambda r: r.execute("select * from nix"), UnknownTable),
    ],
)
def test_a_call_that_cannot_be_routed_is_refused(router: Router, call, error) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error) as raised:
        call(router)
    assert raised.value.hint


def test_execute_without_key_reads_reference_and_single_tables(router: Router) -> None:
    router.copy_into("countries", [("de", "Germany"), ("fr", "France")], columns=["code", "name"])
    seen = Counter(router.execute("select * from countries order by 1").shards[0] for _ in range(8))
    assert seen == {"s0": 2, "s1": 2, "s2": 2, "s3": 2}
    router.execute("insert into audit_log select lower(name) from countries where code = %s", ("de",))
    assert router.execute("select * from audit_log").rows == [("germany",)]
    assert router.execute("select * from audit_log").shards == ("s0",)
    router.scatter("create function peek() returns bigint language sql as 'select count(*) from orders'")
    with pytest.raises(UnsupportedQuery, match=r"peek\(\) is not PostgreSQL's own, nor IMMUTABLE"):
        router.execute("select peek()")
    with pytest.raises(UnsupportedQuery, match="peek"):
        router.execute("select peek()")


def test_execute_with_a_key_goes_to_its_shard(router: Router) -> None:
    result = router.execute("select shard from shardpool.self", key=17, table="orders")
    assert result.rows == [("s3",)]


def test_keys_and_ranges_are_grouped_by_shard(router: Router) -> None:
    groups = router.for_keys(range(100), table="orders")
    assert sorted(key for keys in groups.values() for key in keys) == list(range(100))
    routes = router.for_range(dt.date(2024, 6, 1), dt.date(2025, 6, 1), table="events")
    assert [route.shard for route in routes] == ["s0", "s1"]
    assert [route.shard for route in router.for_range(table="events")] == ["s0", "s1", "s2"]


def test_a_call_ends_by_its_deadline_and_the_shard_goes_on(router: Router) -> None:
    # The time is for the statements, and not for the first connections.
    router.scatter("select 1")
    route = router.for_key(1, table="orders")
    for call in (
        lambda: route.execute("select pg_sleep(30)", timeout=0.3),
        lambda: route.run(lambda conn: conn.execute("select pg_sleep(30)"), timeout=0.3),
    ):
        started = monotonic()
        with pytest.raises(DeadlineExceeded) as raised:
            call()
        in_time(monotonic() - started, 0.4)
        assert raised.value.shard == route.shard
    started = monotonic()
    with pytest.raises(DeadlineExceeded), route.connection(block_timeout=0.3) as conn:
        conn.execute("select pg_sleep(30)")
    with pytest.raises(ScatterError) as scattered:
        router.scatter("select pg_sleep(30)", timeout=0.3)
    in_time(monotonic() - started, 0.8)
    assert len(scattered.value.failures) == 4
    assert route.execute("select 1").rows == [(1,)]


def test_a_write_that_was_cut_says_that_it_may_be_applied(router: Router) -> None:
    route = router.for_key(1, table="orders")
    with pytest.raises(DeadlineExceeded) as raised:
        route.execute("insert into orders select 1, 1, 'x' from pg_sleep(30)", timeout=0.2)
    assert raised.value.applied == "unknown"
    with pytest.raises(DeadlineExceeded) as raised:
        route.execute("select pg_sleep(30)", timeout=0.2)
    assert raised.value.applied == "no"
    with pytest.raises(DeadlineExceeded) as raised:
        route.execute("select set_config('shop.seen', 'yes', false), pg_sleep(30)", timeout=0.2)
    assert raised.value.applied == "unknown"  # a function of a SELECT may leave something behind


def test_waiting_for_a_connection_ends_at_the_deadline(router: Router) -> None:
    route = router.for_key(1, table="orders")
    held = [route.connection() for _ in range(route._current_pools().primary.endpoint.pool.max_size)]
    try:
        for lease in held:
            lease.__enter__()
        started = monotonic()
        with pytest.raises(DeadlineExceeded) as raised:
            route.execute("select 1", timeout=0.2)
        in_time(monotonic() - started, 0.3)
        assert (raised.value.phase, raised.value.applied) == ("wait", "no")
    finally:
        for lease in held:
            lease.__exit__(None, None, None)
    assert route.execute("select 1").rows == [(1,)]


def test_a_router_is_used_between_open_and_close(topology_path: str) -> None:
    router = Router(topology_path)
    with pytest.raises(RouterMisuse, match="not open"):
        router.shard("s0").execute("select 1")
    router.open()
    router.shard("s0").execute("select 1")
    router.close()
    for call in (lambda: router.shard("s0").execute("select 1"), lambda: router.scatter("select 1"), router.open):
        with pytest.raises(RouterMisuse, match="closed"):
            call()


def test_nothing_is_opened_before_it_is_used(topology_path: str) -> None:
    with Router(topology_path) as router:
        router.shard("s2").execute("select 1")
        opened = {name: shard["primary"]["opened"] for name, shard in router.stats()["shards"].items()}
    assert opened == {"s0": False, "s1": False, "s2": True, "s3": False}


def test_a_borrowed_connection_is_given_back_by_hand(router: Router) -> None:
    shard = router.shard("s0")
    conn = shard.getconn()
    conn.execute("select 1")
    shard.putconn(conn)
    assert router.stats()["shards"]["s0"]["primary"]["in_flight"] == 0
    with pytest.raises(RouterMisuse, match="not lent"):
        shard.putconn(conn)


def test_what_plans_statements_is_imported_when_one_is_planned(topology_path: str) -> None:
    program = f"""if True:
        import sys
        from shardpool import Router
        parts = {{"shardpool.query." + name for name in ("analysis", "merge", "plans")}}
        with Router({topology_path!r}) as router:
            router.for_key(1, table="orders").execute("select 1")
            print(*sorted(parts & sys.modules.keys()))
            router.scatter("select 1")
            router.scatter("insert into orders values (%s, 1, 'x')", (1,))
            from shardpool.query.text import parser
            print(parser.library.cache_info().misses)
            router.execute("select count(*) from orders")
            print(parser.library.cache_info().misses, *sorted(parts & sys.modules.keys()))
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n0\n1 shardpool.query.analysis shardpool.query.merge shardpool.query.plans\n"


def test_an_option_with_another_value_than_there_is_lists_its_values(topology_path: str) -> None:
    one: Any = "every"
    with pytest.raises(ValueError, match="fanout='every' is none of its values: 'one', 'some' or 'all'"):
        Router(topology_path, fanout=one)
    with Router(topology_path) as router:
        for call in (router.execute, router.stream):
            with pytest.raises(ValueError, match="fanout='every' is none of its values: None, 'one', 'some' or 'all'"):
                call("select 1", fanout=one)
        for call in (router.execute, router.stream, router.explain):
            with pytest.raises(ValueError, match="strategy='every' is none of its values: None, 'combine' or 'pull'"):
                call("select 1", strategy=one)
        with pytest.raises(ValueError, match="per='every' is none of its values: 'item', 'shard' or 'all'"):
            router.map(lambda conn, item: None, [1], key=int, table="orders", per=one)


def test_wide_rows_are_loaded_and_streamed_a_few_at_a_time(topology_path: str) -> None:
    program = f"""if True:
        from resource import RUSAGE_SELF, getrusage
        from shardpool import Router

        def peak():
            return getrusage(RUSAGE_SELF).ru_maxrss / 1024

        columns = ["tenant_id", "n", "note"]
        with Router({topology_path!r}) as router:
            router.copy_into("orders", [(1, 1, "x")], columns=columns)
            begun = peak()
            router.copy_into("orders", ((key, 2, "x" * 2**23) for key in range(24)), columns=columns)
            print(peak() - begun)
            wide = "insert into orders select 1, 2 + g, repeat('x', 3000000) from generate_series(1, 32) g"
            router.scatter(wide, timeout=60)
            print(sum(1 for _ in router.stream("select * from orders", timeout=60)))
            print(peak() - begun)
    """
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    copied, rows, streamed = map(float, done.stdout.split())
    assert rows == 1 + 24 + 4 * 32
    # 192 MiB were loaded, and 560 MiB were read.
    assert copied < 120
    assert streamed < 350


def test_an_answer_that_is_too_large_is_given_up_while_it_comes(topology_path: str) -> None:
    large = "select repeat('x', 200000) from generate_series(1, 100)"
    slow = "select repeat('x', 200000), pg_sleep(0.01) from generate_series(1, 1000)"
    with Router(topology_path, max_result_bytes=4 * 2**20) as router:
        router.scatter("insert into orders select 1, g, repeat('x', 200000) from generate_series(1, 80) g")
        for call in (
            lambda: router.shard("s0").execute(slow, timeout=60),
            lambda: router.execute("select * from orders"),
            lambda: router.execute("select a.n, b.note from orders a join orders b on a.n = b.n + 1", timeout=60),
            lambda: router.execute("select * from orders", partial=True),
        ):
            with pytest.raises(ResultTooLarge, match=r"(?s)more than 4 MiB.*stream.*max_result_bytes"):
                call()
        with pytest.raises(ScatterError) as raised:
            router.scatter(large, shards=["s1", "s2"])
        assert {type(error) for error in raised.value.failures.values()} == {ResultTooLarge}
        with pytest.raises(ResultTooLarge, match="may have been applied"):
            router.shard("s0").execute(
                "insert into orders select 2, g, repeat('x', 200000) from generate_series(1, 200) g "
                "returning note, pg_sleep(0.01)",
                timeout=60,
            )
        assert router.execute("select count(*) from orders where n <= 20").one()[0] >= 80
        assert router.scatter("select 1").keys() == {"s0", "s1", "s2", "s3"}
    with Router(topology_path, max_result_bytes=None) as router:
        assert len(router.shard("s0").execute(large)) == 100


def test_a_process_that_only_scatters_imports_no_planner(topology_path: str) -> None:
    script = (
        "import sys; from shardpool import Router\n"
        "with Router(sys.argv[1]) as router:\n"
        "    router.for_key(1, table='orders').execute('select 1')\n"
        "    assert len(router.scatter('select 1')) == 4\n"
        "print(*(name for name in sys.modules if name.startswith('shardpool.query.analysis')))"
    )
    done = subprocess.run([sys.executable, "-c", script, topology_path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stdout + done.stderr
