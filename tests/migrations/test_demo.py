"""The demo's own migrations, as they come with the package, on eight shards."""

from __future__ import annotations

import io

import pytest
import yaml
from rich.console import Console

from shardpool import Router
from shardpool.demo.data import data_folder
from shardpool.demo.layout import layout
from shardpool.demo.loading import MIGRATIONS, load
from shardpool.demo.stage import Stage

from .conftest import Fleet8

pytestmark = pytest.mark.servers

FLIGHTS = 20_000
LOAD_LOG, LAST = "20261101090003", "20261101090004"


@pytest.fixture
def demo(eight: Fleet8) -> Fleet8:
    """Eight empty shards with the keyspaces of the demo, and its folder."""
    told = yaml.safe_load(eight.path.read_text(encoding="utf-8"))
    servers = {key: told[key] for key in ("version", "fleet", "epoch", "shards")}
    eight.path.write_text(yaml.safe_dump(servers) + layout(eight.shards), encoding="utf-8")
    eight.migrations = MIGRATIONS
    with Router(eight.path) as router:
        router.init()
    return eight


def test_the_demos_migrations_go_to_eight_shards_and_back_with_its_rows_in_place(demo: Fleet8) -> None:
    folder = ("--dir", str(MIGRATIONS))
    versions = sorted(file.name.split("_")[0] for file in MIGRATIONS.glob("*.sql"))
    assert versions[-1] == LAST
    assert "0 errors" in demo("lint", "--no-squawk", *folder)
    # All on eight shards, but the table that is on one.
    assert demo.json("up", *folder)["ok"]
    for shard in demo.shards:
        assert demo.applied(shard) == [version for version in versions if shard == "s0" or version != LOAD_LOG]
    _assert_clean(demo, len(versions))
    with Router(demo.path) as router:
        loaded = load(router, data_folder(), FLIGHTS, Stage(Console(file=io.StringIO())))
        router.scatter("update planes set flights = 1")
    assert loaded.rows["flights"] == FLIGHTS
    there = _rows(demo)

    assert "8 migrations run on 8 shards" in demo("down", "--yes", *folder)
    for shard in demo.shards:
        assert LAST not in demo.applied(shard)
        assert not demo.ask(
            shard, "select from pg_attribute where attrelid = 'planes'::regclass and attname = 'flights'"
        )
    assert f"{len(versions) - 1} applied everywhere, 1 pending" in demo("status", *folder, code=3)
    assert "8 schemas, alike" in demo("drift")

    assert "8 migrations run on 8 shards" in demo("up", *folder)
    _assert_clean(demo, len(versions))
    assert _rows(demo) == there
    assert all(demo.ask(shard, "select count(flights) from planes") == [(0,)] for shard in demo.shards)


def _assert_clean(demo: Fleet8, count: int) -> None:
    folder = ("--dir", str(MIGRATIONS))
    status = demo.json("status", *folder)
    assert status["ok"] and len(status["migrations"]) == count and len(status["shards"]) == 8
    findings = demo.json("verify", *folder)["findings"]
    assert [finding["level"] for finding in findings] == ["ok"] * 8
    drift = demo.json("drift")
    assert drift["ok"] and len(drift["digests"]) == 8 and len(set(drift["digests"].values())) == 1


def _rows(demo: Fleet8) -> dict[str, list[int]]:
    tables = ("flights", "planes", "weather", "airlines", "airports")
    return {
        table: [demo.ask(shard, f"select count(*) from {table}")[0][0] for shard in demo.shards] for table in tables
    }


def test_the_demos_tables_are_nowhere_when_everything_is_taken_back(demo: Fleet8) -> None:
    folder = ("--dir", str(MIGRATIONS))
    demo("up", *folder)
    demo("down", "-n", "5", "--yes", *folder)
    for shard in demo.shards:
        assert demo.ask(shard, "select count(*) from pg_tables where schemaname = 'public'") == [(0,)]
