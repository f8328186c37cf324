"""Which differences between shards matter to a statement."""

from __future__ import annotations

import pytest

from shardpool.query.analysis.alike import Difference, touched
from shardpool.query.text.statement import parse

from .catalog import catalog

ORDERS = Difference("table", "public.orders", "")
SALES = Difference("table", "sales.orders", "")
TWICE = Difference("function", "twice", "()")
LOWER = Difference("function", "lower", "()")
LIKE = Difference("operator", "<%>", "")
MOOD = Difference("values of the enum", "mood", " (a and b)")
ZONE = Difference("setting", "TimeZone", " (UTC and Japan)")
EVERY = {ORDERS, SALES, TWICE, LOWER, LIKE, MOOD, ZONE}


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("select count(*) from items", {ZONE}),
        ("select count(*) from orders", {ORDERS, ZONE}),
        ("select count(*) from items where exists (select from sales.orders)", {SALES, ZONE}),
        ("with c as (select * from public.orders) select * from items, c", {ORDERS, ZONE}),
        ("select lower(sku) from items", {LOWER, ZONE}),
        ("select noticed(line) from items", {TWICE, LOWER, LIKE, ZONE}),
        ("select pg_catalog.lower(sku) <#> 'a' from items", {TWICE, LOWER, LIKE, ZONE}),
        ("select sku::mood from items", {MOOD, ZONE}),
        ("select mood(sku) from items", {TWICE, LOWER, LIKE, MOOD, ZONE}),
        ("update orders set qty = 1 where id in (select order_id from items)", {ORDERS, ZONE}),
        ("insert into items select * from sales.orders", {SALES, ZONE}),
    ],
)
def test_a_difference_matters_where_it_is_touched(sql: str, expected: set[Difference]) -> None:
    found = touched(parse(sql)[0], catalog())
    assert {difference for difference in EVERY if found.holds(difference)} == expected
