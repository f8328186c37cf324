"""The comparison finds what differs, and only that."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from .compare import Answer, Expected, difference
from .queries import QUERIES, Query

ROWS = [("3", "'a'"), ("2", "'b'"), ("2", "'c'"), ("1", "'d'")]
ANSWER = Answer(("n", "what"), ("int8", "text"), ROWS)
UNCUT = Query("q", "select", order=(0,))


def _swapped(one: int, other: int) -> Answer:
    rows = list(ROWS)
    rows[one], rows[other] = rows[other], rows[one]
    return replace(ANSWER, rows=rows)


@pytest.mark.parametrize("got", [ANSWER, _swapped(1, 2)])
def test_the_same(got: Answer) -> None:
    assert difference(UNCUT, got, Expected(ANSWER, Counter())) is None


@pytest.mark.parametrize(
    "got",
    [
        replace(ANSWER, columns=("n", "that")),
        replace(ANSWER, types=("int4", "text")),
        replace(ANSWER, rows=ROWS[:-1]),
        replace(ANSWER, rows=[*ROWS[:-1], ("1", "'e'")]),
        replace(ANSWER, rows=[*ROWS[:-1], ("'1'", "'d'")]),
        replace(ANSWER, rows=[ROWS[0], ROWS[1], ROWS[1], ROWS[3]]),
        _swapped(0, 1),
        _swapped(2, 3),
    ],
)
def test_not_the_same(got: Answer) -> None:
    assert difference(UNCUT, got, Expected(ANSWER, Counter()))


def test_without_an_order_any_order_is_right() -> None:
    query = Query("q", "select")
    assert difference(query, _swapped(0, 3), Expected(ANSWER, Counter())) is None
    assert difference(query, replace(ANSWER, rows=[*ROWS[:3], ROWS[0]]), Expected(ANSWER, Counter()))


def test_of_the_ties_that_a_limit_cuts_any_will_do() -> None:
    query = Query("q", "select limit 4", order=(0,), limit=4)
    want = Expected(ANSWER, Counter([("1", "'d'"), ("1", "'e'")]))
    assert difference(query, replace(ANSWER, rows=[*ROWS[:3], ("1", "'e'")]), want) is None
    assert difference(query, replace(ANSWER, rows=[*ROWS[:3], ("1", "'f'")]), want)
    assert difference(query, replace(ANSWER, rows=[ROWS[0], ROWS[1], ("2", "'e'"), ROWS[3]]), want)


def test_no_rows() -> None:
    nothing = replace(ANSWER, rows=[])
    assert difference(UNCUT, nothing, Expected(nothing, Counter())) is None
    assert difference(UNCUT, ANSWER, Expected(nothing, Counter()))


def test_the_texts() -> None:
    assert [query.name for query in QUERIES] == [f"q{n}" for n in range(1, 23)]
    for query in QUERIES:
        assert ("limit " in query.sql) == (query.limit is not None)
        assert ("order by" in query.sql) == bool(query.order)
        assert "limit " not in query.without_limit(1.0)
        assert ":fraction" not in query.text(0.01)
