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
from shardpool.demo.stage import DemoStage

from .conftest import Fleet8

pytestmark = pytest.mark.servers

FLIGHTS = 5_000
LOAD_LOG, LAST = "20261101090003", "20261101090004"
TABLES = ("flights", "planes", "weather", "airlines", "airports")


@pytest.fixture
def demo(eight: Fleet8) -> Fleet8:
    """Eight empty shards with the keyspaces of the demo."""
    told = yaml.safe_load(eight.path.read_text(encoding="utf-8"))
    servers = {key: told[key] for key in ("version", "fleet", "epoch", "shards")}
    eight.path.write_text(yaml.safe_dump(servers) + layout(eight.shards), encoding="utf-8")
    with Router(eight.path) as router:
        router.init()
    return eight


def test_the_demos_migrations_go_to_eight_shards_and_back_with_its_rows_in_place(demo: Fleet8) -> None:
    versions = sorted(file.name.split("_")[0] for file in MIGRATIONS.glob("*.sql"))
    with Router(demo.path) as router:
        assert len(router.migrations.up(MIGRATIONS).shards) == 8
        for shard in demo.shards:
            assert demo.applied(shard) == [version for version in versions if shard == "s0" or version != LOAD_LOG]
        _assert_clean(router, len(versions))
        loaded = load(router, data_folder(), FLIGHTS, DemoStage(Console(file=io.StringIO())))
        assert loaded.rows["flights"] == FLIGHTS
        router.scatter("update planes set flights = 1")
        there = _rows(demo)

        assert router.migrations.down(MIGRATIONS).changed == 8
        column = "select from pg_attribute where attrelid = 'planes'::regclass and attname = 'flights'"
        assert all(LAST not in demo.applied(shard) and not demo.ask(shard, column) for shard in demo.shards)
        assert [line.version for line in router.migrations.status(MIGRATIONS).pending] == [LAST]
        assert router.migrations.drift().ok

        assert router.migrations.up(MIGRATIONS).changed == 8
        _assert_clean(router, len(versions))
        assert _rows(demo) == there
        # The column is a new one, and the router's prepared statements know it.
        assert router.execute("select count(*), count(flights) from planes").one() == (3_322, 0)
        assert router.check().ok

        router.migrations.down(MIGRATIONS, count=len(versions))
        for shard in demo.shards:
            assert demo.ask(shard, "select count(*) from pg_tables where schemaname = 'public'") == [(0,)]


def _assert_clean(router: Router, count: int) -> None:
    status, verified, drift = (
        router.migrations.status(MIGRATIONS),
        router.migrations.verify(MIGRATIONS),
        router.migrations.drift(),
    )
    assert status.ok and len(status.lines) == count and len(status.shards) == 8
    assert [finding.level for finding in verified.findings] == ["ok"] * 8
    assert drift.ok and len(drift.digests) == 8 and len(set(drift.digests.values())) == 1


def _rows(demo: Fleet8) -> dict[str, list[int]]:
    return {
        table: [demo.ask(shard, f"select count(*) from {table}")[0][0] for shard in demo.shards] for table in TABLES
    }
