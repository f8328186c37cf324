"""Columns that are unique over the fleet: their entries are kept by what writes them, and lead to their rows."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Event
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, ConfigError, InvalidKey, Router, UnsupportedQuery, load_topology, parse_topology
from shardpool.operations import check_lookups, create_lookups, repair_lookups

from ..commands import run
from ..timing import SLOW

OWNERS = "hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}"
KEYSPACES = f"""\
defaults: {{timeout: {SLOW:g}s}}
keyspaces:
  people:
    key: bigint
    {OWNERS}
    tables: {{users: id, accounts: id, staff: account, parted: id}}
  emails:
    key: text
    {OWNERS}
    lookup: {{users.email: unique, staff.badge: unique, parted.email: unique}}
  days: {{key: date, {OWNERS}, lookup: {{users.born: unique}}}}
"""
SCHEMA = """\
create table users (id bigint primary key, email text, name text, born date);
create unique index users_email on users (email);
create table accounts (id bigint primary key);
create table staff (
  account bigint references accounts on delete cascade, n int, badge varchar(10), primary key (account, n));
create table parted (id bigint, n int, email text, primary key (id, n)) partition by range (n);
create table parted_low partition of parted for values from (0) to (10);
create table parted_high partition of parted for values from (10) to (100);
"""


@pytest.fixture
def path(shardpool_make_topology: Callable[..., Path]) -> Path:
    return shardpool_make_topology(KEYSPACES, SCHEMA)


@pytest.fixture
def router(path: Path) -> Iterator[Router]:
    """With all lookups in use."""
    topology = load_topology(path)
    asyncio.run(create_lookups(topology, timeout=SLOW))
    asyncio.run(repair_lookups(topology, orphans=False))
    with Router(path) as opened:
        yield opened


def lookup(path: Path, verb: str, *names: str, code: int = 0) -> Any:
    done = run(["-t", str(path), "lookup", verb, *names, "--json"], env=os.environ)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)["lookups"] if done.stdout else done.stderr


def stored(router: Router, table: str = "users", column: str = "email", key: str = "id") -> list[Any]:
    """The rows' values and keys, which the entries have to be."""
    found = router.execute(f"select {column}, {key} from {table} where {column} is not null order by 1, 2").rows
    entries = router.execute(f"select {column}, {key} from {table}_{column}_lookup order by 1, 2").rows
    assert entries == found
    return [tuple(row) for row in found]


def refused(error: type[Exception], function: Callable[..., Any], *args: Any, **options: Any) -> str:
    with pytest.raises(error) as caught:
        function(*args, **options)
    return str(caught.value)


def test_writes_keep_the_entries(router: Router) -> None:
    execute = router.execute
    execute("insert into users (id, email) values (%s, %s)", [1, "a@x"])
    rows = execute(
        "insert into users (email, id) values ('b@x', 2), ('c@x', 3), (null, 4), (null, 5) returning id, email"
    )
    assert rows.rows == [(2, "b@x"), (3, "c@x"), (4, None), (5, None)]
    assert stored(router) == [("a@x", 1), ("b@x", 2), ("c@x", 3)]
    # On whatever shard the other row is: all or nothing.
    for number in range(10, 18):
        refused(psycopg.errors.UniqueViolation, execute, "insert into users values (%s, 'a@x', 'n')", [number])
    refused(psycopg.errors.UniqueViolation, execute, "insert into users values (20, 'd@x'), (21, 'e@x'), (22, 'b@x')")
    refused(psycopg.errors.UniqueViolation, execute, "insert into users values (20, 'd@x'), (29, 'd@x')")
    refused(psycopg.errors.UniqueViolation, execute, "update users set email = 'a@x' where id > 1")
    assert execute("select count(*) from users").one() == (5,)
    # What leaves a value free.
    assert execute("update users set email = %s where id = %s", ["d@x", 1]).rowcount == 1
    execute("insert into users values (6, 'a@x')")
    execute("update users set email = upper(email) || id, name = 'n'")
    execute("update users set id = id + 100, born = date '2000-01-01' + id::int where email is not null")
    assert execute("delete from users where email = %s", ["A@X6"]).rowcount == 1
    assert stored(router) == [("B@X2", 102), ("C@X3", 103), ("D@X1", 101)]
    assert len(stored(router, column="born")) == 3
    execute("insert into users (id, email) select id + 1000, email || '.de' from users where id < 103")
    execute("insert into users values (1101, null) on conflict (id) do update set email = 'z@x'")
    execute("merge into users u using (values (102)) v (id) on u.id = v.id when matched then delete")
    assert stored(router) == [("B@X2.de", 1102), ("C@X3", 103), ("D@X1", 101), ("z@x", 1101)]


