"""SQL over several shards: strategies, bounds, guards, what goes wrong. That its answers are right: tests/oracle."""

from __future__ import annotations

import json
import re
from contextlib import closing
from time import monotonic

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row, namedtuple_row

from shardpool import AsyncRouter, DeadlineExceeded, Router, ScatterError, UnknownTable, UnsupportedQuery
from shardpool.control.catalog import CATALOG_QUERY, OTHERS_QUERY, WRITES_QUERY
from tests.timing import in_time

ROWS = 400


@pytest.fixture
def shop(router: Router) -> Router:
    router.copy_into("orders", [(n % 40, n, f"note {n}") for n in range(ROWS)], columns=["tenant_id", "n", "note"])
    router.copy_into("countries", [("de", "Germany"), ("fr", "France")], columns=["code", "name"])
    return router


@pytest.mark.parametrize(
    ("query", "strategy"),
    [
        ("select * from orders where tenant_id = 3", "one"),
        ("select * from orders", "concatenate"),
        ("select * from orders order by n limit 5", "merge"),
        ("select count(*), max(n) from orders", "add"),
        ("select note, count(*) from orders group by note order by 1", "combine"),
        ("select avg(n) over (order by n) from orders", "pull"),
        ("select count(*) from countries", "one"),
    ],
)
def test_the_plan_tells_the_strategy_that_is_taken_and_counted(shop: Router, query: str, strategy: str) -> None:
    before = shop.stats()["statements"][strategy]
    plan = shop.explain(query)
    assert plan.strategy == strategy
    assert json.dumps(plan.as_dict())
    assert plan.describe().startswith(f"strategy: {strategy} ")
    result = shop.execute(query)
    assert result.plan is not None
    assert result.plan.strategy == strategy
    assert shop.stats()["statements"][strategy] == before + 1


def test_explain_runs_nothing(shop: Router) -> None:
    shop.explain("delete from orders")
    assert shop.execute("select count(*) from orders").one() == (ROWS,)


def test_row_factories_columns_and_rowcount_are_those_of_one_answer(shop: Router) -> None:
    result = shop.execute("select tenant_id, n from orders order by n desc limit 3", row_factory=dict_row)
    assert result.rows == [{"tenant_id": n % 40, "n": n} for n in (399, 398, 397)]
    assert result.columns == ("tenant_id", "n")
    assert result.rowcount == len(result) == 3
    assert [column.name for column in result.description or []] == ["tenant_id", "n"]
    assert result.statusmessage == "SELECT 3"
    named = shop.execute('select n from orders order by note collate "C", n limit 1', row_factory=namedtuple_row)
    assert named.one().n == 0
    assert shop.execute("select count(*) as all from orders", row_factory=dict_row).one() == {"all": ROWS}


@pytest.mark.parametrize("binary", [False, True])
def test_binary_rows_are_the_same(shop: Router, binary: bool) -> None:
    for query in (
        "select n, note from orders order by n desc limit 4",
        "select n from orders where n < 3 order by tenant_id, n",
        "select count(*), min(n) from orders",
        "select note, sum(n) from orders group by 1 order by 2 desc limit 2",
    ):
        assert shop.execute(query, binary=binary).rows == shop.execute(query, strategy="pull").rows


def test_queries_may_be_bytes_or_composed_and_parameters_named(shop: Router) -> None:
    composed = sql.SQL("select count(*) from {} where n < {}").format(sql.Identifier("orders"), sql.Placeholder("top"))
    assert shop.execute(composed, {"top": 10}).one() == (10,)
    assert shop.execute(b"select count(*) from orders where n < %s", [10]).one() == (10,)
    assert shop.execute(sql.SQL("select n from orders where tenant_id = %s order by n limit 1"), [7]).one() == (7,)


def test_fanout_forbids_more_shards_than_it_says(shop: Router) -> None:
    assert shop.execute("select count(*) from orders where tenant_id = %s", (1,), fanout="one").one() == (10,)
    keys = "select count(*) from orders where tenant_id = any(%s)"
    assert shop.execute(keys, (list(range(8)),), fanout="some").one() == (80,)
    with pytest.raises(UnsupportedQuery, match="fanout='one' forbids it") as raised:
        shop.execute(keys, (list(range(8)),), fanout="one")
    assert "orders: key = any($1)" in str(raised.value)
    with pytest.raises(UnsupportedQuery, match="fanout='some' forbids it"):
        shop.execute("select count(*) from orders", fanout="some")


