"""Nothing that a caller does to a connection is found by the next one: pools of one connection, many kinds of state."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import ClientCursor, Connection, RawCursor
from psycopg.rows import dict_row, tuple_row
from psycopg.types.json import Jsonb

from shardpool import AsyncRouter, Router, ShardUnavailable, Topology
from shardpool.testing import EmbeddedFleet, Fleet
from shardpool.topology import PoolSettings


def alone(topology: Topology, **settings: Any) -> Topology:
    """The topology with one connection for each shard."""
    pool = PoolSettings(max_size=1, **settings)
    shards = {
        name: replace(shard, primary=replace(shard.primary, pool=pool)) for name, shard in topology.shards.items()
    }
    return replace(topology, shards=shards)


@pytest.fixture
def single(router: Router) -> Iterator[Router]:
    with Router(alone(router.topology)) as opened:
        yield opened


# A setting of an application's own is empty, not absent, once it has been set in a session.
_TENANT = "select coalesce(current_setting('app.tenant', true), '')"
# What one caller does, and what the next one asks, which must be answered as on a new connection.
STATES = {
    "a setting": ("set search_path = nowhere", "show search_path"),
    "a setting of the application": ("set app.tenant = '42'", _TENANT),
    "set_config": ("select set_config('work_mem', '77kB', false)", "show work_mem"),
    "a role": ("set role shardpool_other", "select current_user"),
    "a temporary table": ("create temp table t as select 1", "select to_regclass('t')"),
    "a temporary table, by into": ("select 1 into temp t", "select to_regclass('t')"),
    "an advisory lock": ("select pg_advisory_lock(1)", "select count(*) from pg_locks where locktype = 'advisory'"),
    "LISTEN": ("listen channel", "select pg_listening_channels()"),
    "a prepared statement": (
        "prepare mine as select 1",
        "select count(*) from pg_prepared_statements where from_sql",
    ),
    "an oddly named statement": (
        'prepare "_pg3_0; x" as select 1',
        "select count(*) from pg_prepared_statements where from_sql",
    ),
    "a cursor": ("declare c cursor with hold for select 1", "select count(*) from pg_cursors"),
    "a sequence's last value": (
        "create temp sequence s; select nextval('s')",
        "select count(*) from pg_class where relname = 's' and pg_table_is_visible(oid)",
    ),
    "a DO block": ("do $$ begin perform set_config('app.tenant', '1', false); end $$", _TENANT),
    "the second of two": ("select 1; set app.tenant = '42'", _TENANT),
}


@pytest.fixture(autouse=True)
def _other_role(router: Router) -> None:
    for shard in map(router.shard, router.shards):
        if not shard.execute("select from pg_roles where rolname = 'shardpool_other'").rows:
            shard.execute("create role shardpool_other")
            shard.execute("grant shardpool_other to current_user")


def answer(conn: Connection[Any], query: str) -> Any:
    try:
        return conn.execute(query).fetchall()
    except psycopg.Error as error:
        conn.rollback()
        return error.sqlstate


@pytest.mark.parametrize("how", ["execute", "block", "getconn", "scatter", "client cursor", "raw cursor", "failed"])
def test_session_state_does_not_cross_callers(single: Router, how: str) -> None:
    shard = single.shard("s0")
    pids = set()
    for kind, (change, question) in STATES.items():
        with shard.connection() as conn:
            new = answer(conn, question)
        _change(single, change, how)
        with shard.connection() as conn:
            assert answer(conn, question) == new, kind
            pids.add(conn.info.backend_pid)
    assert len(pids) == 1


def _change(router: Router, change: str, how: str) -> None:
    shard = router.shard("s0")
    match how:
        case "execute":
            shard.execute(change)
        case "scatter":
            router.scatter(change)
        case "getconn":
            conn = shard.getconn()
            conn.execute(change)
            conn.commit()
            shard.putconn(conn)
        case "failed":
            with pytest.raises(psycopg.errors.DivisionByZero), shard.connection() as conn:
                conn.execute(change)
                conn.commit()
                conn.execute("select 1 / 0")
        case _:
            cursors = {"block": lambda conn: conn.cursor(), "client cursor": ClientCursor, "raw cursor": RawCursor}
            with shard.connection() as conn:
                cursors[how](conn).execute(change)


async def test_session_state_does_not_cross_tasks(router: Router) -> None:
    async def ask(question: str) -> Any:
        async with shard.connection() as conn:
            try:
                return await (await conn.execute(question)).fetchall(), conn.info.backend_pid
            except psycopg.Error as error:
                return error.sqlstate, conn.info.backend_pid

    async with AsyncRouter(alone(router.topology)) as opened:
        shard = opened.shard("s0")
        for kind, (change, question) in STATES.items():
            new = await ask(question)
            async with shard.connection() as conn:
                await conn.execute(change)
            assert await ask(question) == new, kind


def test_state_that_a_stream_leaves_is_undone(single: Router) -> None:
    with single.shard("s0").connection() as conn:
        list(conn.cursor().stream("select set_config('app.tenant', '42', false)"))
    assert single.shard("s0").execute("select current_setting('app.tenant', true)").one()[0] in (None, "")


def test_state_that_a_pipeline_leaves_is_undone(single: Router) -> None:
    with single.shard("s0").connection() as conn, conn.pipeline():
        conn.execute("select 1")
        conn.execute("set app.tenant = '42'")
    assert single.shard("s0").execute("select current_setting('app.tenant', true)").one()[0] in (None, "")


def test_a_held_cursor_of_psycopg_is_closed(single: Router) -> None:
    with single.shard("s0").connection() as conn:
        cursor = conn.cursor("held", withhold=True)
        cursor.execute("select 1")
        conn.commit()
    assert single.shard("s0").execute("select count(*) from pg_cursors").one() == (0,)
    cursor._closed = True  # Or it would warn, rightly, that it was not closed by its caller.


def test_a_cursor_class_of_the_user_is_kept_and_seen(router: Router) -> None:
    class Traced(psycopg.Cursor[Any]):
        def execute(self, query: Any, params: Any = None, **kwargs: Any) -> Any:
            traced.append(query)
            return super().execute(query, params, **kwargs)

    traced: list[Any] = []
    kwargs = {"cursor_factory": Traced, "row_factory": dict_row}
    with Router(alone(router.topology), kwargs=kwargs) as opened:
        with opened.shard("s0").connection() as conn:
            assert type(conn.cursor()) is Traced
            conn.execute("set app.tenant = '42'")
        with opened.shard("s0").connection() as conn:
            found = conn.execute("select current_setting('app.tenant', true) as tenant").fetchone()
            assert found["tenant"] in (None, "")
    assert "set app.tenant = '42'" in traced
    assert not any("discard" in query for query in traced)


def test_statements_that_psycopg_has_prepared_outlive_a_reset(single: Router) -> None:
    shard = single.shard("s0")
    for _ in range(20):
        with shard.connection() as conn:
            conn.execute("select %s::int + 1", (1,), prepare=True)
            conn.execute("set app.tenant = '42'")
            conn.execute("prepare mine as select 1")
        single.scatter("select %s::int + 2", (1,))
    with shard.connection() as conn:
        names = [name for (name,) in conn.execute("select name from pg_prepared_statements")]
    assert {name[:5] for name in names} == {"_pg3_", "_shar"}


FORGETTING = [
    "deallocate all",
    "discard all",
    "deallocate prepare all",
    "select 1; deallocate all",
    "do $$ begin execute 'deallocate all'; end $$",
]


@pytest.mark.parametrize("text", FORGETTING)
def test_prepared_statements_that_one_call_throws_away_fail_no_other(single: Router, text: str) -> None:
    shard = single.shard("s0")

    def use() -> None:
        for _ in range(7):
            assert shard.execute("select %s::int + 1", (1,)).one() == (2,)
            assert single.scatter("select %s::int + 2", (1,))["s0"].one() == (3,)
            with shard.connection() as conn:
                assert conn.execute("select %s::int + 3", (1,)).fetchone() == (4,)

    use()
    single.scatter(text)
    use()
    shard.execute(text)
    use()
    if not text.startswith("discard"):  # which no transaction may run
        single.scatter(lambda conn: conn.execute(text))
        use()


def test_a_statement_whose_preparation_a_function_has_thrown_away_is_run_all_the_same(single: Router) -> None:
    shard = single.shard("s0")
    shard.execute(
        "create function forget() returns void language plpgsql as $$ begin execute 'dealloc' || 'ate all'; end $$"
    )
    for _ in range(7):
        shard.execute("select %s::int + 1", (1,))
    shard.execute("select forget()")
    assert shard.execute("select %s::int + 1", (1,)).one() == (2,)
    shard.execute("drop function forget()")


def test_parameters_given_at_the_start_of_a_connection_outlive_a_reset(router: Router) -> None:
    options = "-c search_path=pg_catalog -c role=shardpool_other -c work_mem=123kB"
    with Router(alone(router.topology), kwargs={"options": options, "application_name": "mine"}) as opened:
        shard = opened.shard("s0")
        query = (
            "select current_setting('search_path'), current_user, current_setting('work_mem'),"
            " current_setting('application_name'), current_setting('client_encoding')"
        )
        before = shard.execute(query).one()
        assert before[:4] == ("pg_catalog", "shardpool_other", "123kB", "mine")
        with shard.connection() as conn:
            conn.execute("set role none; set search_path = x; set work_mem = '1MB'; set application_name = 'other'")
        assert shard.execute(query).one() == before


def test_what_configure_has_set_outlives_a_reset(router: Router) -> None:
    def configure(conn: Connection[Any]) -> None:
        configured.append(conn)
        conn.execute("set app.tenant = 'none'")
        conn.commit()
        conn.row_factory = dict_row
        conn.add_notice_handler(print)

    configured: list[Any] = []
    with Router(alone(router.topology), configure=configure) as opened:
        for _ in range(3):
            with opened.shard("s0").connection() as conn:
                assert conn.execute("show app.tenant").fetchone() == {"app.tenant": "none"}
                assert conn._notice_handlers == [print]
                conn.execute("set app.tenant = '42'")
                conn.row_factory = tuple_row
                pid = conn.info.backend_pid
    assert len(configured) == 4 and len({id(conn) for conn in configured}) == 1
    assert pid


def test_a_configure_that_fails_after_a_reset_ends_the_connection_and_says_so(
    router: Router, caplog: pytest.LogCaptureFixture
) -> None:
    def configure(conn: Connection[Any]) -> None:
        configured.append(conn)
        if len(configured) == 2:
            raise RuntimeError("the second time")

    configured: list[Any] = []
    with Router(alone(router.topology), configure=configure) as opened:
        shard = opened.shard("s0")
        with caplog.at_level(logging.WARNING, "shardpool"):
            shard.execute("set app.tenant = '42'")
        assert "could not be reset: the second time" in caplog.text
        assert configured[0].closed
        assert shard.execute("select 1").one() == (1,)
        assert len(configured) == 3


def test_a_configure_that_leaves_a_transaction_open_is_an_error(router: Router) -> None:
    with (
        Router(alone(router.topology), configure=lambda conn: conn.execute("select 1") and None) as opened,
        pytest.raises(ShardUnavailable, match="cannot be reached") as raised,
    ):
        opened.shard("s0").execute("select 1")
    assert "configure() has left a transaction open" in str(raised.value)


@pytest.fixture
def superuser(router: Router, shardpool_fleet: Fleet) -> Iterator[Router]:
    """A router of one connection a shard, as superuser; only servers that the tests have started let it be."""
    if not isinstance(shardpool_fleet, EmbeddedFleet):
        pytest.skip("the servers are not this test's own")
    params = shardpool_fleet.fleet.servers[0].params("postgres", "postgres")
    with Router(alone(router.topology), kwargs={key: params[key] for key in ("user", "password")}) as opened:
        yield opened


def test_a_session_with_a_loaded_library_is_replaced(superuser: Router) -> None:
    shard = superuser.shard("s0")
    pid = shard.execute("select pg_backend_pid()").one()
    shard.execute("load 'plpgsql'")
    assert shard.execute("select pg_backend_pid()").one() != pid


def test_a_session_authorization_does_not_cross_callers(superuser: Router) -> None:
    shard = superuser.shard("s0")
    shard.execute("set session authorization shardpool_other")
    assert shard.execute("select session_user::text, current_user::text").one() == ("postgres", "postgres")


def test_settings_of_the_connection_object_do_not_cross_callers(single: Router) -> None:
    def heard(_: Any) -> None: ...

    shard = single.shard("s0")
    with shard.connection() as conn:
        first = conn
        new = conn.execute("select 1, '{}'::jsonb, '[1]'::jsonb").fetchone()
        conn.commit()
        conn.row_factory = dict_row
        conn.cursor_factory = ClientCursor
        conn.server_cursor_factory = psycopg.RawServerCursor
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        conn.read_only = True
        conn.deferrable = True
        conn.prepare_threshold = 0
        conn.prepared_max = 7
        conn.add_notice_handler(heard)
        conn.add_notify_handler(heard)
        conn.adapters.register_loader("int4", psycopg.types.string.TextLoader)
        conn.adapters.register_dumper(dict, psycopg.types.json.JsonbDumper)
        psycopg.types.json.set_json_loads(lambda _: "loaded", conn)
        conn.adapters.types.add(psycopg.types.TypeInfo("mine", 99999, 99998))
        assert conn.execute("select 1 as a, %s as b", ({},)).fetchone() == {"a": "1", "b": "loaded"}
    with shard.connection() as conn:
        assert conn is first
        assert conn.execute("select 1, '{}'::jsonb, '[1]'::jsonb").fetchone() == new
        assert type(conn.cursor()) is psycopg.Cursor
        assert conn.server_cursor_factory is psycopg.ServerCursor
        assert (conn.isolation_level, conn.read_only, conn.deferrable) == (None, None, None)
        assert conn.execute("show transaction_isolation").fetchone() == ("read committed",)
        assert (conn.prepare_threshold, conn.prepared_max) == (5, 100)
        assert not conn._notice_handlers and not conn._notify_handlers
        with pytest.raises(psycopg.ProgrammingError, match="cannot adapt type 'dict'"):
            conn.execute("select %s", ({},))
        assert conn.adapters.types.get("mine") is None


async def test_settings_of_the_connection_object_do_not_cross_tasks(router: Router) -> None:
    async with AsyncRouter(alone(router.topology)) as opened:
        shard = opened.shard("s0")
        async with shard.connection() as conn:
            first = conn
            await conn.set_isolation_level(psycopg.IsolationLevel.SERIALIZABLE)
            await conn.set_read_only(True)
            await conn.set_deferrable(True)
            conn.row_factory = dict_row
            conn.adapters.register_dumper(dict, psycopg.types.json.JsonbDumper)
        async with shard.connection() as conn:
            assert conn is first
            assert (conn.isolation_level, conn.read_only, conn.deferrable) == (None, None, None)
            assert await (await conn.execute("select 1, %s", (Jsonb({}),))).fetchone() == (1, {})


def test_settings_given_to_the_router_are_what_a_caller_finds(router: Router) -> None:
    with Router(alone(router.topology), kwargs={"row_factory": dict_row, "prepare_threshold": 2}) as opened:
        for _ in range(2):
            with opened.shard("s0").connection() as conn:
                assert conn.execute("select 1 as a").fetchone() == {"a": 1}
                assert conn.prepare_threshold == 2
                conn.row_factory = tuple_row
                conn.prepare_threshold = None


@pytest.mark.parametrize("left", ["a transaction block", "a pipeline", "a prepared transaction"])
def test_a_connection_in_the_middle_of_something_is_replaced(single: Router, left: str) -> None:
    shard = single.shard("s0")
    conn = shard.getconn()
    match left:
        case "a transaction block":
            block: Any = conn.transaction()
            block.__enter__()
            conn.execute("commit")
        case "a pipeline":
            block = conn.pipeline()
            block.__enter__()
        case "a prepared transaction":
            conn.tpc_begin("shardpool-test")
            conn.execute("select 1")
            conn.tpc_prepare()
    shard.putconn(conn)
    assert conn.closed
    block = None
    with shard.connection() as conn:
        if left == "a prepared transaction":
            conn.autocommit = True
            conn.execute("rollback prepared 'shardpool-test'")
        assert conn.execute("select 1").fetchone() == (1,)


def test_notifications_of_a_listener_are_not_told_to_the_next_caller(single: Router) -> None:
    shard = single.shard("s0")
    with shard.connection() as conn:
        conn.execute("listen channel")
        conn.commit()
        conn.execute("notify channel, 'secret'")
        conn.commit()
    with shard.connection() as conn:
        assert list(conn.notifies(timeout=0.1)) == []


def test_who_leaves_nothing_pays_no_round_trip(single: Router, tmp_path: Path) -> None:
    def quiet(conn: Connection[Any]) -> None:
        conn.execute("select 1")
        conn.execute("set local work_mem = '1MB'")
        conn.execute("insert into orders values (%s, %s)", (1, 1))
        conn.cursor().executemany("insert into orders values (%s, %s)", [(1, 2), (1, 3)])
        conn.row_factory = dict_row

    shard = single.shard("s0")
    trace = tmp_path / "trace"
    with trace.open("w") as file:
        with shard.connection() as conn:
            conn.pgconn.trace(file.fileno())
        shard.run(quiet)
        shard.execute("select 1")
        single.scatter("select 1")
        single.copy_into("orders", [(1, 4, "x")], columns=["tenant_id", "n", "note"])
        with shard.connection() as conn:
            conn.pgconn.untrace()
        quiet_trace = trace.read_text()
        with shard.connection() as conn:
            conn.pgconn.trace(file.fileno())
        shard.execute("set app.x = 1")
        with shard.connection() as conn:
            conn.pgconn.untrace()
    assert "insert into orders" in quiet_trace and "COPY" in quiet_trace
    assert "discard" not in quiet_trace
    assert trace.read_text().count("discard temp") == 1


@pytest.mark.parametrize("reset, found", [("never", "42"), ("always", ""), ("dirty", "")])
def test_when_sessions_are_reset_can_be_chosen(router: Router, reset: Any, found: str) -> None:
    with Router(alone(router.topology, reset=reset)) as opened:
        shard = opened.shard("s0")
        shard.execute(
            "create function quietly() returns text language sql as $$ select set_config('a.b', '42', false) $$"
        )
        shard.execute("set app.tenant = '42'")
        assert (shard.execute("select current_setting('app.tenant', true)").one()[0] or "") == found
        shard.execute("select quietly()")
        seen = shard.execute("select current_setting('a.b', true)").one()[0] or ""
        # What a function does is seen by nobody: only `always` undoes it.
        assert seen == ("" if reset == "always" else "42")


def test_a_transaction_pooler_has_sessions_of_its_own(router: Router) -> None:
    endpoint = router.topology.shards["s0"].primary
    assert endpoint.reset == "dirty"
    assert replace(endpoint, pooler="transaction").reset == "never"
    assert replace(endpoint, pooler="transaction", pool=PoolSettings(reset="dirty")).reset == "dirty"
