"""`topology enforce`: a shard refuses rows that are not its own, however they come; and what `check` says of tables."""

from __future__ import annotations

import asyncio
from time import monotonic

import psycopg
import pytest

from shardpool import EditRefused, LoadError, Router, UnknownTable, UnsupportedQuery, load_topology
from shardpool.operations import enforce_owners
from tests.integration.test_topology_edit import Editor

MOVE = """
create function move() returns trigger language plpgsql as
$$begin if new.note = 'move' then new.tenant_id := new.tenant_id + 1; end if; return new; end$$;
create trigger zz_move before insert or update on orders for each row execute function move();
"""
ENFORCED = "select count(*) filter (where tgnargs > 1), count(*) from pg_trigger where tgname = 'shardpool_fence'"


@pytest.fixture
def editor(topology_path: str) -> Editor:
    return Editor(topology_path)


def strangers(router: Router) -> tuple[int, int]:
    """Two keys that follow one another, on two shards."""
    return next((key, key + 1) for key in range(99) if _shard(router, key) != _shard(router, key + 1))


def _shard(router: Router, key: int) -> str:
    return router.for_key(key, table="orders").shard


def test_rows_of_other_shards_are_refused_whoever_writes_them(editor: Editor, router: Router) -> None:
    router.scatter(MOVE)
    key, other = strangers(router)
    with pytest.raises(UnsupportedQuery, match="trigger zz_move may change the key"):
        router.copy_into("orders", [(key, 1, "a")], columns=["tenant_id", "n", "note"])
    assert "s3: on for orders" in editor("enforce", "on", "orders")
    route = router.for_key(key, table="orders")
    begun = monotonic()
    for statement, params in (
        ("insert into orders values (%s, 1, 'a')", [other]),
        ("insert into orders values (%s, 1, 'move')", [key]),
    ):
        with pytest.raises(psycopg.Error, match="a row of orders belongs to another shard") as refused:
            route.execute(statement, params)
        assert refused.value.sqlstate == "RS001"
    assert monotonic() - begun < 60, "what the router knows is not waited for"
    router.copy_into("orders", [(key, 1, "a"), (other, 1, "b")], columns=["tenant_id", "n", "note"])
    with pytest.raises(LoadError) as load:
        router.copy_into("orders", [(key, 2, "move")], columns=["tenant_id", "n", "note"])
    assert {getattr(error, "sqlstate", "") for error in load.value.failures.values()} == {"RS001"}
    for statement in ("update orders set tenant_id = tenant_id + 1", "update orders set note = 'move'"):
        with pytest.raises(psycopg.Error, match="belongs to another shard"):
            route.execute(statement)
    route.execute("update orders set note = 'b', tenant_id = tenant_id")
    assert router.check().ok
    editor("enforce", "off", "orders")
    route.execute("insert into orders values (%s, 3, 'move')", [key])
    assert not router.check().ok


def test_what_is_enforced_outlives_an_edit_and_follows_the_owners(editor: Editor) -> None:
    editor("enforce", "on")
    new = editor.path.with_name("new.yaml")
    new.write_text(editor.text.replace("s0: 0-1023, s1: 1024-2047", "s1: 0-1023, s0: 1024-2047"), encoding="utf-8")
    editor("apply", str(new), "--settle", "0")
    with Router(editor.path) as router:
        assert {result.one() for result in router.scatter(ENFORCED).values()} == {(3, 3)}
        for key in range(40):
            router.execute("insert into orders values (%s, 1, 'a')", [key], key=key, table="orders")
        with pytest.raises(psycopg.Error, match="belongs to another shard"):
            key, other = strangers(router)
            router.execute("insert into orders values (%s, 2, 'a')", [other], key=key, table="orders")
        editor("enforce", "off")
        assert {result.one()[0] for result in router.scatter(ENFORCED).values()} == {0}


def test_what_cannot_be_enforced_is_told(editor: Editor) -> None:
    topology = load_topology(editor.path)
    with pytest.raises(UnknownTable, match="no sharded table"):
        asyncio.run(enforce_owners(topology, True, ["countries"]))
    editor("enforce", "on", "orderz", code=2)
    assert "Did you mean orders?" in editor.stderr
    editor.path.write_text(
        editor.text.replace("s0: 0-1023, s1: 1024-2047", "s1: 0-1023, s0: 1024-2047"), encoding="utf-8"
    )
    with pytest.raises(EditRefused):
        asyncio.run(enforce_owners(load_topology(editor.path), True))


def test_check_tells_what_is_not_unique_over_the_fleet_and_what_may_change_a_key(
    editor: Editor, router: Router
) -> None:
    def warnings() -> str:
        return "\n".join(str(found) for found in router.check().findings if found.level == "warning")

    assert "unique on each shard" not in warnings() and "numbered by each" not in warnings()
    router.scatter(
        MOVE + "alter table orders add id bigint generated always as identity, add serial serial, add unique (id);"
        "alter table orders add doubled bigint generated always as (tenant_id * 2) stored;"
        "create unique index orders_note on orders (lower(note), tenant_id);"
        "alter table orders add during int8range, add constraint apart exclude using gist (during with &&);"
        "create rule note as on insert to stores do also notify stores"
    )
    assert not [found for found in router.check().findings if found.level == "error"]
    told = warnings()
    assert "orders: unique index orders_id_key (id) is without the key (tenant_id)" in told
    assert "orders: exclusion constraint apart (none by =) is without the key (tenant_id)" in told
    assert "orders_note" not in told
    assert "column id is numbered by each shard" in told and "column serial is numbered" in told
    assert "trigger zz_move may change its key" in told and "shardpool topology enforce on orders" in told
    assert "stores: rule note may write other rows" in told
    for number, shard in enumerate(router.shards):
        router.shard(shard).execute(
            f"alter table orders alter id set increment by 4 set start with {number + 1} restart"
        )
    editor("enforce", "on")
    told = warnings()
    assert "column id" not in told and "column serial is numbered" in told and "may change its key" not in told
    router.shard("s2").execute("drop trigger shardpool_fence on orders")
    assert "rows that belong to others are not refused on s2" in warnings()