def test_fanout_of_the_router_is_the_default(topology_path: str) -> None:
    with Router(topology_path, fanout="one") as router:
        with pytest.raises(UnsupportedQuery, match="fanout='one'"):
            router.execute("select count(*) from orders")
        assert router.execute("select count(*) from orders", fanout="all").one() == (0,)


def test_a_pull_over_its_guard_is_refused_with_the_reason(topology_path: str) -> None:
    with Router(topology_path, max_pull_rows=50) as router:
        router.copy_into("orders", [(n % 40, n, "x") for n in range(ROWS)], columns=["tenant_id", "n", "note"])
        with pytest.raises(UnsupportedQuery, match="more than 50 rows would have to be brought to one shard") as raised:
            router.execute("select sum(n) over (order by n) from orders")
        assert "a window without the partition key" in str(raised.value)
        assert router.execute("select sum(n) over (order by n) from orders where n < 40 limit 1").one() == (0,)
        assert router.execute("select count(*) from orders").one() == (ROWS,)


def test_errors_of_statements_are_those_of_one_server(shop: Router) -> None:
    for query, error in {
        "selec 1": psycopg.errors.SyntaxError,
        "select nix from orders": psycopg.errors.UndefinedColumn,
        "select nix from orders order by 1": psycopg.errors.UndefinedColumn,
        "select 1 / (n - n) from orders": psycopg.errors.DivisionByZero,
        "select avg(1 / (n - n)) from orders": psycopg.errors.DivisionByZero,
        "select n + note from orders": psycopg.errors.UndefinedFunction,
        "select nix(n) from orders": psycopg.errors.UndefinedFunction,
        "select sum(nix) over (order by n) from orders": psycopg.errors.UndefinedColumn,
    }.items():
        with pytest.raises(error):
            shop.execute(query)
    with pytest.raises(UnknownTable):
        shop.execute("select * from order_s")
    with pytest.raises(psycopg.ProgrammingError, match="cannot adapt type 'object'"):
        shop.execute("select count(*) from orders where note = %s", (object(),))
    assert shop.execute("select count(*) from orders").one() == (ROWS,)


def test_the_others_are_cancelled_when_one_shard_fails(shop: Router) -> None:
    slow = "(select count(*) from generate_series(1, 2000000000) g)"
    other = next(key for key in range(40) if shop.for_key(key, table="orders").shard != "s3")
    query = f"select case when tenant_id = 17 then 1 / (n - n) else {slow} end from orders where tenant_id in (17, %s)"
    begun = monotonic()
    with pytest.raises(psycopg.errors.DivisionByZero):
        shop.execute(query, (other,), timeout=30)
    in_time(monotonic() - begun, 3)
    running = shop.scatter(
        "select count(*) from pg_stat_activity where datname = current_database() and state = 'active' "
        "and query like '%2000000000%' and pid <> pg_backend_pid()"
    )
    assert {name: result.one()[0] for name, result in running.items()} == dict.fromkeys(shop.shards, 0)


@pytest.mark.parametrize(
    "query",
    [
        "select count((select count(*) from generate_series(1, 2000000000) g where g > n)) from orders",
        "select (select count(*) from generate_series(1, 2000000000) g where g > n) from orders order by note, n",
        "select pg_sleep(20), count(*) from orders",
    ],
)
def test_a_deadline_is_kept_by_every_strategy(shop: Router, query: str) -> None:
    shop.execute("select count(*) from orders")
    begun = monotonic()
    with pytest.raises((DeadlineExceeded, ScatterError)):
        shop.execute(query, timeout=0.5)
    in_time(monotonic() - begun, 0.8)
    assert shop.execute("select count(*) from orders").one() == (ROWS,)


def test_a_shard_that_is_lost_in_the_middle_is_named(shop: Router) -> None:
    """The session is ended from inside, on one shard, while the others answer."""
    kill = (
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    )
    for query in ("select count(*) from orders", "select sum(n) over (order by n) from orders"):
        shop.execute(query)
        shop.shard("s2").execute(kill)
        assert len(shop.execute(query).rows) in (1, ROWS)  # idle connections that have gone are replaced


