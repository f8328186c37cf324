"""What `router.stats()` counts, on a real fleet, and that each field is described."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from threading import Barrier, Thread
from time import monotonic, sleep
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, DeadlineExceeded, Router, ScatterError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "stats.md"


def endpoint(router: Router | AsyncRouter, shard: str = "s0") -> dict[str, Any]:
    found: dict[str, Any] = router.stats()["shards"][shard]["primary"]
    return found


def test_calls_and_their_time_are_counted_where_they_ran(router: Router) -> None:
    route = router.for_key(17, table="orders")
    for _ in range(20):
        route.execute("select 1")
    route.execute("select pg_sleep(0.2)")
    told = endpoint(router, "s3")
    assert (told["calls"], told["use"]["count"], told["wait"]["count"]) == (21, 21, 21)
    assert 0.2 <= told["use"]["sum"] < 2.0
    assert told["use"]["p50"] < 0.05 < told["use"]["p99"]
    assert told["errors"] == {}
    assert endpoint(router, "s0")["calls"] == 0
    assert router.stats()["skew"] == 4.0
    assert told["connect"]["count"] == told["events"]["connected"] == 1


def test_the_wait_for_a_connection_is_told_from_its_use(topology_path: str) -> None:
    text = Path(topology_path).read_text().replace("epoch: 5\n", "epoch: 5\ndefaults: {pool: {max_size: 1}}\n")
    Path(topology_path).write_text(text)
    with Router(topology_path) as router:
        shard = router.shard("s0")
        shard.execute("select 1")
        begun = Barrier(2)

        def hold() -> None:
            with shard.connection() as conn:
                begun.wait()
                conn.execute("select pg_sleep(0.3)")

        thread = Thread(target=hold)
        thread.start()
        begun.wait()
        assert endpoint(router)["in_flight"] == 1
        with pytest.raises(DeadlineExceeded):
            shard.execute("select 1", timeout=0.05)
        shard.execute("select 1")
        thread.join()
        told = endpoint(router)
    assert told["timeouts"] == 1
    assert told["errors"] == {"DeadlineExceeded": 1}
    assert 0.15 < told["wait"]["sum"] < 1.0
    assert told["wait"]["at_most"][-1] == told["wait"]["count"] == 3


def test_errors_are_counted_by_their_class(router: Router) -> None:
    shard = router.shard("s0")
    shard.execute("insert into countries values ('de', 'Germany')")
    for _ in range(2):
        with pytest.raises(psycopg.errors.UniqueViolation):
            shard.execute("insert into countries values ('de', 'Germany')")
    with pytest.raises(psycopg.errors.UndefinedTable), shard.transaction() as conn:
        conn.execute("select * from nowhere")
    with pytest.raises(DeadlineExceeded):
        shard.execute("select pg_sleep(5)", timeout=0.2)
    assert endpoint(router)["errors"] == {"UniqueViolation": 2, "UndefinedTable": 1, "DeadlineExceeded": 1}


def test_scatters_count_on_each_shard(router: Router) -> None:
    router.scatter("select 1")
    router.scatter(lambda conn: conn.execute("select 1").fetchone())
    with pytest.raises(ScatterError):
        router.scatter("select pg_sleep(5)", timeout=0.3)
    for shard in router.shards:
        told = endpoint(router, shard)
        assert (told["calls"], told["errors"]) == (3, {"DeadlineExceeded": 1})


async def test_an_async_router_counts_alike(topology_path: str) -> None:
    async with AsyncRouter(topology_path) as router:
        for _ in range(5):
            await router.shard("s1").execute("select 1")
        await router.scatter("select 1")
        assert endpoint(router, "s1")["calls"] == 6
        assert endpoint(router, "s1")["use"]["p50"] > 0


def test_counts_outlive_a_reload_that_replaces_a_pool(topology_path: str) -> None:
    with Router(topology_path) as router:
        router.shard("s0").execute("select 1")
        text = Path(topology_path).read_text().replace("epoch: 5\n", "epoch: 6\ndefaults: {pool: {max_idle: 60s}}\n")
        Path(topology_path).write_text(text)
        router.reload()
        router.shard("s0").execute("select 1")
        assert endpoint(router)["calls"] == 2
        assert router.stats()["reloads"] == 1


def test_threads_lose_no_count(router: Router) -> None:
    def work() -> None:
        for _ in range(200):
            router.shard("s0").execute("select 1")

    threads = [Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    told = endpoint(router)
    assert told["calls"] == told["wait"]["count"] == 1600


def test_a_forked_child_counts_from_zero(router: Router) -> None:
    router.shard("s0").execute("select 1")
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            told = endpoint(router)["calls"]
            router.shard("s0").execute("select 1")
            os.write(writer, f"{told} {endpoint(router)['calls']}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "0 1"
    os.waitpid(pid, 0)


def fields(told: dict[str, Any], router: Router) -> Iterator[str]:
    """All fields of stats() as the page writes them."""
    for name, value in told.items():
        if name != "shards":
            yield name
            if name in ("statements", "transactions"):
                yield from (f"{name}.{below}" for below in value)
    for name, value in told["shards"]["s0"]["primary"].items():
        yield f"shards.*.*.{name}"
        if name in ("wait", "limits", "events"):
            yield from (f"shards.*.*.{name}.{below}" for below in value)


def test_each_field_is_described_and_each_described_field_is_there(router: Router) -> None:
    router.scatter("select 1")
    described = re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(encoding="utf-8"), re.M)
    not_of_each = {"shards.*.*.lag_seconds", "shards.*.*.max_lag"}
    listed = {name for name in described if not name.startswith("shardpool_")}
    found = set(fields(router.stats(), router))
    assert listed - not_of_each == found - not_of_each
    for histogram in ("wait", "use", "connect"):
        told = endpoint(router)[histogram]
        assert set(told) == {"count", "sum", "p50", "p99", "at_most"}
        assert len(told["at_most"]) == len(router.stats()["bounds"])
    json.dumps(router.stats())


def test_quantiles_leave_with_their_window(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shardpool._endpoint.histogram.PERIOD", 0.1)
    router.shard("s0").execute("select 1")
    until = monotonic() + 20
    while endpoint(router)["use"]["p50"] is not None and monotonic() < until:
        sleep(0.02)
    assert endpoint(router)["use"]["p50"] is None
    assert endpoint(router)["use"]["count"] == 1
