"""The 22 queries of TPC-H give on the fleet what they give on one PostgreSQL that holds all rows.

`SHARDPOOL_TPCH_SCALE` is the scale factor (default 0.01). `-m pull` selects the runs that ask for the strategy.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest

from shardpool import Router, UnsupportedQuery
from shardpool.testing import Fleet

from . import data
from .compare import Expected, ask_fleet, ask_plain, difference, expected
from .queries import PUBLISHED, QUERIES, Query
from .schema import LAYOUTS, SHARDED, TABLES

pytestmark = pytest.mark.servers

# (layout, query) that the router refuses: each is named here, and is refused, or the test fails.
REFUSED: frozenset[tuple[str, str]] = frozenset()

each_query = pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.name)


@pytest.fixture(scope="module")
def files() -> Iterator[dict[str, Path]]:
    # Not pytest's folder, which is kept: at scale 1 this is a gigabyte.
    with tempfile.TemporaryDirectory() as folder:
        yield data.generate(Path(folder), data.scale())


@pytest.fixture(scope="module")
def plain(shardpool_fleet: Fleet, files: dict[str, Path]) -> Iterator[psycopg.Connection]:
    with data.plain(shardpool_fleet, files) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        yield conn


@pytest.fixture(scope="module")
def wanted(plain: psycopg.Connection) -> dict[str, Expected]:
    return {query.name: expected(plain, query, data.scale()) for query in QUERIES}


@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(f"tpch {name}")) for name in LAYOUTS]
)
def layout(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def router(
    layout: str, shardpool_fleet: Fleet, tmp_path_factory: pytest.TempPathFactory, files: dict[str, Path]
) -> Iterator[Router]:
    with data.sharded(shardpool_fleet, tmp_path_factory.mktemp(layout), layout, files) as router:
        yield router


@each_query
def test_the_fleet_answers_as_one_server(
    router: Router, layout: str, query: Query, wanted: dict[str, Expected]
) -> None:
    if (layout, query.name) in REFUSED:
        with pytest.raises(UnsupportedQuery):
            ask_fleet(router, query.text(data.scale()))
        return
    answer, _ = ask_fleet(router, query.text(data.scale()))
    assert difference(query, answer, wanted[query.name]) is None


@pytest.mark.pull
@each_query
def test_the_fleet_answers_as_one_server_when_it_pulls(
    router: Router, query: Query, wanted: dict[str, Expected]
) -> None:
    answer, _ = ask_fleet(router, query.text(data.scale()), strategy="pull")
    assert difference(query, answer, wanted[query.name]) is None


def test_the_fleet_holds_the_rows_of_one_server(router: Router, layout: str, plain: psycopg.Connection) -> None:
    for table in TABLES:
        # In any order: the sum of the rows' hashes.
        look = f"select count(*), coalesce(sum(hashtextextended({table}::text, 0)), 0) from {table}"
        (whole,) = plain.execute(look).fetchall()
        shards = [result.one() for result in router.scatter(look, timeout=data.LOAD_TIMEOUT).values()]
        if table in SHARDED[layout]:
            assert tuple(map(sum, zip(*shards, strict=True))) == whole
            assert all(count for count, _ in shards)
        else:
            assert all(shard == whole for shard in shards)
    assert router.check(timeout=data.LOAD_TIMEOUT).ok


def test_two_servers_with_the_same_rows_answer_the_same(
    shardpool_fleet: Fleet, files: dict[str, Path], wanted: dict[str, Expected]
) -> None:
    """The answers that are compared with are one server's own, whatever its plan: the second has no statistics."""
    with data.plain(shardpool_fleet, files, tuned=False) as dsn, psycopg.connect(dsn, autocommit=True) as conn:
        wrong = {}
        for query in QUERIES:
            answer = ask_plain(conn, query.text(data.scale()))
            wrong[query.name] = difference(query, answer, wanted[query.name])
    assert {name: why for name, why in wrong.items() if why} == {}


def test_every_query_has_rows(wanted: dict[str, Expected]) -> None:
    assert [name for name, want in wanted.items() if not want.answer.rows] == []


def test_one_server_gives_the_published_answers(plain: psycopg.Connection) -> None:
    """They are for scale factor 1: at any other one only their number is looked at."""
    assert PUBLISHED.keys() == {query.name for query in QUERIES}
    for query in QUERIES if data.scale() == 1 else ():
        rows = plain.execute(query.text(1)).fetchall()
        number, leading = PUBLISHED[query.name]
        assert len(rows) == number, query.name
        assert f"{' '.join(map(_rounded, rows[0]))} ".startswith(f"{leading} "), query.name


def _rounded(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, Decimal) else str(value).rstrip()