def test_shards_that_differ_are_refused_by_name(topology_path: str) -> None:
    with Router(topology_path) as router:
        router.shard("s2").execute("alter table orders add column extra int")
        with pytest.raises(UnsupportedQuery, match=r"not alike: table orders \(column extra\)"):
            router.execute("select count(*) from orders")
        assert router.execute("select count(*) from orders where tenant_id = 1").one() == (0,)
        router.shard("s2").execute("alter table orders drop column extra")
        assert router.execute("select count(*) from orders").one() == (0,)


@pytest.mark.parametrize(
    ("ddl", "difference", "touching", "untouched"),
    [
        (
            "create function extra(int) returns int immutable language sql as 'select 1'",
            r"function extra\(\)",
            "select count(extra(n)) from orders",
            "select max(n) from orders",
        ),
        (
            "create function extra(int) returns int immutable language sql as 'select 1'",
            r"function extra\(\)",
            "select count(twice(n)) from orders",
            "delete from orders where n < 0",
        ),
        (
            "alter table orders alter column note set not null",
            r"table orders \(column note\)",
            "select count(*) from orders",
            "select count(*) from events e join countries c on c.code = e.n::text",
        ),
        (
            "alter table orders add column extra int",
            r"table orders \(column extra\)",
            "update orders set note = 'x' where n > 3",
            "update events set n = 4 where n > 3",
        ),
        (
            "alter table countries alter column name type varchar(50)",
            r"table countries \(column name\)",
            "select count(*) from orders where note in (with c as (select name from countries) select name from c)",
            "select n from orders order by n",
        ),
        (
            "create operator public.<%> (leftarg = int, rightarg = int, function = int4pl)",
            "operator <%>",
            "select count(n <%> 1) from orders",
            "select n from orders order by n % 3",
        ),
        (
            "do $$begin execute format('alter database %I set timezone to Japan', current_database()); end$$",
            "setting TimeZone",
            "select count(*) from orders",
            "select count(*) from orders where tenant_id = 1",
        ),
    ],
)
def test_what_differs_between_shards_refuses_only_what_touches_it(
    topology_path: str, ddl: str, difference: str, touching: str, untouched: str
) -> None:
    with Router(topology_path) as router:
        router.scatter("create function twice(int) returns int immutable language sql as 'select 2 * $1'")
        router.shard("s1").execute(ddl)
    with Router(topology_path) as router:
        for _ in range(2):
            router.execute(untouched)
            with pytest.raises((UnsupportedQuery, psycopg.errors.UndefinedFunction)) as raised:
                router.execute(touching)
            if isinstance(raised.value, UnsupportedQuery):
                assert re.search("not alike: .*" + difference, str(raised.value))


def test_enums_with_other_orders_are_refused(topology_path: str) -> None:
    with Router(topology_path) as router:
        for name in router.shards:
            labels = "'low', 'high'" if name != "s2" else "'high', 'low'"
            router.shard(name).execute(f"create type level as enum ({labels})")
        router.scatter("alter table orders add column level level")
        with pytest.raises(UnsupportedQuery, match="values of the enum level"):
            router.execute("select * from orders order by level")


def test_ddl_through_the_router_is_seen_at_once(shop: Router) -> None:
    assert "extra" not in shop.execute("select * from orders limit 1").columns
    shop.scatter("alter table orders add column extra int default 7")
    assert shop.execute("select sum(extra) from orders").one() == (7 * ROWS,)
    shop.scatter("create function twice(int) returns int immutable language sql as 'select 2 * $1'")
    assert shop.execute("select sum(twice(extra)) from orders").one() == (14 * ROWS,)


def test_check_finds_copies_of_a_reference_table_that_differ(shop: Router) -> None:
    assert shop.check().ok
    shop.shard("s3").execute("update countries set name = 'Frankreich' where code = 'fr'")
    findings = [finding for finding in shop.check().findings if finding.level == "error"]
    assert [finding.subject for finding in findings] == ["s3/countries"]
    assert "are not the 2 rows of the copy on" in findings[0].message
    with pytest.raises(UnsupportedQuery, match="copies of the reference table are not the same"):
        shop.execute("update countries set name = upper(name) where name = 'France'")
    assert shop.shard("s0").execute("select name from countries where code = 'fr'").one() == ("France",)