def test_a_value_leads_to_its_row(router: Router) -> None:
    router.execute("insert into users select n, 'u' || n, 'n' from generate_series(1, 40) n")
    for number in (1, 17, 40):
        found = router.execute("select id, name from users where email = %s", [f"u{number}"])
        assert found.rows == [(number, "n")]
        assert found.shards == (router.for_key(number, keyspace="people").shard,)
    assert router.execute("select u.id from users u where 'u5' = u.email and name = 'n' for update").rows == [(5,)]
    assert router.execute("select id from users where email = 'u5' and id = 6").rows == []
    assert router.execute("select a.id from users u left join accounts a on a.id = u.id where u.email = 'u7'").rows == [
        (None,)
    ]
    none = router.execute("select id, name from users where email = %s", ["nobody"])
    assert none.rows == [] and none.columns == ("id", "name") and len(none.shards) == 1
    assert router.execute("select count(*) from users where email = %(e)s", {"e": "nobody"}).one() == (0,)
    assert router.execute("update users set name = 'm' where email = %s returning id", ["u9"]).rows == [(9,)]
    with router.transaction() as tx:
        tx.execute("update users set email = 'w' where email = 'u9'")
        assert tx.execute("select id from users where email = 'w'").rows == [(9,)]
        assert tx.execute("select id from users where email = 'u9'").rows == []
    plan = router.explain("select id from users where email = %s", ["w"])
    assert plan.strategy == "lookup" and "users.email" in plan.describe()
    assert plan.as_dict()["lookup"] == "users.email"
    for condition in ("email = 'w' or id = 3", "email like 'w%'", "not email = 'w'", "email = name"):
        assert router.explain(f"select id from users where {condition}").strategy == "concatenate"


def test_transactions_keep_them(router: Router) -> None:
    with router.transaction() as tx:
        tx.execute("insert into users values (1, 'a'), (2, 'b')")
        with pytest.raises(psycopg.errors.UniqueViolation), tx.savepoint():
            tx.execute("insert into users values (3, 'a')")
        tx.execute("insert into users values (3, 'c')")
        tx.execute("update users set email = 'd' where id = 1", key=1, keyspace="people")
        tx.connection(2, keyspace="people").execute("update users set email = 'e' where id = 2")
        tx.scatter("delete from users where email = 'c'")
    assert stored(router) == [("d", 1), ("e", 2)]
    with pytest.raises(psycopg.errors.UniqueViolation), router.transaction() as tx:
        tx.connection(2, keyspace="people").execute("update users set email = 'd' where id = 2")
    with pytest.raises(ZeroDivisionError), router.transaction() as tx:
        tx.execute("delete from users")
        raise ZeroDivisionError
    assert stored(router) == [("d", 1), ("e", 2)]


def test_what_would_leave_them_behind_is_refused(router: Router) -> None:
    router.execute("insert into users values (1, 'a', 'n'), (2, 'b', 'n')")
    mine = router.for_key(1, keyspace="people")
    for sql in ("update users set email = 'z' where id = 1", "delete from users where id = 1", "truncate users"):
        assert "execute()" in refused(psycopg.errors.FeatureNotSupported, mine.execute, sql)
    mine.execute("update users set name = 'm' where id = 1")
    refused(psycopg.Error, router.execute, "insert into users values (7, 'z')", key=7, keyspace="people")
    copied = refused(UnsupportedQuery, router.copy_into, "users", [(3, "c")], columns=["id", "email"])
    assert "unique over the fleet" in copied
    router.copy_into("users", [(3, "c")], columns=["id", "name"])
    for sql in (
        "insert into users values (4, 'a') on conflict do nothing",
        "insert into users values (4, 'a') on conflict (email) do nothing",
        "delete from users_email_lookup",
    ):
        refused(UnsupportedQuery, router.execute, sql)
    assert stored(router) == [("a", 1), ("b", 2)]


