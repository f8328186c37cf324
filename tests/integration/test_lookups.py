"""Columns that are unique over the fleet: their entries are kept by what writes them, and lead to their rows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from shardpool import Router, UnsupportedQuery
from shardpool.config import load_topology
from shardpool.operations import check_lookups, create_lookups, repair_lookups

from ..timing import SLOW

OWNERS = "hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}"
KEYSPACES = f"""\
defaults: {{timeout: {SLOW:g}s}}
keyspaces:
  people: {{key: bigint, {OWNERS}, tables: {{users: id, pets: owner}}}}
  emails: {{key: text, {OWNERS}, lookup: {{users.email: unique}}}}
"""
SCHEMA = """\
create table users (id bigint primary key, email text, name text);
create table pets (owner bigint references users on delete cascade, n int, primary key (owner, n));
"""


@pytest.fixture
def path(shardpool_make_topology: Callable[..., Path]) -> Path:
    made = shardpool_make_topology(KEYSPACES, SCHEMA)
    asyncio.run(create_lookups(load_topology(made), timeout=SLOW))
    return made


@pytest.fixture
def router(path: Path) -> Iterator[Router]:
    with Router(path) as opened:
        yield opened


def entries(router: Router) -> list[Any]:
    return [*map(tuple, router.execute("select email, id from users_email_lookup order by email"))]


def rows(router: Router) -> list[Any]:
    return [*map(tuple, router.execute("select email, id from users where email is not null order by email"))]


def test_smoke(router: Router, path) -> None:
    router.execute("insert into users values (%s, %s, 'a')", [1, "a@x"])
    router.execute("insert into users values (2, 'b@x', 'b'), (3, 'c@x', 'c'), (4, null, 'd'), (5, null, 'e')")
    assert entries(router) == rows(router) == [("a@x", 1), ("b@x", 2), ("c@x", 3)]
    asyncio.run(_plain(path))
    t = load_topology(path)
    r = asyncio.run(check_lookups(t))
    print(r)
    r = asyncio.run(repair_lookups(t))
    print(r)
    assert entries(router) == rows(router)
    r = asyncio.run(check_lookups(t))
    print(r)
    router._fleet.schema.changed()
    print(router.explain("select * from users where email = %s", ["b@x.de"]))
    print(router.execute("select * from users where email = %s", ["b@x"]))
    with router.transaction() as tx:
        tx.execute("insert into users values (11, 'k@x', 'a')")
        tx.execute("update users set email='l@x' where id=11")
        print(tx.execute("select * from users where email='l@x' for update"))
        print(tx.execute("update users set name='lala' where email='l@x'"))
        tx.connection(3).execute("update users set email='cc@x' where id=3")
    assert entries(router) == rows(router)
    with pytest.raises(psycopg.errors.FeatureNotSupported) as e:
        router.for_key(3).execute("update users set email='cc@x2' where id=3")
    print(e.value)
    with pytest.raises(UnsupportedQuery):
        router.execute("delete from users_email_lookup")
    assert 0

async def _plain(path):
    t = load_topology(path)
    from shardpool.operations.connections import open_link
    async with open_link(t, 's0') as conn:
        await conn.execute("set search_path=public")
        await conn.execute("set shardpool.lookups='off'")
        with Router(path) as r:
            keys=[k for k in range(100,200) if r.for_key(k).shard=='s0'][:5]
        for k in keys:
            await conn.execute("insert into users values (%s, %s)", [k, f"{k}@x"])
        await conn.execute("delete from users where id = any (%s)", [keys[:1]+[1,2,3]])
