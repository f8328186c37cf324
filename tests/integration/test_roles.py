"""The grants in docs/howto/security.md are enough for each role, and what `check` says of roles and files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from shardpool import Router, ScatterError, Topology, load_topology
from shardpool.topology import Secret

from .conftest import KEYSPACES, SCHEMA

GRANTS = re.findall(
    r"```sql\n(.*?)```", (Path(__file__).parents[2] / "docs/howto/security.md").read_text(encoding="utf-8"), re.S
)
ROLES = ("shop_service", "shop_editor", "shop_migrator")
PASSWORD = "of the roles' test"


@pytest.fixture
def shop(shardpool_fleet: Any, shardpool_make_topology: Callable[..., Path]) -> Iterator[Topology]:
    """Four databases that are nobody's of these roles yet, and nothing in them."""
    if not hasattr(shardpool_fleet, "fleet"):
        pytest.skip("roles are made by a superuser, which only servers on this machine have")
    topology = load_topology(shardpool_make_topology(KEYSPACES, init=False))
    admins = [
        shardpool_fleet.fleet.server(name).connect("postgres", shard.primary.param("dbname"))
        for name, shard in topology.shards.items()
    ]
    for admin in admins:
        for role in ROLES:
            admin.execute(sql.SQL("create role {} login password {}").format(sql.Identifier(role), PASSWORD))
    try:
        yield topology
    finally:
        for admin in admins:
            for role in ROLES:
                admin.execute(sql.SQL("drop owned by {} cascade").format(sql.Identifier(role)))
                admin.execute(sql.SQL("drop role {}").format(sql.Identifier(role)))
            admin.close()


def as_role(topology: Topology, role: str) -> Topology:
    shards = {}
    for name, shard in topology.shards.items():
        params = tuple(sorted({**dict(shard.primary.params), "user": role}.items()))
        primary = replace(shard.primary, params=params, password=Secret(PASSWORD), password_file=None)
        shards[name] = replace(shard, primary=primary)
    return replace(topology, shards=shards)


def grant(shardpool_fleet: Any, topology: Topology, statements: str) -> None:
    for name, shard in topology.shards.items():
        database = shard.primary.param("dbname")
        with shardpool_fleet.fleet.server(name).connect("postgres", database) as admin:
            admin.execute(statements.replace("database shop", f'database "{database}"'))


def test_each_role_needs_no_more_than_the_docs_say(shop: Topology, shardpool_fleet: Any) -> None:
    service, editor, migrator = GRANTS
    grant(
        shardpool_fleet, shop, "revoke temporary on database shop from public; revoke all on schema public from public"
    )
    grant(shardpool_fleet, shop, editor)
    with Router(as_role(shop, "shop_editor")) as router:
        router.init()
    grant(shardpool_fleet, shop, migrator)
    grant(shardpool_fleet, shop, service)
    with Router(as_role(shop, "shop_migrator")) as router:
        router.scatter(SCHEMA)
        router.shard("s0").execute("create table audit_log (what text)")
    with Router(as_role(shop, "shop_service")) as router:
        router.copy_into("orders", ((number, number, "x") for number in range(100)), columns=["tenant_id", "n", "note"])
        router.copy_into("countries", [("de", "Germany")], columns=["code", "name"])
        assert router.execute("select count(*) from orders").one() == (100,)
        assert router.execute("select note, count(distinct n) from orders group by note").one() == ("x", 100)
        query = "select count(*) from orders a join orders b on a.n = b.n + 1"
        assert router.execute(query, strategy="pull").one() == (99,)
        router.execute("update orders set note = 'y'")
        with router.for_key(1, table="orders").transaction() as conn:
            conn.execute("delete from orders where tenant_id = 1")
        report = router.check()
        assert not report.errors and not [w for w in report.warnings if "role" in w.message]
        with pytest.raises(ScatterError):
            router.init()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            router.shard("s0").execute("create table other (x int)")
    with Router(as_role(replace(shop, epoch=shop.epoch + 1), "shop_editor")) as router:
        router.init()
        assert not router.check().errors


def test_a_role_that_may_do_too_much_or_too_little_is_told(shop: Topology, shardpool_fleet: Any) -> None:
    grant(
        shardpool_fleet, shop, "revoke temporary on database shop from public; grant pg_read_all_data to shop_service"
    )
    grant(shardpool_fleet, shop, "alter role shop_editor superuser")
    with Router(as_role(shop, "shop_service")) as router:
        told = [finding.message for finding in router.check().warnings if finding.subject == "s0/primary"]
    assert any("reads every table" in one for one in told) and any("temporary tables" in one for one in told)
    with Router(as_role(shop, "shop_editor")) as router:
        told = [finding.message for finding in router.check().warnings if finding.subject == "s0/primary"]
    assert [one for one in told if "role" in one] == ["role shop_editor is a superuser, which no router needs"]


def test_files_that_anybody_may_write_are_told(router: Router, topology_path: str) -> None:
    assert not [finding for finding in router.check().warnings if "anybody" in finding.message]
    password = Path(router.topology.shards["s0"].primary.password_file or "")
    for file in (Path(topology_path), password):
        file.chmod(0o646)
    told = [finding.message for finding in router.check().warnings if "anybody" in finding.message]
    assert told == [
        f"anybody on this machine may write the topology file {topology_path}",
        f"anybody on this machine may write the password file {password}",
    ]