def test_foreign_keys_and_partitions_keep_them(router: Router) -> None:
    router.execute("insert into accounts values (1), (2), (3)")
    router.execute("insert into staff values (1, 1, 'x'), (1, 2, 'y'), (2, 1, 'z'), (3, 1, null)")
    refused(psycopg.errors.UniqueViolation, router.execute, "insert into staff values (2, 2, 'y')")
    router.execute("delete from accounts where id = 1")
    assert stored(router, "staff", "badge", "account") == [("z", 2)]
    router.execute("insert into parted values (1, 1, 'a'), (2, 12, 'b')")
    router.execute("update parted set n = n + 10, email = email || n")
    refused(psycopg.errors.UniqueViolation, router.execute, "insert into parted values (5, 1, 'b12')")
    assert stored(router, "parted") == [("a1", 1), ("b12", 2)]
    router.execute("delete from parted where email = 'a1'")
    assert stored(router, "parted") == [("b12", 2)]


def test_of_two_who_take_one_value_one_gets_it(router: Router) -> None:
    def take(number: int) -> bool:
        # Two at once, in both orders: they wait for each other on different shards.
        values = [f"v{number // 4}", f"w{number // 4}"][:: 1 if number % 2 else -1]
        try:
            router.execute("insert into users values (%s, %s), (%s, %s)", [number, values[0], number + 100, values[1]])
        except psycopg.errors.UniqueViolation:
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        taken = list(pool.map(take, range(80)))
    assert [sum(taken[first : first + 4]) for first in range(0, 80, 4)] == [1] * 20
    assert len(stored(router)) == 40


def test_it_begins_while_rows_are_there_and_is_mended(path: Path) -> None:
    with Router(path) as router:
        router.execute("insert into users values (1, 'a'), (2, 'b'), (3, 'c'), (4, null)")
        warned = {finding.hint for finding in router.check().warnings}
        assert "Run: shardpool lookup create users.email" in warned
        lookup(path, "backfill", "users.email", code=1)
        topology = load_topology(path)
        asyncio.run(create_lookups(topology, ["users.email"], timeout=SLOW))
        assert {*lookup(path, "create")["users.email"].values()} == {"to be filled"}
        router.execute("update users set email = 'd' where id = 1")
        report = next(one for one in lookup(path, "backfill") if one["name"] == "users.email")
        assert report["ready"] and report["missing"] == 2 and report["rows"] == 3
        stored(router)
        findings = router.check().findings
        assert not [one for one in findings if one.level != "ok" and "users" in one.subject]
        # Past the routers: a row that comes, one that goes, one that changes its value.
        for name in router.topology.shards:
            with router.shard(name).connection() as conn:
                conn.execute("set shardpool.lookups = 'off'")
                conn.execute("delete from users where id = 2")
                conn.execute("update users set email = 'e' where id = 3")
        (report,) = lookup(path, "check", "users.email", code=1)
        assert (report["missing"], report["orphaned"], report["ok"]) == (1, 2, False)
        (report,) = lookup(path, "repair", "users.email")
        assert report["ok"] and stored(router) == [("d", 1), ("e", 3)]
        assert all(one.ok for one in asyncio.run(check_lookups(topology)))
        assert set(lookup(path, "drop", "users.email", "--settle", "0")["users.email"].values()) == {"not created"}
        router.for_key(1, keyspace="people").execute("update users set email = 'z' where id = 1")


