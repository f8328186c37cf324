"""Which statements keep entries of columns that are unique over the fleet, and which are routed by a value."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import pytest

from shardpool import UnsupportedQuery
from shardpool.query.analysis.catalog import Catalog, Column, Table
from shardpool.query.plans.plan import Plan
from shardpool.query.plans.planner import plan
from shardpool.topology import Lookup, Topology

from .catalog import catalog, topology

LOOKUP = Lookup("public.orders", "note", "notes", "public.orders_note_lookup")


def with_lookup() -> Topology:
    plain = topology()
    notes = plain.keyspaces["notes"]
    notes = replace(notes, lookups=(LOOKUP,), tables={**notes.tables, LOOKUP.entries: ("note",)})
    return replace(plain, keyspaces={**plain.keyspaces, "notes": notes})


def with_entries(constraint: str = "orders_note_lookup_pkey") -> Catalog:
    plain = catalog()
    columns = tuple(
        Column(name, type_, True, collation, True, None)
        for name, type_, collation in (("note", "text", "default"), ("tenant_id", "bigint", None))
    )
    table = Table(LOOKUP.entries, "r", False, columns, ("note",), ((constraint, frozenset({"note"})),))
    return replace(
        plain,
        tables={**plain.tables, LOOKUP.entries: table},
        visible={**plain.visible, "orders_note_lookup": LOOKUP.entries},
    )


def planned(sql: str) -> Plan:
    return plan(sql, with_lookup(), with_entries())


@pytest.mark.parametrize(
    ("sql", "text", "places"),
    [
        (
            "select * from orders where note = $1",
            "SELECT * FROM orders WHERE note = %s AND orders.tenant_id = %s",
            (1, -1),
        ),
        (
            "select * from orders o where qty > $2 and ($1 = o.note and o.id = 5) for update",
            "SELECT * FROM orders o WHERE qty > %s AND (%s = o.note AND o.id = 5) AND o.tenant_id = %s FOR UPDATE OF o",
            (2, 1, -1),
        ),
        (
            "delete from orders where note = 'a' returning id",
            "DELETE FROM orders WHERE note = 'a' AND orders.tenant_id = %s RETURNING id",
            (-1,),
        ),
        (
            "update orders set qty = $1 where note = $2",
            "UPDATE orders SET qty = %s WHERE note = %s AND orders.tenant_id = %s",
            (1, 2, -1),
        ),
        (
            "select 1 from items i left join orders o on o.tenant_id = i.tenant_id where o.note = $1",
            "SELECT 1 FROM items i LEFT JOIN orders o ON o.tenant_id = i.tenant_id"
            " WHERE o.note = %s AND o.tenant_id = %s",
            (1, -1),
        ),
    ],
)
def test_a_value_is_looked_up_for_its_key(sql: str, text: str, places: tuple[int, ...]) -> None:
    found = planned(sql).looked
    assert found is not None
    assert (found.text.replace(" OF o", ""), found.places) == (text.replace(" OF o", ""), places)
    assert found.query == 'select "tenant_id" from "public"."orders_note_lookup" where "note" = %s'
    assert found.params(["x", "y"], (7,))[-1] == 7 and found.params(["x", "y"], None)[-1] is None


@pytest.mark.parametrize(
    "sql",
    [
        "select * from orders where note = $1 or id = 5",
        "select * from orders where note like $1",
        "select * from orders where note = lower($1)",
        "select * from orders where note = $1 and qty = $1",
        "select * from orders where not note = 'a'",
        "select * from orders where note = 'a' and tenant_id = 5",
        "select * from orders, items where note = 'a'",
        "select * from orders where note = 'a' union select * from orders",
        "with orders as (select * from items) select * from orders where note = 'a'",
        "select * from notes where note = 'a'",
        "select (select 1 from orders where note = 'a')",
        "update orders set qty = 1 from items where note = 'a' and items.tenant_id = orders.tenant_id",
    ],
)
def test_other_statements_are_planned_as_ever(sql: str) -> None:
    with suppress(UnsupportedQuery):
        assert planned(sql).looked is None
    assert (
        plan("select * from orders where note = $1", with_lookup(), with_entries("orders_note_lookup_filling")).looked
        is None
    )


@pytest.mark.parametrize(
    ("sql", "kept"),
    [
        ("insert into orders (tenant_id, id, note) values (1, 1, 'a')", True),
        ("insert into orders (tenant_id, id) values (1, 1)", True),
        ("update orders set qty = 1 where tenant_id = 1", False),
        ("update orders set qty = 1, note = null where tenant_id = 1", True),
        ("update orders set tenant_id = 2 where tenant_id = 1", True),
        ("delete from orders where tenant_id = 1", True),
        ("with gone as (delete from orders where tenant_id = 1 returning 1) select * from gone", True),
        ("insert into items (tenant_id) values (1)", False),
        ("select * from orders where note = 'a'", False),
    ],
)
def test_what_may_change_a_value_keeps_the_entries(sql: str, kept: bool) -> None:
    assert planned(sql).keeps is kept
    assert not plan(sql, topology(), catalog()).keeps


@pytest.mark.parametrize(
    "sql",
    [
        "insert into orders_note_lookup values ('a', 1)",
        "insert into orders (tenant_id, id, note) values (1, 1, 'a') on conflict do nothing",
        "insert into orders (tenant_id, id, note) values (1, 1, 'a') on conflict (note) do update set qty = 1",
    ],
)
def test_what_would_leave_entries_behind_is_refused(sql: str) -> None:
    with pytest.raises(UnsupportedQuery):
        planned(sql)
