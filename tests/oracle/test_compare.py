"""The comparison itself: it sees what is not the same, and nothing else."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from shardpool import Router
from shardpool.errors import ScatterError

from .compare import Answer, Different, ask_router, compare, difference, sqlstate_of
from .fleet import Oracle


def answer(*rows: tuple[str | None, ...], types: tuple[str, ...] = ("text",), **more: Any) -> Answer:
    names = [f"c{number}" for number in range(len(types))]
    return Answer(names=names, types=[(type, -1) for type in types], rows=list(rows), **more)


def test_rows_without_order_may_come_in_any() -> None:
    assert difference(answer(("a",), ("b",), ("a",)), answer(("b",), ("a",), ("a",))) is None


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (answer(("a",), ("a",)), answer(("a",), ("b",))),
        (answer(("a",), ("a",), ("b",)), answer(("a",), ("b",), ("b",))),
        (answer(("1.0",)), answer(("1.00",))),
        (answer(("-0",)), answer(("0",))),
        (answer((None,)), answer(("",))),
        (answer((None,)), answer(("null",))),
        (answer(("a",)), answer()),
        (answer(), answer(("a",))),
        (answer(("1",), types=("integer",)), answer(("1",), types=("bigint",))),
    ],
    ids=["value", "how often", "scale", "sign of zero", "empty", "null", "missing", "extra", "type"],
)
def test_sees_what_differs(left: Answer, right: Answer) -> None:
    assert difference(left, right)


def test_sees_another_name() -> None:
    other = answer(("a",))
    other.names = ["x"]
    assert "names" in (difference(answer(("a",)), other) or "")


def test_a_modifier_counts_only_where_both_tell_it() -> None:
    left, right = answer(("1.00",)), answer(("1.00",))
    left.types, right.types = [("numeric(12,2)", 786438)], [("numeric", -1)]
    assert difference(left, right) is None
    right.types = [("numeric(10,2)", 655366)]
    assert difference(left, right)


def test_order_is_that_of_the_keys_and_ties_are_free() -> None:
    types = ("integer", "text")
    left = answer(("1", "a"), ("1", "b"), ("2", "c"), types=types)
    assert difference(left, answer(("1", "b"), ("1", "a"), ("2", "c"), types=types), [0]) is None
    assert "order" in (difference(left, answer(("2", "c"), ("1", "a"), ("1", "b"), types=types), [0]) or "")


def test_last_digits_are_free_where_said() -> None:
    types = ("text", "double precision")
    left = answer(("a", "0.30000000000000004"), ("a", "NaN"), ("b", None), types=types)
    right = answer(("b", None), ("a", "NaN"), ("a", "0.3"), types=types)
    assert difference(left, right, None, {1}) is None
    assert difference(left, right)
    assert difference(left, answer(("b", None), ("a", "NaN"), ("a", "0.31"), types=types), None, {1})
    assert difference(left, answer(("a", None), ("b", "NaN"), ("a", "0.3"), types=types), None, {1})


def test_errors_are_compared_by_their_code() -> None:
    by_zero, syntax = psycopg.errors.DivisionByZero("x"), psycopg.errors.SyntaxError("y")
    left = Answer(error=by_zero, sqlstate="22012")
    assert difference(left, Answer(error=by_zero, sqlstate="22012")) is None
    assert difference(left, Answer(error=syntax, sqlstate="42601"))
    assert difference(left, answer(("a",)))
    assert difference(answer(("a",)), left)


def test_finds_the_code_in_what_wraps_it() -> None:
    inner = psycopg.errors.DivisionByZero("x")
    assert sqlstate_of(ScatterError("failed", failures={"s1": inner})) == "22012"
    outer = ValueError("outer")
    outer.__cause__ = inner
    assert sqlstate_of(outer) == "22012"
    assert sqlstate_of(ValueError("nothing")) is None


def test_a_router_that_answers_otherwise_is_seen(oracle: Oracle, plain: psycopg.Connection[Any]) -> None:
    """With a key the router asks one shard, which does not have all rows: `compare` has to say so."""

    class OneShard(Router):
        def execute(self, query: Any, params: Any = None, **options: Any) -> Any:
            return self.shard("s1").execute(query, params)

    with OneShard(oracle.router.topology) as narrow:
        with pytest.raises(Different, match="rows where one server has"):
            compare(plain, narrow, "select tenant_id, id from customers")
        with pytest.raises(Different, match="missing"):
            compare(plain, narrow, "select count(*) from orders")
        assert compare(plain, narrow, "select * from countries") == "same"
        assert compare(plain, narrow, "select 1 / (line - line) from items") == "error"


def test_types_of_the_database_itself_have_names(oracle: Oracle) -> None:
    shard = oracle.router.shard("s2")
    grades = shard.execute("select 'gold'::grade as g, array['void'::grade] as a, 1::numeric(12,2) as n")
    assert len(grades) == 1
    given = ask_router(oracle.router, "select 'gold'::grade as g, array['void'::grade] as a, 1::numeric(12,2) as n")
    assert [name for name, _ in given.types] == ["grade", "grade[]", "numeric(12,2)"]
    assert given.rows == [("gold", "{void}", "1.00")]


def test_refusals_keep_their_message(oracle: Oracle, plain: psycopg.Connection[Any]) -> None:
    outcome = compare(plain, oracle.router, "select ctid from customers")
    assert outcome == "refused"
    assert outcome.message
