"""Each command as a person calls it."""

from __future__ import annotations

import sys

import pytest
import yaml

from tests.commands import run

from .conftest import ADD, ORDERS, Fleet8

pytestmark = pytest.mark.servers


def test_up_applies_on_every_shard_and_status_says_so(fleet: Fleet8) -> None:
    version = fleet.write("orders", ORDERS)
    assert "pending" in fleet("status", code=3)
    assert "3 migrations run on 3 shards" in fleet("up")
    for shard in fleet.shards:
        assert fleet.applied(shard) == [version]
        assert fleet.ask(shard, "select count(*) from orders") == [(0,)]
    assert "1 applied everywhere, 0 pending, 0 deviating" in fleet("status")
    assert "nothing to do on 3 shards" in fleet("up")
    assert fleet.json("status")["migrations"][0]["shards"] == dict.fromkeys(fleet.shards, "applied")


def test_what_the_server_remarks_is_told(fleet: Fleet8) -> None:
    fleet.write("remark", "-- migrate:up\ndrop table if exists t;\ndo $$ begin raise warning 'look'; end $$;\n")
    fleet("up")
    assert 's1  NOTICE: table "t" does not exist, skipping' in fleet.stderr
    assert "s2  WARNING: look" in fleet.stderr


def test_new_makes_files_that_up_runs_and_the_sum_knows(fleet: Fleet8) -> None:
    fleet.migrations.rmdir()
    first = fleet("new", "Add the orders").strip()
    second = fleet("new", "more", "--no-transaction").strip()
    assert first.endswith("_add_the_orders.sql") and second > first
    assert "transaction:false" in (fleet.folder / second).read_text()
    assert "2 migrations: 0 errors" in fleet("lint", "--no-squawk")
    (fleet.folder / first).write_text(ORDERS)
    fleet("up", code=2)
    assert "was changed since" in fleet.stderr
    assert "0 errors" in fleet("lint", "--write-sum", "--no-squawk")
    fleet("up")


