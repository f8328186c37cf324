"""What a statement may leave in its session, told from its text: in doubt it leaves something."""

from __future__ import annotations

from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardpool._endpoint.session_sql import ENDS, Left, _left_by_text, dirties, left_by, marks_of
from tests.timing import in_time

HARMLESS = [
    "select 1",
    "  -- a comment\n /* and another */ (select 1) union (select 2)",
    "SELECT * FROM orders WHERE tenant_id = $1",
    "insert into orders (temp) values (1)",
    "select temp, temperature, prepare, role, listen from sensors",
    "with x as (select 1) update t set a = 1 from x",
    "update t set role = 1",
    "begin",
    "begin; set local statement_timeout = 1; select 1; commit",
    "set transaction isolation level serializable",
    "SET CONSTRAINTS ALL DEFERRED",
    "create table t (a int)",
    "create or replace view v as select 1",
    "create unique index on t (a)",
    "alter table t add column temp int",
    "drop table t",
    "declare c cursor for select 1",
    "copy t from stdin",
    "select pg_advisory_xact_lock(1), pg_try_advisory_xact_lock(2)",
    "select set_config('app.tenant', $1, true)",
    "select set_config('app.tenant', '42', true), set_config('app.user', $1::text, TRUE)",
    "notify channel",
    "",
    ";",
]
LEAVING = [
    "set search_path = x",
    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
    "set role app",
    "set session authorization app",
    "set localx = 1",
    "reset all",
    "listen c",
    "unlisten *",
    "prepare p as select 1",
    "execute p",
    "deallocate p",
    "discard all",
    "do $$ begin end $$",
    "call f()",
    "select 1; set a.b = 1",
    "select 1;/* */set a.b = 1",
    "-- select\nset a.b = 1",
    "-- (select\rset a.b = 1",
    "/* select */ set a.b = 1",
    "/* /* */ select 1 */ set a.b = 1",
    "/* ; */ set a.b = 1",
    "select set_config('a.b', 'c', false)",
    "select set_config('a.b', $1, $2)",
    "select set_config('a.b', ', true)', false)",
    "select set_config('a.b', 'x', true), set_config('a.b', 'y', false)",
    "select u&\"set\\005fconfig\"('a.b', 'c', false)",
    "select query_to_xml($1, true, true, '')",
    "select setseed(0.5)",
    "select pg_advisory_lock(1)",
    "select pg_try_advisory_lock_shared(1)",
    "create temp table t (a int)",
    "CREATE  TEMPORARY\tTABLE t (a int)",
    "create local temp table t (a int)",
    "create or replace temp view v as select 1",
    "create /* */ temp table t (a int)",
    "create temp sequence s",
    "create table pg_temp.t (a int)",
    "create extension hstore",
    "select 1 into temp t",
    "select 1 into temporary table t",
    "explain analyze create temp table t as select 1",
    "declare c cursor with hold for select 1",
    "with_x",
    "selecting",
    "nonsense",
    "\ufeffselect 1",
]
LASTING = ["load 'auto_explain'", " LOAD 'x'", "select 1; load 'x'", "select dblink_connect('c', 'dbname=x')"]


@pytest.mark.parametrize("text", HARMLESS)
def test_a_statement_that_leaves_nothing_costs_no_reset(text: str) -> None:
    assert not dirties(text)


@pytest.mark.parametrize("text", LEAVING)
def test_a_statement_that_may_leave_something_is_found(text: str) -> None:
    assert left_by(text.encode()) is Left.STATE


@pytest.mark.parametrize("text", LASTING)
def test_what_no_reset_undoes_is_told_apart(text: str) -> None:
    assert left_by(text.encode()) is Left.LASTING


BLANK = st.lists(
    st.sampled_from([" ", "\n", "\t", "(", "-- select 1\n", "--;\n", "/* select */", "/**/", "/* -- */"]), max_size=4
).map("".join)
QUIET = st.sampled_from(["select 1", "insert into t values ('x')", "update t set a = 1", "commit", "show all"])
STIRRING = st.sampled_from(
    ["set a.b = 1", "set role x", "reset all", "listen c", "prepare p as select 1", "load 'x'", "do 'x'", "discard all"]
)
SEPARATED = st.lists(st.tuples(BLANK, QUIET), max_size=3)


@given(before=SEPARATED, blank=BLANK, stirring=STIRRING, after=SEPARATED)
def test_one_statement_that_leaves_something_is_found_among_others(
    before: list[tuple[str, str]], blank: str, stirring: str, after: list[tuple[str, str]]
) -> None:
    texts = ["".join(one) for one in before] + [blank + stirring] + ["".join(one) for one in after]
    assert dirties(";".join(texts))


@given(
    st.lists(st.tuples(st.sampled_from(["", " ", "\n", "-- x\n", "/* x */"]), QUIET), min_size=1).map(
        lambda them: ";".join("".join(one) for one in them)
    )
)
def test_statements_that_leave_nothing_leave_nothing_together(text: str) -> None:
    assert not dirties(text)


@given(st.binary())
def test_any_bytes_are_judged(text: bytes) -> None:
    assert left_by(text) in Left


@pytest.mark.parametrize("piece", ["/*", "--", "(", "/* */", "create ", "set_config(", "';", "-- x\n", "\\'"])
def test_a_hostile_text_is_judged_quickly(piece: str) -> None:
    begun = perf_counter()
    left_by((piece * 100_000)[:99_999].encode())
    left_by(("select 1 " + piece * 100_000)[:99_999].encode())
    in_time(perf_counter() - begun, 2)


def test_what_is_remembered_is_bounded() -> None:
    for number in range(10_000):
        left_by(b"select %d" % number)
    assert len(_left_by_text) <= 4096


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("commit", True),
        ("select 1; /* now */ END work", True),
        ("rollback", True),
        ("ROLLBACK AND CHAIN", True),
        ("abort", True),
        ("prepare transaction 'x'", True),
        ("rollback to savepoint a", False),
        ("rollback work to a", False),
        ("release savepoint a", False),
        ("select 'commit'", False),
        ("prepare commit as select 1", False),
        ("update t set commit = 1", False),
    ],
)
def test_a_text_that_ends_its_transaction_is_told(text: str, ends: bool) -> None:
    assert bool(marks_of(text.encode()) & ENDS) is ends
