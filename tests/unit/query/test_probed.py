"""Which columns of brought tables get an index."""

from __future__ import annotations

import pytest

from shardpool.query.plans.plan import Transferred
from shardpool.query.plans.planner import completed

from .catalog import catalog, topology


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        (
            "select * from notes n where n.n > (select avg(i.line) from items i where i.line = n.n and i.order_id = 7)",
            {"public.items": ("line",), "public.notes": ()},
        ),
        (
            "select array(select o.note from orders o where o.qty = c.id and id = customers.id) from customers, "
            "(select 1 as id) c",
            {"public.orders": ("qty", "id"), "public.customers": ()},
        ),
        ("select * from notes where exists (select 1 from items i where i.line = notes.n)", {}),
        ("select (select max(i.line) from items i where i.sku = notes.body) from notes", {}),
        ("select (select max(i.line) from items i where i.line = i.order_id) from notes", {}),
        ("select (select max(i.line) from items i where i.line = notes.n or true) from notes", {}),
    ],
)
def test_those_by_which_a_subquery_looks_up_its_rows(sql: str, expected: dict[str, tuple[str, ...]]) -> None:
    plan = completed(sql, topology(), catalog(), strategy="pull").scattered
    assert isinstance(plan, Transferred)
    found = {transfer.subject: transfer.probed for transfer in plan.transfers}
    assert found == (expected or dict.fromkeys(found, ()))
