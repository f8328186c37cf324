"""docker-compose.yml with config/topology.yaml, as the first lines of both say."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .engine import by_engine, compose, docker, done, environment, health, run, wait_until

ROOT = Path(__file__).parents[2]
SERVICES = ["s0", "s1", "s2", "s3", "s0-replica"]
PASSWORD = f"pass-{secrets.token_hex(6)}"
VARIABLE = "SHOP_DB_PASSWORD"
SCHEMA = """
create table customers (id bigint primary key, name text not null);
create table orders (id bigint, tenant_id bigint, cents bigint not null, primary key (tenant_id, id));
create table order_items (id bigint, tenant_id bigint, primary key (tenant_id, id));
create table events (day date not null, what text);
create table stores (region text primary key);
create table countries (code text primary key);
create table currencies (code text primary key);
"""
CUSTOMERS = 500


class Shop:
    """The fleet of the compose file, and the command `shardpool` with its topology file."""

    def __init__(self) -> None:
        self.project = f"shardpool-test-{secrets.token_hex(3)}"

    def compose(self, *arguments: str, password: str | None = PASSWORD) -> subprocess.CompletedProcess[str]:
        env = environment(**{VARIABLE: password, "COMPOSE_PROJECT_NAME": self.project})
        return run(*compose(), *arguments, env=env, cwd=ROOT)

    def up(self) -> None:
        with by_engine():
            self._up()

    def _up(self) -> None:
        if compose() == ["docker", "compose"]:
            done(self.compose("up", "--detach", "--wait"))
            return
        # The older program has no --wait.
        done(self.compose("up", "--detach"))
        for service in SERVICES:
            container = self.container(service)
            wait_until(lambda name=container: health(name) == "healthy", 120, f"{service} is not healthy")

    def down(self) -> None:
        with by_engine():
            done(self.compose("down", "--volumes"))

    def container(self, service: str) -> str:
        with by_engine():
            return done(self.compose("ps", "--quiet", service))

    def call(self, *arguments: str, password: str | None = PASSWORD) -> subprocess.CompletedProcess[str]:
        return run(str(ROOT / ".venv/bin/shardpool"), *arguments, env=environment(**{VARIABLE: password}), cwd=ROOT)

    def say(self, *arguments: str) -> str:
        """What `shardpool` prints; fails when it fails."""
        return done(self.call(*arguments))

    def rows(self, *arguments: str) -> list[str]:
        """The rows that `shardpool query` prints as CSV, without their head."""
        return self.say("query", "--csv", "--timeout=60", *arguments).splitlines()[1:]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """The fleet with its tables, and customers in one of them."""
    shop = Shop()
    try:
        shop.up()
        shop.say("init")
        shop.rows("--all-shards", SCHEMA)
        shop.rows("--shard", "s0", "create table audit_log (id bigint primary key)")
        customers = tmp_path_factory.mktemp("shop") / "customers.csv"
        customers.write_text("id,name\n" + "".join(f"{n},name {n}\n" for n in range(CUSTOMERS)), encoding="utf-8")
        shop.say("load", "customers", str(customers))
        yield shop
    finally:
        shop.down()


def test_check_finds_nothing_wrong(shop: Shop) -> None:
    found = shop.call("check")
    assert found.returncode == 0, found.stdout
    assert "s0/replica-1" in found.stdout


def test_rows_are_where_their_keys_live_and_are_read_as_one_table(shop: Shop) -> None:
    assert shop.rows("select count(*), sum(id) from customers") == [f"{CUSTOMERS},{sum(range(CUSTOMERS))}"]
    assert shop.rows("select name from customers where id = 17") == ["name 17"]
    by_shard = dict(row.split(",") for row in shop.rows("--all-shards", "select count(*) from customers"))
    assert sorted(by_shard) == ["s0", "s1", "s2", "s3"]
    assert all(int(count) > 0 for count in by_shard.values())
    assert shop.rows("--shard", "s3", "select name from customers where id = 17") == ["name 17"]  # pinned


def test_what_may_be_old_is_read_from_the_replica(shop: Shop) -> None:
    recovery = "select pg_is_in_recovery()"
    assert shop.rows("--shard", "s0", recovery) == ["f"]
    # A replica that is behind, or has not told yet how far it is, is not read from.
    wait_until(lambda: shop.rows("--shard", "s0", "--readonly", recovery) == ["t"], 120, "the replica is not read from")
    assert shop.rows("--shard", "s1", "--readonly", recovery) == ["f"]  # it has none


def test_the_replica_follows_a_primary_that_was_restarted(shop: Shop) -> None:
    primary = shop.container("s0")
    docker("restart", primary)
    with by_engine():
        wait_until(lambda: health(primary) == "healthy", 120, "s0 is not healthy after its restart")
    shop.rows("--shard", "s0", "insert into audit_log values (1)")
    there = "select count(*) from audit_log where pg_is_in_recovery()"
    wait_until(lambda: shop.rows("--shard", "s0", "--readonly", there) == ["1"], 120, "the replica does not follow")


def test_a_wrong_password_is_told_by_the_shard_and_not_shown(shop: Shop) -> None:
    wrong = f"wrong-{secrets.token_hex(6)}"
    found = shop.call("query", "--timeout=60", "--shard", "s1", "select 1", password=wrong)
    assert found.returncode == 1
    assert "s1" in found.stderr
    assert 'password authentication failed for user "app"' in found.stderr
    assert wrong not in found.stdout + found.stderr


def test_a_missing_password_is_told_with_its_variable(shop: Shop) -> None:
    found = shop.call("check", password=None)
    assert found.returncode == 2
    assert f"variable {VARIABLE} is not set" in found.stderr
    assert shop.compose("config").returncode == 0
    servers = shop.compose("config", password=None)
    assert servers.returncode != 0
    assert "set it to a password of your choice" in servers.stderr


def test_down_leaves_nothing_behind(shop: Shop) -> None:
    of_project = ("--quiet", "--filter", f"label=com.docker.compose.project={shop.project}")
    kinds = (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
    assert all(docker(*kind, *of_project) for kind in kinds)
    shop.down()
    assert not any(docker(*kind, *of_project) for kind in kinds)
