"""Files of migrations, their sums, their steps, and what is planned of them."""

from __future__ import annotations

from time import process_time
from typing import Any

import pytest

from shardpool import parse_topology
from shardpool.cli.migrate.output import print_status
from shardpool.errors import BadMigration
from shardpool.schema.drift import Thing, compare
from shardpool.schema.files import Folder, Migration, checksum, parse, seconds
from shardpool.schema.plan import plan_down, plan_up, shards_of
from shardpool.schema.programs import url
from shardpool.schema.rollout import Rollout
from shardpool.schema.rows import row_problems
from shardpool.schema.state import MigrationRow, ShardState
from shardpool.schema.status import Line, Status
from shardpool.schema.steps import check, statements, steps
from shardpool.schema.sums import problems, sum_text
from tests.timing import in_time

TOPOLOGY = parse_topology(
    """\
version: 1
fleet: shop
epoch: 1
shards:
  s0: {primary: {host: localhost, dbname: a}}
  s1: {primary: {host: localhost, dbname: b}}
  eu1: {primary: {host: localhost, dbname: c}}
keyspaces:
  tenants: {key: bigint, hash: {buckets: 4, owners: {s0: 0-1, s1: 2-3}}, tables: {orders: tenant_id}}
reference_tables: [countries]
single_tables: {audit_log: s1}
"""
)


def made(text: str, version: int = 1, name: str = "a") -> Migration:
    return parse(f"{version}_{name}.sql", text)


def test_a_file_of_dbmate_is_read_as_dbmate_reads_it() -> None:
    text = "-- a remark\n\n-- migrate:up transaction:false\ncreate table a (n int);\n-- migrate:down\ndrop table a;\n"
    found = parse("20260101000000_make_a.sql", text)
    assert (found.version, found.name) == ("20260101000000", "make_a")
    assert not found.up.transactional
    assert found.down is not None and found.down.transactional
    assert found.up.sql.strip() == "create table a (n int);"
    assert found.down.sql.strip() == "drop table a;"
    assert [step.line for step in steps(found.file, found.up)] == [4]


def test_a_statement_begins_below_the_comments_above_it() -> None:
    found = made("-- migrate:up\n-- one\n/* two\n*/ -- three\n\nselect 1; -- four\nselect 2;\n")
    assert list(statements(found.up)) == [("select 1", 6), ("select 2", 7)]


def test_directives_stand_above_the_first_statement() -> None:
    found = made(
        "-- migrate:up\n-- shard: phase=contract lock_timeout=500ms only=s0,eu*\n-- shard-assert: select true;\n"
        "create function f() returns int language sql as $$\n-- shard: phase=expand\nselect 1 $$;\n-- migrate:down\n"
    )
    assert (found.phase, found.up.lock_timeout, found.only) == ("contract", 0.5, ("s0", "eu*"))
    assert found.asserts == ("select true",)
    assert found.down is not None and found.down.lock_timeout == 0.5
    assert shards_of(found, TOPOLOGY) == ("s0", "eu1")


@pytest.mark.parametrize(
    ("only", "shards"),
    [("keyspace:tenants", ("s0", "s1")), ("table:audit_log", ("s1",)), ("table:orders", ("s0", "s1", "eu1"))],
)
def test_only_may_name_what_lives_there(only: str, shards: tuple[str, ...]) -> None:
    assert shards_of(made(f"-- migrate:up\n-- shard: only={only}\nselect 1;"), TOPOLOGY) == shards