def test_check_tells_of_a_copy_that_it_could_not_read_in_time(shop: Router) -> None:
    with shop.shard("s2").transaction() as conn:
        conn.execute("lock table countries in access exclusive mode")
        findings = [finding for finding in shop.check(timeout=6).findings if finding.level != "ok"]
    assert [finding.subject for finding in findings] == ["s2/countries"]
    assert findings[0].level == "warning" and "were not compared" in findings[0].message


def test_a_write_that_one_shard_refuses_is_done_on_none(shop: Router) -> None:
    shop.scatter("alter table orders add constraint small check (n < 1000)")
    with pytest.raises(psycopg.errors.CheckViolation):
        shop.execute("update orders set n = n + 700 where n > 100")
    assert shop.execute("select max(n) from orders").one() == (ROWS - 1,)


def test_stream_gives_the_rows_of_execute_in_order(shop: Router) -> None:
    for query in (
        "select n from orders order by n",
        "select n from orders order by n desc limit 7 offset 3",
        "select note, n from orders order by 1, 2",
        "select sum(n) over (order by n) from orders order by 1",
    ):
        assert list(shop.stream(query, size=10)) == shop.execute(query).rows
    assert sorted(shop.stream("select n from orders", size=10)) == [(n,) for n in range(ROWS)]
    assert next(iter(shop.stream("select n from orders order by n", row_factory=dict_row))) == {"n": 0}


def test_stream_raises_no_error_of_data_that_one_server_would_not(shop: Router) -> None:
    assert list(shop.stream("select 1 from orders where 1 / (n - n) = 1 having 1 < 2")) == [(1,)]
    assert list(shop.stream("select 1 / (n - n) from orders limit 1 - 1")) == []
    with pytest.raises(psycopg.errors.DivisionByZero):
        list(shop.stream("select 1 / (n - n) from orders order by n limit 3"))
    shop.max_pull_rows = 10
    with pytest.raises(psycopg.errors.DivisionByZero):
        shop.execute("select 1 / (n - n) from orders order by n limit 3")


def test_what_is_wrong_with_a_parameter_costs_no_more_than_on_one_server(shop: Router) -> None:
    with pytest.raises(psycopg.errors.DivisionByZero):
        shop.execute("select 1 / (n - n) from orders order by n limit 3")
    assert shop.stats()["statements"]["pull"] == 1
    for query, params in (
        ("select n from orders where n = %s order by n limit 3", ["no number"]),
        ("select n from orders where n > %s order by n limit 1 + 2", ["no number"]),
        ("select a.n from orders a join orders b using (n) where a.n > %s", ["no number"]),
        ("select n from orders order by n limit %s", [-1]),
        ("select n from orders order by note offset %s", [-1]),
    ):
        with pytest.raises(psycopg.errors.DataError):
            shop.execute(query, params)
    # The join is one by itself.
    assert shop.stats()["statements"]["pull"] == 2


@pytest.mark.parametrize("params", [None, ["new"]])
def test_all_shards_write_one_time(shop: Router, params: list[str] | None) -> None:
    shop.scatter("alter table orders add at timestamptz, add day date; alter table countries add at timestamptz")
    note = "'new'" if params is None else "%s"
    shop.execute(f"update orders set at = now(), day = current_date, note = {note}", params)
    assert shop.execute("select count(distinct at), min(note), bool_and(day = at::date) from orders").one() == (
        1,
        "new",
        True,
    )
    rows = ", ".join(f"({tenant}, 9000, {note}, now())" for tenant in (1, 2, 3))
    given = shop.execute(
        f"insert into orders (tenant_id, n, note, at) values {rows} returning tenant_id, now() - at, now()",
        params and params * 3,
    )
    assert given.columns == ("tenant_id", "?column?", "now")
    assert [row[0] for row in given] == [1, 2, 3]
    assert len({row[2] for row in given}) == 1
    assert shop.execute("delete from orders where at <= now() and n = 9000").rowcount == 3
    shop.execute("update countries set at = now()")
    assert len({tuple(found.rows) for found in shop.scatter("select at from countries order by 1").values()}) == 1
    with pytest.raises(UnsupportedQuery):
        shop.execute("update orders set at = clock_timestamp()")


