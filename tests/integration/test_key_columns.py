"""Key columns whose values do not say by themselves where a row is: refused, or read as the server stores them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardpool import InvalidKey, Router, UnsupportedQuery

KEYSPACES = """\
keyspaces:
  names:
    key: text
    hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}
    tables: {padded: k, short: k, folded: k}
  times:
    key: timestamptz
    hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}
    tables: {rounded: k}
  numbers:
    key: bigint
    hash: {function: murmur3, buckets: 64, owners: {s0: 0-15, s1: 16-31, s2: 32-47, s3: 48-63}}
    tables: {loose: k, exact: k}
"""
SCHEMA = """\
create domain folded_text as text check (value = lower(value));
create table padded (k char(4) not null, n int);
create table short (k varchar(3) not null primary key, n int);
create table folded (k folded_text not null, n int);
create table rounded (k timestamptz(0) not null, n int);
create table loose (k bigint, n int);
create table exact (k numeric not null, n int);
"""


@pytest.fixture
def router(shardpool_make_topology: Callable[..., Path]) -> Iterator[Router]:
    with Router(shardpool_make_topology(KEYSPACES, SCHEMA)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("select * from padded where k = 'ab  '", "key column k is character(4), the topology says text"),
        ("insert into padded values ('ab', 1)", "key column k is character(4)"),
        ("select * from folded", "key column k is folded_text"),
        ("update rounded set n = 1", "key column k is timestamp(0) with time zone, the topology says timestamptz"),
        ("delete from exact where k = 1", "key column k is numeric, the topology says bigint"),
    ],
)
def test_a_table_whose_key_has_another_equality_is_not_asked_by_its_values(
    router: Router, query: str, message: str
) -> None:
    with pytest.raises(UnsupportedQuery, match=message.replace("(", r"\(").replace(")", r"\)")):
        router.execute(query)
    assert router.execute("select n from padded", key="ab", table="padded").rows == []


@pytest.mark.parametrize(
    ("insert", "params"),
    [
        ("insert into short values ('abc   ', 1)", None),
        ("insert into short values (%s, 1)", ["abc  "]),
        ("insert into short (n, k) values (1, %s), (2, 'x')", ["abc "]),
        ("insert into short select %s, 1", ["abc  "]),
    ],
)
def test_spaces_that_a_varchar_cuts_off_do_not_say_where_the_row_is(
    router: Router, insert: str, params: list[str] | None
) -> None:
    router.execute(insert, params)
    assert router.execute("select n from short where k = 'abc'").rows == [(1,)]
    assert router.execute("select n from short where k = 'abc '").rows == []


def test_a_row_without_a_key_is_not_put_anywhere(router: Router) -> None:
    """Where the column takes NULL the server would not refuse it."""
    for insert in ("insert into loose values (1, 1), (null, 2)", "insert into loose select null, 2"):
        with pytest.raises(InvalidKey, match="NULL is the key of no shard"):
            router.execute(insert)
    with pytest.raises(InvalidKey, match="NULL is the key of no shard"):
        router.execute("insert into loose values (%s, 2)", [None])
    assert router.execute("select count(*) from loose").one() == (0,)


def test_not_in_looks_for_null_on_all_shards(router: Router) -> None:
    router.execute("insert into loose values (1, 1), (2, 1), (3, 1), (4, 1), (5, 1)")
    router.shard("s2").execute("insert into loose values (null, 2)")
    query = "select count(*) from loose where k not in (select k from loose where n = 2)"
    assert router.execute(query).one() == (0,)


def test_a_key_that_is_given_longer_than_it_is_stored_leads_nowhere(router: Router) -> None:
    for handle in (router.for_key("abc  ", table="short"), router.for_key("ab   ", table="short")):
        with pytest.raises(InvalidKey, match="short stores the key") as raised:
            handle.execute("insert into short values ('abc  ', 1)")
        assert "varchar" not in str(raised.value) and "character varying(3)" in str(raised.value)
    with pytest.raises(InvalidKey):
        router.execute("insert into short values (%s, 1)", ["abc  "], key="abc  ", table="short")
    assert router.execute("update short set n = 2 where k = 'abc  '", key="abc  ", table="short").rowcount == 0
    router.execute("insert into short values ('ab ', 1)", key="ab ", table="short")
    assert router.execute("select n from short where k = %s", ["ab "]).rows == [(1,)]
    assert not any("lie here" in found.message for found in router.check().findings)
