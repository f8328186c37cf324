"""What a server tells of its tables: the first question, and those that only some tables need."""

from __future__ import annotations

import json
from typing import Any

import psycopg
import pytest

from shardpool import Router
from shardpool._runtime.deadlines import deadline_after
from shardpool.control.catalog import CATALOG_QUERY, facts, further
from tests.timing import SLOW, not_after

pytestmark = pytest.mark.servers


def told(conn: psycopg.Connection[Any], *tables: str) -> tuple[dict[str, Any], set[str]]:
    """The facts, and what was asked beyond the first question."""

    def ask(query: str, params: list[Any]) -> Any:
        (answer,) = conn.execute(query, params).fetchone()  # type: ignore[arg-type, misc]
        return json.loads(answer or "null")

    first = ask(CATALOG_QUERY, [list(tables)])
    asked = further(first, tables)
    return facts(first, {name: ask(*question) for name, question in asked.items()}), set(asked)


def test_plain_tables_are_told_of_by_the_first_question_alone(server_dsn: str) -> None:
    with psycopg.connect(server_dsn) as conn:
        conn.execute("create table plain (a int, b text, c int unique, primary key (b, a))")
        conn.execute('alter table plain add d int default 7, drop column c, add c text collate "C" not null')
        conn.execute("create unique index plain_x on plain (lower(b), d) include (a)")
        found, asked = told(conn, "public.plain", "public.nowhere")
        conn.rollback()
    assert asked == set()
    assert list(found["tables"]) == ["public.plain"]
    table = found["tables"]["public.plain"]
    assert [column[:2] for column in table["columns"]] == [
        ["a", "integer"],
        ["b", "text"],
        ["d", "integer"],
        ["c", "text"],
    ]
    assert (table["key"], table["triggered"], table["triggers"]) == (["b", "a"], False, None)
    assert table["unique"] == [["plain_pkey", ["b", "a"], False], ["plain_x", [None, "d"], False]]
    assert (found["functions"], found["enums"]) == (None, None)


def test_what_only_some_tables_have_is_asked_for(server_dsn: str) -> None:
    with psycopg.connect(server_dsn) as conn:
        conn.execute("create table whole (a int primary key, b int) partition by range (a)")
        conn.execute("create table part partition of whole for values from (0) to (9)")
        conn.execute("create unique index part_b on part (b)")
        conn.execute("create table excluding (r int4range, exclude using gist (r with &&))")
        conn.execute("create table referring (a int references whole on delete cascade)")
        conn.execute("create table ruled (a int)")
        conn.execute("create rule nothing as on delete to ruled do instead nothing")
        found, asked = told(conn, "public.whole", "public.part", "public.excluding", "public.ruled")
        conn.rollback()
    assert asked == {"writes"}
    tables = found["tables"]
    assert [index[0] for index in tables["public.whole"]["unique"]] == ["part_b", "whole_pkey"]
    assert [index[0] for index in tables["public.part"]["unique"]] == ["part_b"]
    assert tables["public.excluding"]["unique"] == [["excluding_r_excl", None, True]]
    assert [cascade[0] for cascade in tables["public.whole"]["cascades"]] == ["public.referring"]
    assert tables["public.ruled"]["rules"] == [["nothing", "DELETE"]]


@pytest.mark.parametrize(
    ("statement", "key", "name"),
    [
        ("create function f() returns int language sql as 'select 1'", "functions", "f"),
        ("create type mood as enum ('ok', 'sad')", "functions", "mood"),
        ("create operator === (procedure = int4eq, leftarg = int, rightarg = int)", "operators", "==="),
    ],
)
def test_what_is_not_postgresqls_own_is_asked_for(server_dsn: str, statement: str, key: str, name: str) -> None:
    with psycopg.connect(server_dsn) as conn:
        conn.execute(statement)  # type: ignore[arg-type]
        conn.execute("create table of_mood (moods mood[])") if name == "mood" else None
        found, asked = told(conn, "public.of_mood")
        conn.rollback()
    assert asked == {"others"}
    assert name in [row[0] for row in found[key]]
    assert found["enums"] == ({"mood": "ok, sad"} if name == "mood" else None)


def test_a_shard_that_was_found_to_be_like_the_others_is_not_asked_again(topology_path: str) -> None:
    with Router(topology_path) as router:
        planner, deadline = router._planner, deadline_after(SLOW)
        bound = planner.bind(planner.plan("select count(*) from orders", None, deadline), None, deadline)
        while len(planner.schema.differences) < len(bound.shards):
            # Shards that are slow to tell are waited for a moment only.
            assert planner.schema.is_fresh(bound.shards, deadline)
            not_after(deadline)
        before = [shard["primary"]["calls"] for shard in router.stats()["shards"].values()]
        assert planner.schema.are_alike(bound, deadline)
        assert [shard["primary"]["calls"] for shard in router.stats()["shards"].values()] == before