@pytest.mark.parametrize(
    "insert",
    [
        "insert into countries (code, name) values ('x1', 'one'), ('x2', %s)",
        "insert into countries values ('x1', 'one'), ('x2', %s)",
        "insert into countries (made, code, name) values (default, 'x1', 'one'), (default, 'x2', %s)",
        "insert into countries (day, code, name) values (default, 'x1', 'one'), ('2020-01-01', 'x2', %s)",
    ],
)
def test_the_copies_of_a_reference_table_get_one_default_time(shop: Router, insert: str) -> None:
    shop.scatter("alter table countries add made timestamptz default now(), add day date default current_date")
    result = shop.execute(f"{insert} returning code, name, made, day", ["two"])
    assert [row[:2] for row in result] == [("x1", "one"), ("x2", "two")]
    assert all(None not in row for row in result)
    copies = shop.scatter("select code, name, made, day from countries where code like 'x_' order by 1").values()
    assert {tuple(found.rows) for found in copies} == {tuple(result.rows)}


def test_returning_is_in_the_order_of_values(shop: Router) -> None:
    keys = [7, 3, 12, 1, 25, 8, 2, 30]
    insert = f"insert into orders (tenant_id, n) values {', '.join(f'({key}, 5000)' for key in keys)}"
    assert [row[0] for row in shop.execute(f"{insert} returning tenant_id")] == keys
    again = shop.execute(f"{insert} on conflict (tenant_id, n) do update set note = 'again' returning tenant_id, note")
    assert again.rows == [(key, "again") for key in keys]
    assert again.statusmessage == "INSERT 0 8"
    assert shop.execute(f"{insert} on conflict do nothing returning tenant_id").rows == []


def test_merge_of_rows_that_match_is_done_by_each_shard(shop: Router) -> None:
    merge = (
        "merge into orders o using (select * from orders where n % 2 = 0) s on o.tenant_id = s.tenant_id and o.n = s.n"
        " when matched and s.n < 10 then delete when matched then update set note = 'merged'"
    )
    if shop.shard("s0").execute("show server_version_num").one() < ("150000",):
        with pytest.raises(psycopg.errors.SyntaxError):
            shop.execute(merge)
        return
    merged = shop.execute(merge)
    assert merged.rowcount == ROWS // 2
    assert shop.execute("select count(*), count(*) filter (where note = 'merged') from orders").one() == (395, 195)


@pytest.mark.parametrize(
    "query",
    [
        "select row(tenant_id, note), count(*) from orders group by 1 order by 1",
        "select json_exists('{}'::jsonb, '$.a'), count(*) from orders group by 1",
        "select count(*), max(n) from orders",
        "select n from orders order by n limit '3'",
    ],
)
def test_stream_takes_another_way_where_execute_does(shop: Router, query: str) -> None:
    if "json_exists" in query and shop.shard("s0").execute("show server_version_num").one() < ("170000",):
        for ask in (lambda: list(shop.stream(query)), lambda: shop.execute(query)):
            with pytest.raises(psycopg.errors.UndefinedFunction):
                ask()
        return
    # The stream comes first: what execute() has learned of a statement is kept.
    given = [list(shop.stream(query, size=size)) for size in (1, 1000)]
    assert given == [shop.execute(query).rows] * 2


def test_a_row_that_limit_cuts_off_is_not_decoded(router: Router) -> None:
    """Python has no value for a date of `infinity`: psycopg raises for it."""
    router.scatter("alter table countries add since date")
    router.scatter("insert into countries values ('zz', 'never', 'infinity'), ('aa', 'then', '2020-01-01')")
    router.copy_into("orders", [(n % 40, n, "x") for n in range(ROWS)], columns=["tenant_id", "n", "note"])
    query = "select n, since from orders join countries on code = case when n < 2 or n > 5 then 'zz' else 'aa' end"
    for binary in (False, True):
        cut = f"{query} order by n limit 4 offset 2"
        assert [row[0] for row in router.execute(cut, binary=binary)] == [2, 3, 4, 5]
        for size in (1, 1000):
            assert [row[0] for row in router.stream(cut, binary=binary, size=size)] == [2, 3, 4, 5]
    with pytest.raises(psycopg.DataError):
        list(router.execute(f"{query} order by n limit 5 offset 2"))
    with pytest.raises(psycopg.errors.UndefinedColumn):
        list(router.stream("select nosuch from orders order by n limit 0"))