def test_only_may_name_a_shard_that_was_there_once_but_not_in_a_new_migration() -> None:
    old, new = made("-- migrate:up\n-- shard: only=s9\nselect 1;"), made("-- migrate:up\nselect 1;", 2, "b")
    folder = Folder("migrations", (old, new))
    nowhere = {name: ShardState(name, {}) for name in TOPOLOGY.shards}
    assert [str(problem) for problem in plan_up(folder, TOPOLOGY, nowhere).problems] == [
        "1_a.sql: only=s9 means no shard"
    ]
    later = {name: ShardState(name, {"2": MigrationRow("2", "b", new.checksum, "applied")}) for name in TOPOLOGY.shards}
    assert plan_up(folder, TOPOLOGY, later).problems == ()
    assert shards_of(old, TOPOLOGY) == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("create table a (n int);", "has no line"),
        ("-- migrate:up\nselect 1;\n-- migrate:down\n-- migrate:up\nselect 2;\n", ":4: a second `-- migrate:up`"),
        ("-- migrate:up\n-- migrate:down\n-- migrate:down\n", ":3: a second `-- migrate:down`"),
        ("select 1;\n-- migrate:up\n", "1_a.sql:1: a statement before"),
        ("-- migrate:down\n-- migrate:up\n", "before"),
        ("-- migrate:up\n-- shard: fase=contract\n", "1_a.sql:2: `-- shard:` does not know fase=contract"),
        ("-- migrate:up\n-- shard: lock_timeout=soon\n", "1_a.sql:2: soon is not a time"),
        ("-- migrate:up\nselect 1;\ncommit;\n", "1_a.sql:3: COMMIT"),
        ("-- migrate:up\ndrop index concurrently a;\n", "1_a.sql:2: CONCURRENTLY"),
        ("-- migrate:up transaction:false\nbegin;\nselect 1;\n", "BEGIN without COMMIT"),
        ("-- migrate:up\nselect 1;\ncopy a from stdin;\n1\n\\.\n", "1_a.sql:3: COPY from or to the client"),
        ("-- migrate:up\ncopy a to stdout;\n", "1_a.sql:2: COPY"),
        ("-- migrate:up\n\n-- of psql\n\\set x 1\nselect 1;\n", "1_a.sql:4: .set is a command of psql"),
        ("-- migrate:up transaction:false\nselect 1;\nselect 'a;\nselect 2;\n", "1_a.sql:3: ' is not closed"),
        ("-- migrate:up\nselect $x$ a $$;\n", "is not closed"),
        ("-- migrate:up transaction:false\ncreate index concurrently on a (n);\n", "needs a name"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(BadMigration, match=message.replace("(", "[(]")):
        check(made(text))


def test_steps_are_of_the_kinds_that_decide_how_they_go_on() -> None:
    found = made(
        "-- migrate:up transaction:false\n"
        "create unique index concurrently if not exists i on shop.a (n);\n"
        "begin; insert into a values (1); insert into a values (2); commit;\n"
        "/* slow */ drop index concurrently if exists shop.j;\n"
        "reindex table concurrently a; reindex table a; vacuum a; call f(); alter type m add value 'x';\n"
        "alter table p detach partition q concurrently;\n"
    )
    told = [(step.kind, step.schema, step.name) for step in steps(found.file, found.up)]
    assert told == [
        ("create index", "shop", "i"),
        ("atomic", "", ""),
        ("drop index", "shop", "j"),
        ("reindex", "", "a"),
        ("again", "", "a"),
        ("again", "", ""),
        ("unsure", "", ""),
        ("atomic", "", ""),
        ("detach", "", "q"),
    ]


def test_a_checksum_does_not_depend_on_the_editor() -> None:
    assert checksum("\ufeffa\r\nb\r\n\r\n") == checksum("a\nb") != checksum("a\nb;")


def test_a_sum_tells_what_was_changed_added_and_removed() -> None:
    text = sum_text({"1_a.sql": "aa", "2_b.sql": "bb"})
    assert list(problems(text, {"1_a.sql": "aa", "2_b.sql": "bb"})) == []
    assert list(problems(text, {"1_a.sql": "ab", "3_c.sql": "cc"})) == [
        "1_a.sql was changed since",
        "2_b.sql is in it, and not in the folder",
        "3_c.sql is not in it",
    ]
    ours, theirs = sum_text({"1_a.sql": "aa"}), sum_text({"1_b.sql": "bb"})
    assert ours.splitlines()[0] != theirs.splitlines()[0]
    assert list(problems(ours.replace("1_a", "1_x"), {"1_x.sql": "aa"})) == ["its first line does not fit the others"]


def test_what_takes_away_is_a_stage_of_its_own() -> None:
    folder = Folder(
        "m",
        (
            made("-- migrate:up\nselect 1;", 1),
            made("-- migrate:up\nselect 2;", 2),
            made("-- migrate:up\n-- shard: phase=contract\nselect 3;", 3),
            made("-- migrate:up\nselect 4;", 4),
        ),
    )
    states = {"s0": ShardState("s0", {"1": MigrationRow("1", "a", folder.migrations[0].checksum, "applied")})}
    states["s1"] = ShardState("s1", {})
    plan = plan_up(folder, TOPOLOGY, states)
    assert [[m.version for m in stage.migrations] for stage in plan.stages] == [["1", "2"], ["3"], ["4"]]
    assert plan.stages[0].shards_by_version == {"1": ("s1",), "2": ("s0", "s1")}
    assert [m.version for m in plan.stages[0].of("s0")] == ["2"]


def test_a_long_history_is_planned_in_no_time() -> None:
    versions = [str(20260101000000 + number) for number in range(1500)]
    files = tuple(
        parse(f"{version}_n.sql", "-- migrate:up\nselect 1;\n-- migrate:down\nselect 1;\n") for version in versions
    )
    folder = Folder("migrations", files)
    rows = {file.version: MigrationRow(file.version, "n", file.checksum, "applied") for file in files}
    states = {name: ShardState(name, rows) for name in TOPOLOGY.shards}
    begun = process_time()
    assert plan_up(folder, TOPOLOGY, states).is_empty
    assert len(plan_down(folder, TOPOLOGY, states, to=versions[0]).stages) == 1499
    in_time(process_time() - begun, 0.5, "planning up and down")


def test_of_a_file_that_was_not_finished_only_what_is_not_done_may_be_changed() -> None:
    from shardpool.schema.steps import prefix_digest

    before = made("-- migrate:up transaction:false\nselect 1;\nselect 2;\n")
    digest = prefix_digest(steps(before.file, before.up), 1)
    row = MigrationRow("1", "a", before.checksum, "failed", "up", 2, 1, False, digest)
    states = {"s0": ShardState("s0", {"1": row})}
    mended = Folder("m", (made("-- migrate:up transaction:false\nselect 1;\nselect 3;\n"),))
    assert not plan_up(mended, TOPOLOGY, states).problems
    broken = Folder("m", (made("-- migrate:up transaction:false\nselect 9;\nselect 2;\n"),))
    assert "was changed after it was begun" in plan_up(broken, TOPOLOGY, states).problems[0].message


def test_the_canary_goes_first_and_alone() -> None:
    assert Rollout().waves(["s0", "s1", "s2"]) == (("s0",), ("s1", "s2"))
    assert Rollout("s2").waves(["s0", "s1", "s2"]) == (("s2",), ("s0", "s1"))
    assert Rollout("").waves(["s0", "s1"]) == (("s0", "s1"),)
    with pytest.raises(BadMigration):
        Rollout("s9").check(["s0"])
    typo: Any = "carry on"
    with pytest.raises(ValueError, match="on_error='carry on' is none of its values: 'stop' or 'continue'"):
        Rollout(on_error=typo).check(["s0"])


def test_a_url_holds_what_needs_quoting() -> None:
    params = {
        "host": "db",
        "port": "5433",
        "dbname": "a b",
        "user": "u@x",
        "password": "p/:@",
        "sslmode": "verify-full",
        # libpq's own: a driver in Go hands them on to the server, which refuses them.
        "require_auth": "scram-sha-256",
        "keepalives": "1",
    }
    assert url(params) == "postgresql://u%40x:p%2F%3A%40@db:5433/a%20b?sslmode=verify-full"
    assert url({"host": "/run/pg", "dbname": "d"}) == "postgresql:///d?host=%2Frun%2Fpg"


def test_drift_of_a_missing_table_is_told_once() -> None:
    def thing(kind: str, name: str, definition: str = "") -> dict[tuple[str, str], Thing]:
        return {(kind, name): Thing(kind, name, "public.t", definition)}

    whole = thing("table", "public.t") | thing("column", "public.t.a", "integer") | thing("index", "public.i", "x")
    found = compare({"s0": whole, "s1": {}, "s2": whole})
    assert [str(difference) for difference in found] == ["s1: table t is missing"]


def test_times_are_read() -> None:
    assert [seconds(text) for text in ("500ms", "2s", "3", "5min", "1h")] == [0.5, 2, 3, 300, 3600]


def test_the_matrix_is_folded_where_a_terminal_is_narrower(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = tuple(f"s{number}" for number in range(12))
    here = {shard: "applied" if shard == "s3" else "pending" for shard in shards}
    status = Status("shop", shards, (Line("1", "1_orders", here),), (), {}, {})
    monkeypatch.setenv("COLUMNS", "40")
    print_status(status, False)
    assert capsys.readouterr().out.splitlines()[:4] == [
        "1_orders",
        "  pending on 11: s0, s1, s2, s4, s5, s6,",
        "    s7, s8, s9, s10, s11",
        "  applied on 1: s3",
    ]
    monkeypatch.setenv("COLUMNS", "200")
    print_status(status, False)
    assert capsys.readouterr().out.startswith("migration  s0       s1")


@pytest.mark.parametrize(
    ("sql", "problem"),
    [
        (
            "insert into orders values (1)",
            "INSERT into the sharded table orders would put the same rows on every shard",
        ),
        ("with x as (insert into public.orders select 1) select 1", "INSERT into the sharded table orders"),
        ("insert into orders select tenant_id from orders", ""),
        ("insert into countries values ('de')", ""),
        ("insert into countries values (gen_random_uuid()::text)", "gen_random_uuid() would give the reference table"),
        ("update countries set at = now()", "now() would give the reference table countries other rows"),
        ("update countries set at = 'now'::timestamptz", "'now' would give the reference table"),
        ("update orders set at = now()", ""),
        ("alter table countries add column at timestamptz not null default now()", "now() as its default"),
        ("alter table countries add id serial", "with a sequence is another on each shard"),
        ("alter table countries add id int generated always as identity", "with an identity"),
        ("alter table countries add n int default 7", ""),
        ("alter table orders add column at timestamptz default now()", ""),
        ("insert into audit_log values (1)", ""),
        ("insert into elsewhere values (1)", ""),
        ("create table x (a int)", ""),
    ],
)
def test_rows_that_shards_would_write_each_for_itself_are_found(sql: str, problem: str) -> None:
    found = list(row_problems(made(f"-- migrate:up\nselect 1;\n{sql};\n"), TOPOLOGY, 3))
    assert [one.line for one in found] == ([3] if problem else [])
    assert all(problem in one.message for one in found)
    for told in ("rows=each", "route"):
        assert not list(row_problems(made(f"-- migrate:up\n-- shard: {told}\n{sql};\n"), TOPOLOGY, 3))
    states = {name: ShardState(name, {}) for name in TOPOLOGY.shards}
    folder = Folder("migrations", (made(f"-- migrate:up\n{sql};\n"),))
    assert len(plan_up(folder, TOPOLOGY, states).problems) == bool(problem)


def test_a_file_that_the_router_runs_goes_out_alone_to_all_shards() -> None:
    files = [
        made("-- migrate:up\n", 1),
        made("-- migrate:up\n-- shard: route\nselect 1", 2),
        made("-- migrate:up\n", 3),
    ]
    states = {name: ShardState(name, {}) for name in TOPOLOGY.shards}
    found = plan_up(Folder("m", tuple(files)), TOPOLOGY, states)
    assert [len(stage.migrations) for stage in found.stages] == [1, 1, 1]
    assert not found.problems
    some = plan_up(Folder("m", tuple(files)), TOPOLOGY, {"s1": states["s1"]})
    assert "takes all shards" in some.problems[0].message


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("-- shard: route\ncreate table a (n int)", "CREATE TABLE in a file that the router runs"),
        ("-- shard: rows=none\nselect 1", "rows is each, not none"),
        ("-- shard: route=yes\nselect 1", "does not know route=yes"),
    ],
)
def test_directives_on_rows_are_looked_through(text: str, error: str) -> None:
    with pytest.raises(BadMigration, match=error):
        check(made(f"-- migrate:up\n{text};\n"))
