"""A user's project: what type checkers make of shardpool where it is installed as a package. It is checked, not run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, assert_type

from shardpool import AsyncRouter, ByShard, Report, Result, Router, ShardError, Topology, load_topology


def count(path: str) -> int:
    topology = load_topology(path)
    assert_type(topology, Topology)
    with Router(topology) as router:
        result = router.execute("select count(*) from orders", timeout=2.0)
        assert_type(result, Result)
        report = router.check()
        assert_type(report, Report)
        assert_type(report.ok, bool)
        with router.for_key(42).connection() as conn:
            row = conn.execute("select count(*) from orders where tenant_id = 42").fetchone()
        assert row is not None
        total: int = row[0]
        return total + len(result.rows)


def everywhere(router: Router) -> dict[str, list[Any]]:
    try:
        found = router.scatter("select 1")
    except ShardError as error:
        assert_type(error.shard, str)
        return {}
    assert_type(found, ByShard)
    return {shard: result.rows for shard, result in found.items()}


async def one(router: AsyncRouter, key: int) -> Any:
    result = await router.execute("select name from customers where id = %s", (key,), key=key)
    return result.one()


def streamed(router: Router) -> Iterator[Any]:
    with closing(router.stream("select id from orders order by id")) as rows:
        yield from rows