def test_it_is_filled_while_the_service_writes(path: Path) -> None:
    topology = load_topology(path)
    ended = Event()

    def write(seed: int) -> None:
        chance = Random(seed)
        while not ended.is_set():
            number = chance.randrange(seed * 1000, seed * 1000 + 300)
            sql = chance.choice(
                [
                    f"delete from users where id = {number}",
                    f"insert into users values ({number}, 'w{number}')",
                    f"update users set email = email || 'x' where id = {number}",
                ]
            )
            with suppress(psycopg.errors.UniqueViolation):
                router.execute(sql)

    with Router(path) as router, ThreadPoolExecutor(2) as pool:
        router.execute("insert into users select n, 'u' || n from generate_series(1000, 2999) n where n % 2 = 0")
        asyncio.run(create_lookups(topology, ["users.email"], timeout=SLOW))
        writers = [pool.submit(write, seed) for seed in (1, 2)]
        try:
            for _ in range(2):
                (report,) = asyncio.run(repair_lookups(topology, ["users.email"]))
                assert report.ready and not report.duplicated
        finally:
            ended.set()
        for writer in writers:
            writer.result()
        left = len(stored(router))
        assert left > 800
        (report,) = asyncio.run(check_lookups(topology, ["users.email"]))
        assert report.ok and report.rows == report.entries == left
        # All at once, on all shards.
        for name in router.topology.shards:
            with router.shard(name).connection() as conn:
                conn.execute("set shardpool.lookups = 'off'")
                conn.execute("delete from users")
        (report,) = asyncio.run(repair_lookups(topology, ["users.email"]))
        assert (report.orphaned, report.entries) == (left, left) and stored(router) == []


def test_a_value_that_has_no_place_is_refused_with_its_row(router: Router) -> None:
    """Of both kinds of routers."""

    async def write() -> int:
        async with AsyncRouter(router.topology) as own:
            await own.execute("insert into users values (1, 'a'), (2, 'b')")
            with pytest.raises(InvalidKey):
                await own.execute("insert into users (id, born) values (%s, 'infinity')", (3,))
            with pytest.raises(psycopg.errors.InFailedSqlTransaction):
                async with own.transaction() as tx:
                    with pytest.raises(InvalidKey):
                        await tx.execute("insert into users (id, born) values (3, 'infinity')")
                    await tx.execute("select 1")
            found = await own.execute("select id from users where email = 'b'")
            return int(found.one()[0])

    assert asyncio.run(write()) == 2
    assert len(stored(router)) == 2


def test_duplicates_are_told_and_keep_it_out_of_use(path: Path) -> None:
    with Router(path) as router:
        shards = {router.for_key(key, keyspace="people").shard: key for key in range(20)}
        keys = [shards[name] for name in sorted(shards)][:2]
        for key in keys:
            router.execute("insert into users values (%s, 'same')", [key])
        lookup(path, "create", "users.email")
        (report,) = lookup(path, "backfill", "users.email", code=1)
        assert not report["ready"] and report["duplicated"] == 1
        assert {report["duplicates"][0][1][0], report["duplicates"][0][2][0]} == set(map(str, keys))
        assert router.execute("select count(*) from users where email = 'same'").one() == (2,)


def test_a_file_and_a_router_learn_of_a_lookup_from_the_shards(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(path.read_text())
    with Router(other) as router:
        router.execute("insert into accounts values (1)")
        changed = run(
            ["-t", str(path), "topology", "set", "keyspaces.days.lookup", "{users.born: unique, staff.day: unique}"],
            env=os.environ,
        )
        assert changed.returncode == 0, changed.stderr
        assert run(["-t", str(other), "topology", "pull"], env=os.environ).returncode == 0
        assert load_topology(other).lookups == load_topology(path).lookups
        assert {one.name for one in load_topology(other).lookups["public.staff"]} == {"staff.badge", "staff.day"}
        router.reload()
        assert router.topology.lookups == load_topology(path).lookups


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("{nothing.email: unique}", "no sharded table"),
        ("{users.id: unique}", "the partition key"),
        ("{users: unique}", "not a column of a table"),
        ("{users.email: uniq}", "unique"),
        (f"{{users.{'x' * 50}: unique}}", "too long"),
    ],
)
def test_the_file_says_what_is_wrong_with_it(written: str, problem: str) -> None:
    shards = "".join(f"  s{n}: {{primary: 'postgresql://localhost/x{n}'}}\n" for n in range(4))
    head = f"version: 1\nfleet: f\nepoch: 1\nshards:\n{shards}keyspaces:\n"
    people = f"  people: {{key: bigint, {OWNERS}, tables: {{users: id}}}}\n"
    texts = f"  texts: {{key: text, {OWNERS}, lookup: {written}}}\n"
    assert problem in refused(ConfigError, parse_topology, head + people + texts)