def test_what_one_call_needs_is_not_done_for_the_next_ones(shop: Router) -> None:
    """Values that are asked for in binary, or a LIMIT that only a server can read, are no reason to pull ever after."""
    count, first = "select count(*) from orders", "select n from orders order by n limit %s"
    for params in (["3"], [3]):
        result = shop.execute(first, params)
        assert result.rows == [(0,), (1,), (2,)]
        assert result.plan is not None
        assert result.plan.strategy == ("combine" if params == ["3"] else "merge")
    for binary in (True, False):
        result = shop.execute(count, binary=binary)
        assert result.one() == (ROWS,)
        assert result.plan is not None
        assert result.plan.strategy == ("combine" if binary else "add")
    assert list(shop.stream(count)) == [(ROWS,)]
    assert shop.explain(count).strategy == "add"


def test_a_stream_that_is_left_early_gives_its_connections_back(shop: Router) -> None:
    for _ in range(20):
        with closing(shop.stream("select n, repeat('x', 10000) from orders order by n", size=5)) as rows:  # type: ignore[type-var]
            assert next(rows)[0] == 0
    stats = shop.stats()["shards"]
    assert {name: found["primary"]["in_flight"] for name, found in stats.items()} == dict.fromkeys(shop.shards, 0)


async def test_every_strategy_works_in_tasks(topology_path: str) -> None:
    async with AsyncRouter(topology_path) as router:
        await router.copy_into("orders", [(n % 40, n, "x") for n in range(ROWS)], columns=["tenant_id", "n", "note"])
        assert (await router.execute("select count(*) from orders")).one() == (ROWS,)
        assert (await router.execute("select n from orders order by n limit 2")).rows == [(0,), (1,)]
        assert (await router.execute("select note, avg(n) from orders group by 1")).rowcount == 1
        assert len(await router.execute("select sum(n) over (order by n) from orders")) == ROWS
        assert (await router.execute("update orders set note = 'y'")).rowcount == ROWS
        inserted = await router.execute("insert into orders values (1, 1000, 'a'), (2, 1000, 'b'), (3, 1000, 'c')")
        assert inserted.rowcount == 3
        assert [row async for row in router.stream("select n from orders order by n limit 3", size=2)] == [
            (0,),
            (1,),
            (2,),
        ]
        with pytest.raises(psycopg.errors.DivisionByZero):
            await router.execute("select 1 / (n - n) from orders")
        assert (await router.explain("select * from orders")).strategy == "concatenate"


def test_brought_tables_that_are_joined_have_statistics_when_they_are_large(shop: Router) -> None:
    shop.scatter(
        "create function analyzed() returns bigint immutable language sql as $$"
        "select count(*) from pg_class where relname like '\\_shardpool%' and reltuples >= 0 $$;"
        "create function target() returns text immutable language sql as $$"
        "select current_setting('default_statistics_target') $$"
    )
    joined = "select analyzed(), count(*) from orders a join orders b on a.n = b.n join events e on e.n > a.n"
    plan = shop.explain(joined)
    assert plan.strategy == "pull"
    assert shop.execute(joined).one() == (0, 0)
    shop.copy_into("events", [("2025-05-01", n) for n in range(200)], columns=["day", "n"])
    assert shop.execute(joined).one() == (2, sum(range(200)))
    assert shop.execute(joined.replace("analyzed", "target")).one()[0] == "100"
    shop.copy_into("orders", [(50, n, "more") for n in range(200)], columns=["tenant_id", "n", "note"])
    for other, expected in [("countries", 1), ("(values (1)) v", 0)]:
        alone = f"select analyzed(), avg(n) over () from orders, {other} limit 1"
        assert shop.execute(alone, strategy="pull").one()[0] == expected


def test_the_catalog_of_many_tables_is_not_compiled_by_the_server(server_dsn: str) -> None:
    """With jit, the default of many servers, a query that looks dearer than 100,000 takes seconds to be compiled."""
    names = [f"public.t{number}" for number in range(100)]
    with psycopg.connect(server_dsn, autocommit=True) as conn:
        for name in names:
            conn.execute(f"create table {name} (k bigint primary key, x int unique)")  # type: ignore[arg-type]
        for query in (CATALOG_QUERY, WRITES_QUERY, OTHERS_QUERY):
            plan = conn.execute(f"explain (format json) {query}", [names]).fetchone()  # type: ignore[arg-type]
            assert plan is not None
            assert plan[0][0]["Plan"]["Total Cost"] < 100_000