def test_plan_shows_statements_shards_and_stages(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet.write("drop_total", "-- migrate:up\n-- shard: phase=contract\nalter table orders drop column total;\n")
    fleet.write("only", "-- migrate:up\n-- shard: only=s1,table:audit_log\ncreate table here (n int);\n")
    printed = fleet("plan")
    assert "stage 3 of 3" in printed
    assert "alter table orders drop column total" in printed
    told = fleet.json("plan")
    assert told["stages"][2][0]["shards"] == ["s0", "s1"]
    fleet("up", "--expand-only")
    assert fleet.json("plan")["stages"][0][0]["phase"] == "contract"
    fleet("up")
    assert fleet.ask("s2", "select to_regclass('here')") == [(None,)]
    assert "0 deviating" in fleet("status")


def test_down_takes_back_the_latest_and_asks_first(fleet: Fleet8) -> None:
    first = fleet.write("orders", ORDERS)
    fleet.write("status", ADD)
    fleet("up")
    printed = fleet("down", code=1, text="n\n")
    assert "alter table orders drop column status" in printed
    assert "3 migrations run" in fleet("down", "--yes")
    for shard in fleet.shards:
        assert fleet.applied(shard) == [first]
    fleet("up")
    fleet("down", "-n", "2", "--yes")
    assert fleet.ask("s1", "select to_regclass('orders')") == [(None,)]
    fleet.write("no_way_back", "-- migrate:up\ncreate table t (n int);\n")
    fleet("up")
    fleet("down", "--yes", code=2)
    assert "has no `-- migrate:down`" in fleet.stderr


def test_a_changed_file_is_refused_until_it_is_accepted(fleet: Fleet8) -> None:
    version = fleet.write("orders", ORDERS)
    fleet("up")
    file = next(fleet.migrations.glob("*.sql"))
    file.write_text(ORDERS.replace("total numeric", "total numeric(12, 2)"))
    assert "was changed after it was applied" in fleet("status", code=1)
    fleet("up", code=2)
    assert "was changed after it was applied" in fleet.stderr
    assert "accepted" in fleet("repair", "--accept", version)
    fleet("status")
    file.unlink()
    assert "its file is not in the folder" in fleet("status", code=1)
    fleet("repair", "--forget", version)
    fleet("status")


def test_a_migration_before_the_latest_is_refused_unless_allowed(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS, version=20260101000005)
    fleet("up")
    fleet.write("late", "-- migrate:up\ncreate table late (n int);\n", version=20260101000001)
    fleet("up", code=2)
    assert "--allow-missing" in fleet.stderr
    fleet("up", "--allow-missing")
    fleet("status")


def test_an_error_names_file_line_and_shard_and_the_others_are_not_begun(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet.write("wrong", "-- migrate:up\nalter table orders add a int;\n\nalter table nowhere add b int;\n")
    told = fleet.json("up", code=1)
    assert [told["shards"][name]["outcome"] for name in fleet.shards] == ["failed", "not begun", "not begun"]
    assert "20260101000002_wrong.sql:4 failed on shard s0" in fleet.stderr
    assert 'relation "nowhere" does not exist' in fleet.stderr
    assert fleet.ask("s0", "select count(*) from information_schema.columns where column_name = 'a'") == [(0,)]
    printed = fleet("status", code=1)
    assert "failed" in printed
    file = fleet.migrations / "20260101000002_wrong.sql"
    file.write_text("-- migrate:up\nalter table orders add a int;\n")
    fleet("up")
    fleet("status")


def test_asserts_and_verifies_keep_a_migration_from_being_applied(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet.write(
        "checked",
        "-- migrate:up\n-- shard-assert: select count(*) = 0 from orders\n"
        "-- shard-verify: select exists (select from pg_attribute where attrelid = 'orders'::regclass "
        "and attname = 'note' and not attisdropped)\n"
        "alter table orders add column note text;\n",
    )
    fleet("up", "--to", "orders")
    fleet.do("s1", "insert into orders values (1, 1, 1)")
    fleet("up", code=1)
    assert "shard-assert is not true on shard s1" in fleet.stderr
    fleet.do("s1", "delete from orders")
    fleet("up")
    assert "1 queries" in fleet("verify")
    fleet.do("s2", "alter table orders drop column note")
    assert "s2" in fleet("verify", code=1)


def test_baseline_takes_over_what_dbmate_has_applied(fleet: Fleet8) -> None:
    fleet.migrations.rmdir()
    fleet.migrations = fleet.folder / "db" / "migrations"
    fleet.migrations.mkdir(parents=True)
    first, second = fleet.write("orders", ORDERS), fleet.write("status", ADD)
    for shard in fleet.shards:
        fleet.do(shard, ORDERS[: ORDERS.index("-- migrate:down")])
        fleet.do(shard, "create table schema_migrations (version varchar(128) primary key)")
        fleet.do(shard, f"insert into schema_migrations values ('{first}')")
    assert fleet("baseline", "--from", "dbmate").count("1 marked") == 3
    told = fleet.json("status", code=3)["migrations"]
    assert told[0]["shards"] == dict.fromkeys(fleet.shards, "baseline")
    fleet("up")
    assert fleet.applied("s2") == [first, second]
    fleet.do("s1", f"insert into schema_migrations values ('{second}')")
    fleet("baseline", "--from", "dbmate", code=2)
    assert "s0 lacks" in fleet.stderr


@pytest.mark.parametrize(
    ("tool", "made", "version"),
    [
        (
            "alembic",
            "create table alembic_version (version_num text); insert into alembic_version values ('1f2e')",
            "alembic:1f2e",
        ),
        (
            "django",
            "create table django_migrations (id int, app text, name text); "
            "insert into django_migrations values (1, 'shop', '0001_initial')",
            "django:shop.0001_initial",
        ),
    ],
)
def test_baseline_takes_over_other_histories(fleet: Fleet8, tool: str, made: str, version: str) -> None:
    for shard in fleet.shards:
        fleet.do(shard, made)
    fleet("baseline", "--from", tool)
    assert fleet.applied("s1") == [version]
    fleet.write("orders", ORDERS)
    fleet("up")
    fleet("status")
    assert "alike" in fleet("drift")


def test_fences_which_each_shard_has_of_its_own_are_no_drift(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet("up")
    run(["topology", "enforce", "on"], env=fleet.environment).check_returncode()
    assert fleet.ask("s0", "select from pg_trigger where tgname = 'shardpool_fence'")
    assert "3 schemas, alike" in fleet("drift")


def test_drift_names_what_was_planted(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet.write("index", "-- migrate:up\ncreate index orders_total on orders (total);\n")
    fleet("up")
    assert "3 schemas, alike" in fleet("drift")
    fleet.do("s0", "create table audit_log (n int)")  # a single table
    assert "3 schemas, alike" in fleet("drift")
    fleet.do("s0", "drop index orders_total")
    fleet.do("s1", "alter table orders alter total type double precision")
    fleet.do("s2", "alter table countries add column extra int; create table more (n int primary key)")
    printed = fleet("drift", code=1)
    assert "s0: index orders_total is missing" in printed
    assert "s1: column orders.total is double precision, elsewhere numeric" in printed
    assert "s2: column countries.extra is only here: integer" in printed
    assert "s2: table more is only here" in printed
    differences = fleet.json("drift", code=1)["differences"]
    assert len(differences) == 4, differences
    assert len(fleet.json("drift", "--reference", "s0", code=1)["differences"]) == 5
    assert "more" not in fleet("drift", "--ignore", "more", code=1)


def test_exec_runs_a_tool_once_for_each_shard(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet("up")
    script = (
        "import os, psycopg\n"
        "with psycopg.connect(os.environ['DATABASE_URL']) as conn:\n"
        "    conn.execute('create table by_tool (n int)')\n"
        "    print('hello from', os.environ['SHARDPOOL_SHARD'], os.environ.get('PGPASSWORD'))\n"
    )
    printed = fleet("exec", "--", sys.executable, "-c", script)
    assert "run on 3 of 3 shards" in printed
    assert "s2  hello from s2" in fleet.stderr
    for shard in fleet.shards:
        assert fleet.ask(shard, "select count(*) from by_tool") == [(0,)]
        password = fleet.params[shard].get("password")
        assert not password or str(password) not in fleet.stderr
    failing = "import sys; print('no good'); sys.exit(3)"
    told = fleet.json("exec", "--on-error", "continue", "--", sys.executable, "-c", failing, code=1)
    assert told["shards"]["s0"]["outcome"] == "failed"
    assert "exited with 3 on shard s0 (no good)" in fleet.stderr
    assert told["shards"]["s1"]["outcome"] == "not begun"  # the canary failed


def test_exec_says_where_the_primary_is_and_whether_with_tls(fleet: Fleet8) -> None:
    """Of several nodes; and a driver in Go, as dbmate's, demands TLS unless it is told not to."""
    told = yaml.safe_load(fleet.path.read_text(encoding="utf-8"))
    primary = told["shards"]["s0"].pop("primary")
    where = {key: primary.pop(key) for key in ("host", "port")}
    told["shards"]["s0"] = {"hosts": [{**where, "port": 1}, where], "connect": primary}
    fleet.path.write_text(yaml.safe_dump(told), encoding="utf-8")
    params = fleet.params["s0"]
    fleet("exec", "--shard", "s0", "--", "sh", "-c", "echo $DATABASE_URL $PGHOST $PGPORT $PGSSLMODE")
    assert f"@{params['host']}:{params['port']}/{params['dbname']}?sslmode=disable" in fleet.stderr
    assert fleet.stderr.splitlines()[0].endswith(f"{params['host']} {params['port']} disable")


def test_a_new_shard_is_made_like_another(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet.write(
        "rest",
        "-- migrate:up\ncreate type mood as enum ('good', 'bad');\n"
        "create table moods (id bigserial primary key, m mood);\n"
        "create function double(n int) returns int language sql as 'select n * 2';\n"
        "create view all_orders as select * from orders;\n",
    )
    fleet("up", "--shard", "s0", "--shard", "s1")
    fleet.do("s0", "insert into countries values ('de', 'Germany'), ('fr', 'France')")
    assert fleet.json("drift", code=1)["differences"]
    told = fleet.json("provision", "s2", "--like", "s0")
    assert told["rows"] == 2
    fleet.do("s1", "insert into countries values ('de', 'Germany'), ('fr', 'France')")
    assert "3 schemas, alike" in fleet("drift")
    fleet("status")
    assert fleet.ask("s2", "select count(*) from countries") == [(2,)]
    fleet("provision", "s2", code=2)
    assert "is not empty" in fleet.stderr


def test_lint_tells_what_cannot_run_and_asks_squawk(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet.write("index", "-- migrate:up\n\ncreate index concurrently a on orders (total);\n")
    assert "20260101000002_index.sql:3: CONCURRENTLY cannot run in a transaction" in fleet(
        "lint", "--no-squawk", code=1
    )
    fleet.write("begin", "-- migrate:up\nbegin;\nselect 1;\ncommit;\n")
    fleet("up", code=2)
    findings = fleet.json("lint", "--squawk", code=1)["findings"]
    assert {"transaction-nesting", "cannot-run"} <= {finding["rule"] for finding in findings}


def test_rows_in_a_file_are_refused_or_placed_by_the_router(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    fleet("up")
    seeds = "insert into orders (tenant_id, id) select i, 1 from generate_series(1, 20) i where false;\n"
    rows = f"insert into orders (tenant_id, id) values {', '.join(f'({key}, 1)' for key in range(20))};\n"
    names = "insert into countries values ('de', gen_random_uuid()::text);\n"
    version = fleet.write("seeds", f"-- migrate:up\n{rows}{names}-- migrate:down\ndelete from orders;\n{seeds}")
    file = next(fleet.migrations.glob(f"{version}_*"))
    findings = [found for found in fleet.json("lint", "--no-squawk", code=1)["findings"] if found["level"] == "error"]
    assert {(found["line"], found["rule"]) for found in findings} == {(2, "rows-of-shards"), (3, "rows-of-shards")} | {
        (6, "rows-of-shards")
    }
    fleet("up", code=2)
    assert "would put the same rows on every shard" in fleet.stderr
    file.write_text(f"-- migrate:up\n-- shard: route\n{rows}{names}-- migrate:down\ndelete from orders;\n")
    fleet("lint", "--write-sum", "--no-squawk")
    fleet("up")
    assert sum(fleet.ask(shard, "select count(*) from orders")[0][0] for shard in fleet.shards) == 20
    assert len({tuple(fleet.ask(shard, "select * from countries")) for shard in fleet.shards}) == 1
    assert "nothing to do" in fleet("up")
    fleet("down", "--yes")
    assert sum(fleet.ask(shard, "select count(*) from orders")[0][0] for shard in fleet.shards) == 0


def test_a_file_that_the_router_runs_and_that_fails_goes_on_where_it_ended(fleet: Fleet8) -> None:
    fleet.write("orders", ORDERS)
    head = "-- migrate:up\n-- shard: route\ninsert into orders (tenant_id, id) values (1, 1), (2, 1), (3, 1);\n"
    version = fleet.write("seeds", head + "insert into orders (tenant_id, id) values (4, 1), (1, 1);\n")
    fleet("up", code=1)
    assert "duplicate key" in fleet.stderr
    file = next(fleet.migrations.glob(f"{version}_*"))
    file.write_text(head + "insert into orders (tenant_id, id) values (4, 1), (5, 1);\n")
    fleet("lint", "--write-sum", "--no-squawk")
    fleet("up")
    assert sum(fleet.ask(shard, "select count(*) from orders")[0][0] for shard in fleet.shards) == 5
