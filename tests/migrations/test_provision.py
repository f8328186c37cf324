"""A new shard is like another in everything that pg_dump knows, and goes on where that one is."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psycopg
import pytest

from shardpool import Router
from shardpool.local.binaries import find_binaries
from tests.commands import run

from .conftest import Fleet8

pytestmark = pytest.mark.servers

WIDE = (Path(__file__).parent / "wide.sql").read_text(encoding="utf-8")


@pytest.fixture
def wide(fleet: Fleet8) -> Fleet8:
    """One of each kind of object on two shards, rows on the first, nothing on the third."""
    fleet.write("wide", WIDE)
    fleet("up", "--shard", "s0", "--shard", "s1")
    fleet.do("s0", "insert into countries (code) values ('de'), ('fr'), ('it'); select nextval('numbers')")
    fleet.do("s0", "insert into orders (tenant_id) values (1); insert into audit_log (what) values ('a')")
    fleet.do(
        "s0", "create table schema_migrations (version text primary key); insert into schema_migrations values ('7')"
    )
    fleet.do("s0", "refresh materialized view codes; refresh materialized view all_codes")
    return fleet


def _dump(fleet: Fleet8, shard: str) -> list[str]:
    """The schema of a shard, without what is its own."""
    params = fleet.params[shard]
    names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
    given = {name: str(params[key]) for key, name in names.items() if params.get(key)}
    own = ["--exclude-schema=shardpool", "--exclude-table=audit_log", "--exclude-table=audit_log_id_seq"]
    command = [find_binaries().program("pg_dump"), "--schema-only", *own]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, check=True, timeout=60)
    # Numbers that differ from one dump, or one server, to the next.
    return [line for line in done.stdout.splitlines() if "restrict" not in line and "pg_attver" not in line]


def test_a_provisioned_shard_refuses_rows_of_others_and_takes_its_own(wide: Fleet8) -> None:
    with Router(wide.path) as router:
        key = next(key for key in range(1000) if router.for_key(key).shard == "s2")
    run(["topology", "enforce", "on", "orders"], env=wide.environment).check_returncode()
    assert wide.ask("s0", "select from pg_trigger where tgname = 'shardpool_fence'")
    wide("provision", "s2")
    wide.do("s2", f"insert into orders (tenant_id) values ({key})")
    with pytest.raises(psycopg.Error, match="belongs to another shard"):
        wide.do("s2", "insert into orders (tenant_id) values (1), (2), (3), (4), (5), (6), (7), (8)")


def test_a_provisioned_shard_has_everything_that_the_other_has(wide: Fleet8) -> None:
    assert wide.json("provision", "s2")["rows"] == 3
    assert _dump(wide, "s2") == _dump(wide, "s0")
    assert "3 schemas, alike" in wide("drift")
    assert wide.ask("s2", "select to_regclass('audit_log')") == [(None,)]
    # The history of another tool, which would begin anew without it.
    assert wide.ask("s2", "select version from schema_migrations") == [("7",)]
    # Views that are filled there are filled here: to ask another is an error.
    assert wide.ask("s2", "select count from all_codes") == [(3,)]
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        wide.ask("s2", "table empty")


def test_sequences_of_a_provisioned_shard_go_on_where_those_of_the_other_are(wide: Fleet8) -> None:
    wide("provision", "s2")
    next_values = (
        "select nextval('countries_id_seq'), nextval('orders_id_seq'), nextval('items_n_seq'), nextval('numbers') % 50"
    )
    assert wide.ask("s2", next_values) == [(4, 1001, 1, 0)]


def test_rows_that_the_role_is_not_let_see_are_not_left_out_in_silence(wide: Fleet8) -> None:
    wide.do("s0", "alter table countries enable row level security, force row level security")
    sees_all = wide.ask("s0", "select rolsuper or rolbypassrls from pg_roles where rolname = current_user")[0][0]
    if sees_all:
        assert wide.json("provision", "s2")["rows"] == 3
        return
    wide("provision", "s2", code=1)
    assert "row-level security" in wide.stderr
    assert wide.ask("s2", "select to_regclass('countries')") == [(None,)]


# What is done to one shard, and what is told of it.
CHANGES = (
    ("alter table items replica identity full", "table items is replica identity full, elsewhere plain"),
    ("drop cast (mood as int)", "cast mood as integer is missing"),
    ("drop operator lib.=== (int, int)", "operator lib.===(integer,integer) is missing"),
    ("alter publication changes drop table orders", "table of publication orders in changes is missing"),
    (
        "alter publication changes set (publish = 'insert')",
        "publication changes is insert, elsewhere insert update",
    ),
    ("drop text search configuration mine", "text search configuration mine is missing"),
    ("alter view large reset (security_barrier)", "view large is"),
    ("alter domain positive drop constraint positive", "domain positive is"),
    ("alter type mood rename value 'bad' to 'worse'", "enum mood is"),
    ("alter table countries enable trigger quiet", "trigger countries.quiet is"),
    ("alter table events detach partition events_rest", "table events_rest is plain, elsewhere partition DEFAULT"),
    ("drop statistics together", "statistics together is missing"),
    ("alter sequence numbers cycle", "sequence numbers is"),
    ("drop policy own on orders", "policy orders.own is missing"),
    (
        "create or replace function lib.added(a int, b int default 3) returns int language sql as 'select a'",
        "function lib.added(integer,integer) is",
    ),
)


def test_drift_sees_objects_of_every_kind(wide: Fleet8) -> None:
    wide("provision", "s2")
    for change, _ in CHANGES:
        wide.do("s1", change)
    printed = wide("drift", code=1)
    assert [told for _, told in CHANGES if f"s1: {told}" not in printed] == []
    # The partition's own constraint and indexes go with it.
    assert all(line.startswith("s1: ") for line in printed.splitlines()[:-1])


def test_a_shard_is_provisioned_where_nothing_was_ever_migrated(fleet: Fleet8) -> None:
    fleet.do("s0", "create table countries (code text primary key, name text not null)")
    fleet.do("s0", "insert into countries values ('de', 'Germany')")
    assert fleet.json("provision", "s2")["rows"] == 1
    assert fleet.ask("s2", "select * from countries") == [("de", "Germany")]
    assert fleet.ask("s2", "select event from shardpool.migration_log") == [("provisioned",)]
