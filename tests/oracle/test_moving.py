"""Answers while rows are on two shards: as long as they are copied, and after their new shard owns them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from shardpool import Router, UnsupportedQuery

from .compare import Different, compare
from .fleet import COLUMNS, KEYSPACES, Oracle, made
from .generator import Statements
from .run import Tally, ask

MOVES = """\
moves:
  - {number: 1, state: copying, from: s0, to: s1, keyspace: tenants, buckets: 0-511}
  - {number: 2, state: moved, from: s3, to: s2, keyspace: authors, buckets: 0-511}
  - {number: 3, state: copying, from: s0, to: s3, keyspace: days, range: {below: 2024-07-01}}
  - {number: 4, state: moved, from: s3, to: s0, keyspace: tenants, keys: [17]}
"""
# Those whose rows have arrived own them.
OWNED = {
    "{s3: 0-1023, s2: 1024-2047,": "{s2: [0-511, 1024-2047], s3: 512-1023,",
    "pinned: {17: s3}": "pinned: {17: s0}",
}
# Owner, the other shard that has a copy, and of what.
COPIES = [
    ("s0", "s1", ("customers", "orders", "items"), "shardpool.bucket_tenants(tenant_id) between 0 and 511"),
    ("s2", "s3", ("notes",), "shardpool.bucket_authors(author) between 0 and 511"),
    ("s0", "s3", ("events",), "day < '2024-07-01'"),
    ("s0", "s3", ("customers", "orders", "items"), "tenant_id = 17"),
]

pytestmark = pytest.mark.xdist_group("moving")


@pytest.fixture(scope="module")
def moving(shardpool_fleet: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    folder = tmp_path_factory.mktemp("moving")
    keyspaces = KEYSPACES
    for before, after in OWNED.items():
        assert before in keyspaces
        keyspaces = keyspaces.replace(before, after)
    with made(shardpool_fleet.servers(), folder, keyspaces) as oracle:
        (path,) = folder.glob("*.yaml")
        path.write_text(path.read_text(encoding="utf-8").replace("epoch: 5", "epoch: 6") + MOVES, encoding="utf-8")
        with Router(path) as router:
            router.init()
            for owner, other, tables, condition in COPIES:
                for table in tables:
                    copy_rows(router, owner, other, table, condition)
            yield Oracle(router, oracle.plain, oracle.shuffled, oracle.collation)


def copy_rows(router: Router, owner: str, other: str, table: str, condition: str) -> None:
    columns = ", ".join(COLUMNS[table])
    rows = f"copy (select {columns} from {table} where {condition}) to stdout"
    with router.shard(owner).connection() as source, router.shard(other).connection() as target:
        cursor = target.cursor()
        with source.cursor().copy(rows) as out, cursor.copy(f"copy {table} ({columns}) from stdin") as into:
            for data in out:
                into.write(data)
        assert cursor.rowcount > 0


@pytest.mark.parametrize("seed", ["moving.1", "moving.2"])
def test_no_row_is_counted_twice(moving: Oracle, seed: str) -> None:
    tally = Tally()
    with moving.connect() as plain:
        for number, case in enumerate(itertools.islice(Statements(seed), 150)):
            with suppress(Different):  # it is counted
                ask(tally, plain, moving.router, case, number)
    print(tally.summary(1))
    assert not tally.wrong, "\n\n".join(tally.wrong[:10])
    assert tally.answered > 0.97, tally.summary(1)


STATEMENTS = [
    "select count(*), sum(qty), min(id) from orders",
    "select tenant_id, id, total, note from orders order by tenant_id, id limit 40",
    "select o.tenant_id, o.id, c.name from customers c left join orders o using (tenant_id) order by 1, 2, 3",
    "select o.tenant_id, o.id, c.id from orders o right join customers c on c.tenant_id = o.tenant_id and c.id = o.id "
    "order by 3, 1, 2",
    "select count(*), count(o.id), count(c.id) from orders o "
    "full join customers c on c.tenant_id = o.tenant_id and c.id = o.id",
    "select count(j.x), count(*) from (orders o join items i on o.tenant_id = i.tenant_id and o.id = i.order_id) "
    "as j (x) full join customers c on c.tenant_id = j.x",
    "select tenant_id, count(*) from orders group by tenant_id having count(*) > 1 order by 1",
    "select count(*) from customers c where exists (select from orders o where o.tenant_id = c.tenant_id)",
    "select count(*) from customers c where not exists (select from orders o where o.tenant_id = c.tenant_id)",
    "with big as (select * from orders where qty > 1) select count(*), (select count(*) from big b) from big",
    'select author, n, body from notes order by author collate "C", n',
    "select count(*) from notes a, events b where a.n = b.n",
    "select kind, count(distinct day) from events group by kind order by 1",
    "select day, n, row_number() over (order by day, n) from events order by 1, 2",
    "select count(*) from orders union all select count(*) from customers order by 1",
    "select count(*) from public.orders, other.orders",
    "select o.id, o.qty from only orders o where o.tenant_id > 5 order by o.tenant_id, o.id offset 3 limit 9",
]


@pytest.mark.parametrize("sql", STATEMENTS)
def test_each_strategy_and_join_counts_rows_once(moving: Oracle, sql: str) -> None:
    with moving.connect() as plain:
        assert compare(plain, moving.router, sql) == "same"
        assert compare(plain, moving.router, sql, strategy="pull") == "same"
        count = plain.execute(f"select count(*) from ({sql}) q").fetchone()
    assert (sum(1 for _ in moving.router.stream(sql, row_factory=counting)),) == count


def counting(cursor: Any) -> Any:
    """Rows without values: Python has none for some."""
    return lambda values: ()


def test_a_scattered_statement_counts_each_row_on_one_shard(moving: Oracle) -> None:
    with moving.connect() as plain:
        for sql, params in (
            ("select count(*) from orders", None),
            ("select count(*) from notes n where n.author <> %s", ("ann",)),
            ("select count(*) from customers c left join orders o using (tenant_id)", None),
        ):
            expected = plain.execute(sql, params).fetchone()
            assert expected is not None
            found = moving.router.scatter(sql, params)
            assert sum(result.one()[0] for result in found.values()) == expected[0]
    assert len(moving.router.scatter("select relname from pg_class where relname = 'orders'")) == 4
    for sql in ("select count(*) from orders; select 1", "select count(*) from orders, pg_class"):
        with pytest.raises(UnsupportedQuery, match="would count twice"):
            moving.router.scatter(sql)


def test_the_copies_are_there(moving: Oracle) -> None:
    """What each shard says by itself adds up to more than there is."""
    for table in ("orders", "notes", "events"):
        query = f"select count(*) from {table}"
        counted = sum(moving.router.shard(name).execute(query).one()[0] for name in moving.router.shards)
        assert counted > moving.router.execute(query).one()[0]


@pytest.mark.parametrize(
    "sql",
    [
        "select o from orders o full join customers c on c.tenant_id = o.tenant_id and c.id = o.id",
        "select count(*) from orders tablesample system (100)",
        "merge into orders o using items i on o.tenant_id = i.tenant_id and o.id = i.order_id and i.line = 1 "
        "when matched then update set qty = o.qty",
    ],
)
def test_what_cannot_be_said_of_rows_that_move_is_refused(moving: Oracle, sql: str) -> None:
    with moving.connect() as plain:
        outcome = compare(plain, moving.router, sql)
    assert outcome == "same" or "on their way to another shard" in outcome.message


def test_writes_on_several_shards_leave_copies_as_they_are(moving: Oracle) -> None:
    """The copy of a row is written by what brings it, and by nobody else."""
    router = moving.router

    def copies() -> list[Any]:
        return [
            router.shard(other).execute(f"select t::text from {table} t where {condition} order by 1").rows
            for _, other, tables, condition in COPIES
            for table in tables
        ]

    before = copies()
    with moving.connect() as plain:
        for sql in (
            "update orders set note = 'written' where qty > 0",
            "update orders o set note = c.code from customers c "
            "where c.tenant_id = o.tenant_id and c.id = o.customer_id and c.name is null",
            "update events set kind = 'written' where n % 3 = 0",
            "delete from items where line = 2",
            "delete from notes where stars < 0",
            "delete from items i using orders o where o.tenant_id = i.tenant_id and o.id = i.order_id and o.qty = 3",
        ):
            assert router.execute(sql).rowcount == plain.execute(sql).rowcount
        for table in COLUMNS:
            sql = f"select * from {table}"
            assert compare(plain, router, sql) == "same"
    assert copies() == before
