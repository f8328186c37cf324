"""A long INSERT of plain VALUES is planned by its text as a short one is by its tree."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shardpool.query.analysis.listed import listed
from shardpool.query.plans.plan import Plan, Split
from shardpool.query.plans.planner import plan
from shardpool.query.text.remembered import LONG
from shardpool.query.text.statement import inner, parse
from shardpool.query.text.tree import without_places

from .catalog import catalog, topology

HEADS = [
    "insert into orders (tenant_id, note, code) values ",
    'INSERT INTO public.orders AS o ("tenant_id" , note,code)VALUES',
    "insert into orders (note, code, tenant_id)\nvalues\n",
    "insert into orders (note, code) values",
    "insert into notes (author, body, stars) overriding system value values",
    "insert into places (id, region, name) values ",
    "insert into places (name, visits, region, id) values ",
    "insert into events (day, kind, n) values ",
    "insert into countries (code, name, added) values ",
    "insert into audit_log (id, what) values ",
    "insert into orders values ",
    "with w as (select 1) insert into orders (tenant_id, note, code) values ",
]
CELLS = [
    "1", "-2", "+3", "- 4", "0", "12345678901234567890", "1.50", "-7.0", "1e3", ".5", "0x1F", "1_000",
    "'ann'", "''", "'5'", "'it''s'", "'a, (b)'", "'$1'", "'a::b'", "'back\\slash'", "'now and then'", "'é\u00a0'",
    "'2025-01-02'", "e'tab'", "E'a\\'b'", "U&'d\\0061t'", "u&'x!0061' uescape '!'", "N'n'", "B'01'", "x'1F'",
    "$$it's$$", "$q$(a), (b)$q$", "'a'\n'b'", "NULL", "null", "true", "False", "DEFAULT", "default",
    "$1", "$2", "$3", "$1::bigint", "$2::text", "'7'::int8", "'7'::varchar(3)", "1::numeric(12,2)", "'x'::\"char\"",
    "'{1,2}'::int[]", "'2024-01-01'::date", "$3::double precision", "'1'::timestamp(3) with time zone", "'now'::text",
    "cast($1 as bigint)", "(1)", "((2))", "1 + 1", "now()", "current_timestamp", "lower('A')", "array[1, 2]",
    "row(1, 2)", "(select 1)", "$1::text || 'x'", "interval '1 day'", "date '2024-01-01'", "note", "'a' collate \"C\"",
    "/* one */ 1", "1 -- one\n",
]  # fmt: skip
PLAIN = [cell for cell in CELLS if cell[0] in "0123456789-'$NntD" and "(" not in cell][:34]
TAILS = [
    "",
    " ;",
    " on conflict do nothing",
    " on conflict (tenant_id, id) do update set note = excluded.note returning id, $2::text",
    " on conflict (tenant_id, id) do update set placed = now(), note = 'x'",
    " returning *",
    " returning now()",
    " order by 1",
    " limit 1",
    " union values (1, 2, 3)",
    " /* more */, (5, 'x', 'y')",
    " -- more\n , (6, 'x', 'y')",
    "; select 1",
    ", ",
    " returning (select max(n) from notes)",
]
GAPS = [", ", ",", " ,\n", " /* gap */, ", ", -- gap\n", "\u00a0, "]


def told(sql: str) -> Any:
    """Everything that a plan says, or the error that it is refused with."""
    try:
        found = plan(sql, topology(), catalog())
        return (
            found.verb,
            found.uses,
            found.writes,
            str(found.refusal),
            found.loose,
            found.key_assignments,
            *divided(found),
        )
    except Exception as error:
        return type(error), str(error)


def divided(found: Plan) -> list[Any]:
    scattered = found.scattered
    if not isinstance(scattered, Split):
        return [type(scattered), getattr(scattered, "timed", None) is None]
    try:
        rows = scattered.rows
    except Exception as error:
        return [type(error), str(error)]
    parts = [rows.of(own) for own in (range(len(rows.rows)), range(len(rows.rows) - 1, -1, -2))]
    return [scattered.keys, scattered.timed is None, *((read(sql), numbers) for sql, numbers in parts)]


def read(sql: str) -> Hashable:
    return without_places(parse(sql)[0])


def rows_of(width: int, cells: Sequence[str]) -> st.SearchStrategy[list[str]]:
    row = st.lists(st.sampled_from(cells), min_size=width, max_size=width).map(", ".join)
    return st.lists(row.map("({})".format), min_size=1, max_size=6)


@st.composite
def inserts(draw: st.DrawFn) -> str:
    cells = draw(st.sampled_from([CELLS, PLAIN, PLAIN]))
    rows = draw(rows_of(draw(st.sampled_from([3, 3, 3, 2, 4])), cells))
    gap = draw(st.sampled_from([", ", ", ", *GAPS]))
    return draw(st.sampled_from(HEADS)) + gap.join(rows) + draw(st.sampled_from(["", *TAILS]))


@settings(max_examples=200)
@given(inserts())
@example("insert into orders (tenant_id, note, code) values (1, 'a', 'b'), (2, 'c', 'd') /* more */, (3, 'e', 'f')")
@example("insert into orders (tenant_id, note, code) values (1, 'a', 'b'), (2, 'c')")
@example("insert into orders (tenant_id, placed) values ($1, $2), ($3, $4) on conflict do update set placed = now()")
@example("insert into orders (note, code, tenant_id) values (1, 1, $1), (1, 1, $1)")
def test_a_long_text_has_the_plan_of_the_short_one(sql: str) -> None:
    assert len(sql) < LONG
    # Both end in a blank: messages may quote the end of the text.
    assert told(sql + " " * LONG) == told(sql + " ")


def long_insert(row: str, count: int = 300) -> str:
    return "insert into orders (tenant_id, note, code) values " + ", ".join([row] * count)


@pytest.mark.parametrize(
    "cell", ["'x'", "E'x'", "$1", "$1::text", "null", "default", "-1.5", "true", "$$x$$", "'it''s'"]
)
def test_plain_cells_are_read_from_the_text(cell: str) -> None:
    found = listed(long_insert(f"(7, {cell}, 'y')"))
    assert found is not None
    assert len(found.cells) == 300
    assert parse(found.sample)[0].select_stmt.select_stmt.values_lists[0].list.items[0].a_const.ival.ival == 7


@pytest.mark.parametrize(
    "row",
    ["(7, now(), 'y')", "(7, 'now', 'y')", "(7, (1), 'y')", "(7, a, 'y')", "(7, 'a' 'b', 'y')", "(7, E'\\'', 'y')"],
)
def test_every_other_cell_is_left_to_the_parser(row: str) -> None:
    assert listed(long_insert(row)) is None


def test_the_sample_has_one_row_of_each_kind() -> None:
    found = listed(long_insert("(1, default, 'a'), (2, 'b', 'c'), (3, $1::text, 'd'), (4, 'e', $2::text)"))
    assert found is not None
    assert [len(inner(tree.select_stmt).values_lists) for tree in parse(found.sample)] == [4]
    assert len(found.cells) == 1200
