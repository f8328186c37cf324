"""Pins never leave out the bucket of a row that a condition is true of, evaluated here as SQL does, with NULL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from itertools import product
from operator import eq, ge, gt, le, lt, ne
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardpool.errors import KeyNotCovered
from shardpool.partitioning import Hash, List, Partitioning, Range
from shardpool.query.analysis.pins import NOTHING, UNKNOWN, Const, buckets, key_value
from shardpool.query.plans.planner import plan

from .catalog import PARTITIONINGS, catalog, topology

OPERATORS = {"=": eq, "<>": ne, "<": lt, "<=": le, ">": gt, ">=": ge}
Row = dict[str, Any]
Truth = bool | None


@dataclass(frozen=True)
class Value:
    """What a key is compared with: its SQL, or (empty) a parameter, and the value that it stands for."""

    sql: str
    param: Any
    value: Any


@dataclass(frozen=True)
class Condition:
    """SQL in which `{}` are the places of parameters, these, and what it is of a row."""

    sql: str
    params: tuple[Any, ...]
    truth: Callable[[Row], Truth]


# -- conditions ----------------------------------------------------------------------------------------------------


def compared(name: str, column: Any, value: Any) -> Truth:
    return None if column is None or value is None else bool(OPERATORS[name](column, value))


def any_of(truths: Sequence[Truth]) -> Truth:
    return True if True in truths else (None if None in truths else False)


def all_of(truths: Sequence[Truth]) -> Truth:
    return False if False in truths else (None if None in truths else True)


def negated(truth: Truth) -> Truth:
    return None if truth is None else not truth


def written(value: Value) -> tuple[str, tuple[Any, ...]]:
    return (value.sql, ()) if value.sql else ("{}", (value.param,))


def comparison(column: str, name: str, value: Value, flipped: bool) -> Condition:
    sql, params = written(value)
    if flipped:
        return Condition(f"{sql} {name} {column}", params, lambda row: compared(name, value.value, row[column]))
    return Condition(f"{column} {name} {sql}", params, lambda row: compared(name, row[column], value.value))


def listed(column: str, values: list[Value], negative: bool) -> Condition:
    parts = [written(value) for value in values]
    sql = f"{column} {'not ' if negative else ''}in ({', '.join(part[0] for part in parts)})"

    def truth(row: Row) -> Truth:
        found = any_of([compared("=", row[column], value.value) for value in values])
        return negated(found) if negative else found

    return Condition(sql, tuple(param for part in parts for param in part[1]), truth)


def in_array(column: str, values: list[Any] | None) -> Condition:
    def truth(row: Row) -> Truth:
        return None if values is None else any_of([compared("=", row[column], value) for value in values])

    return Condition(f"{column} = any({{}})", (values,), truth)


def between(column: str, low: Value, high: Value) -> Condition:
    (one, before), (other, after) = written(low), written(high)

    def truth(row: Row) -> Truth:
        return all_of([compared(">=", row[column], low.value), compared("<=", row[column], high.value)])

    return Condition(f"{column} between {one} and {other}", before + after, truth)


def row_equal(columns: tuple[str, ...], values: tuple[Value, ...]) -> Condition:
    parts = [written(value) for value in values]
    sql = f"({', '.join(columns)}) = ({', '.join(part[0] for part in parts)})"

    def truth(row: Row) -> Truth:
        return all_of([compared("=", row[c], value.value) for c, value in zip(columns, values, strict=True)])

    return Condition(sql, tuple(param for part in parts for param in part[1]), truth)


def joined(name: str, arms: list[Condition]) -> Condition:
    how = any_of if name == "or" else all_of
    sql = f" {name} ".join(f"({arm.sql})" for arm in arms)
    params = tuple(param for arm in arms for param in arm.params)
    return Condition(sql, params, lambda row: how([arm.truth(row) for arm in arms]))


def inverted(arm: Condition, is_not_true: bool) -> Condition:
    if is_not_true:
        return Condition(f"({arm.sql}) is not true", arm.params, lambda row: arm.truth(row) is not True)
    return Condition(f"not ({arm.sql})", arm.params, lambda row: negated(arm.truth(row)))


def leaves(column: str, values: st.SearchStrategy[Value], arrays: st.SearchStrategy[Any]) -> Any:
    several = st.lists(values, min_size=1, max_size=3)
    return st.one_of(
        st.builds(comparison, st.just(column), st.sampled_from(sorted(OPERATORS)), values, st.booleans()),
        st.builds(comparison, st.just(column), st.just("="), values, st.booleans()),
        st.builds(listed, st.just(column), several, st.booleans()),
        st.builds(in_array, st.just(column), arrays),
        st.builds(between, st.just(column), values, values),
    )


def trees(leaf: st.SearchStrategy[Condition]) -> st.SearchStrategy[Condition]:
    return st.recursive(
        leaf,
        lambda below: st.one_of(
            st.builds(joined, st.sampled_from(["and", "or"]), st.lists(below, min_size=2, max_size=3)),
            st.builds(inverted, below, st.booleans()),
        ),
        max_leaves=6,
    )


def check(table: str, condition: Condition, partitioning: Partitioning, key: Sequence[str], rows: list[Row]) -> None:
    numbered = condition.sql.format(*(f"${number}" for number in range(1, len(condition.params) + 1)))
    made = plan(f"select * from {table} where {numbered}", topology(), catalog())
    left = buckets(made.uses[0].pins, partitioning, condition.params)
    if left is None:
        return
    for row in rows:
        if condition.truth(row) is not True:
            continue
        parts = tuple(row[name] for name in key)
        try:
            bucket = partitioning.bucket(parts[0] if len(parts) == 1 else parts)
        except KeyNotCovered:
            continue  # there is no such row
        assert bucket in left, (numbered, condition.params, row, left)


# -- bigint --------------------------------------------------------------------------------------------------------

INTS = st.integers(-3, 14)
NULL = st.just(Value("null", None, None))


def a_param(value: Any, stands_for: Any = None) -> Value:
    return Value("", value, value if stands_for is None else stands_for)


NUMBERS = st.one_of(
    INTS.map(lambda n: Value(str(n), None, n)),
    INTS.map(a_param),
    INTS.map(lambda n: Value(f"'{n}'", None, n)),
    INTS.map(lambda n: a_param(f" {n} ", n)),
    INTS.map(lambda n: Value(f"{n}::bigint", None, n) if n >= 0 else Value(f"({n})::int", None, n)),
    INTS.map(lambda n: a_param(Decimal(n) / 2)),
    INTS.map(lambda n: Value(str(Decimal(n) / 2), None, Decimal(n) / 2)),
    INTS.map(lambda n: a_param(n / 2)),
    st.sampled_from([2**63, -(2**63) - 1]).flatmap(
        lambda n: st.sampled_from([Value(str(n), None, n), a_param(Decimal(n)), a_param(n)])
    ),
    NULL,
    st.just(Value("", None, None)),
)
ARRAYS = st.one_of(
    st.none(),
    st.lists(st.one_of(INTS, st.none()), max_size=4),
    st.lists(INTS.map(lambda n: Decimal(n) / 2), max_size=3),
    st.lists(INTS.map(lambda n: n / 2), max_size=3),
)
BY_NUMBER = trees(st.one_of(leaves("tenant_id", NUMBERS, ARRAYS), leaves("qty", NUMBERS, ARRAYS)))
ORDERS = [
    {"tenant_id": tenant, "qty": qty} for tenant in [*range(-4, 16), 2**63 - 1, -(2**63)] for qty in (None, 0, 1, 7)
]
BIGINTS: list[Partitioning] = [
    PARTITIONINGS["tenants"],
    Hash(("bigint",), "murmur3", 4096, ()),
    Range(("bigint",), (-2, 0, 3, 4, 10, None)),
    Range(("bigint",), (-2, 0, 3, 4, 10)),
    List(("bigint",), (1, 2, 3)),
    List(("bigint",), (1, 2, 3), default=True),
]


@settings(max_examples=300)
@given(BY_NUMBER)
def test_bigint_keys(condition: Condition) -> None:
    for partitioning in BIGINTS:
        check("orders", condition, partitioning, ["tenant_id"], ORDERS)


# -- dates, texts, several parts -----------------------------------------------------------------------------------

EDGES = [date(2024, 1, 1), date(2025, 1, 1), date(2026, 1, 1)]
DAYS = [edge + timedelta(days) for edge in EDGES for days in (-1, 0, 1)] + [date(1999, 2, 3), date(2030, 1, 1)]
DATES = st.sampled_from(DAYS).flatmap(
    lambda day: st.sampled_from(
        [
            Value(f"'{day}'", None, day),
            Value(f"date '{day}'", None, day),
            Value(f"'{day}'::date", None, day),
            a_param(day),
            a_param(str(day), day),
            Value("null", None, None),
        ]
    )
)


@settings(max_examples=200)
@given(trees(leaves("day", DATES, st.one_of(st.none(), st.lists(st.sampled_from(DAYS), max_size=3)))))
def test_ranges_of_dates(condition: Condition) -> None:
    for partitioning in (PARTITIONINGS["events"], Range(("date",), tuple(EDGES))):
        check("events", condition, partitioning, ["day"], [{"day": day} for day in DAYS])


REGIONS = ["eu", "us", "", "é", "ap"]
TEXTS = st.sampled_from(REGIONS).flatmap(
    lambda text: st.sampled_from([Value(f"'{text}'", None, text), a_param(text), Value(f"'{text}'::text", None, text)])
)
EQUAL = st.builds(row_equal, st.just(("region", "id")), st.tuples(TEXTS, NUMBERS))
PLACE = st.one_of(
    st.builds(comparison, st.just("region"), st.sampled_from(["=", "<>"]), TEXTS, st.booleans()),
    st.builds(listed, st.just("region"), st.lists(TEXTS, min_size=1, max_size=3), st.booleans()),
    leaves("id", NUMBERS, ARRAYS),
    EQUAL,
)
PLACES = [{"region": region, "id": number} for region, number in product(REGIONS, range(-3, 8))]


@settings(max_examples=200)
@given(trees(PLACE))
def test_keys_of_two_parts(condition: Condition) -> None:
    check("places", condition, PARTITIONINGS["places"], ["region", "id"], PLACES)


def test_a_condition_on_each_part_leaves_one_bucket() -> None:
    """The property alone would hold of pins that leave all buckets in."""
    uses = plan("select * from places where region = 'eu' and id in (2, $1)", topology(), catalog()).uses
    found = buckets(uses[0].pins, PARTITIONINGS["places"], [3])
    assert found == {PARTITIONINGS["places"].bucket(("eu", number)) for number in (2, 3)}


# -- values --------------------------------------------------------------------------------------------------------

NOON = datetime(2024, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
A_UUID = UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")


@pytest.mark.parametrize(
    ("value", "cast", "key_type", "expected"),
    [
        (None, "", "bigint", NOTHING),
        (3, "", "bigint", 3),
        (True, "", "bigint", UNKNOWN),
        (3.0, "", "bigint", UNKNOWN),
        ("3", "", "bigint", 3),
        ("+3\n", "", "bigint", 3),
        ("３", "", "bigint", UNKNOWN),
        ("3.0", "", "bigint", UNKNOWN),
        ("1_000", "", "bigint", UNKNOWN),
        ("9223372036854775808", "", "bigint", UNKNOWN),
        (2**63, "", "bigint", NOTHING),
        (Decimal("3.00"), "", "bigint", 3),
        (Decimal("3.5"), "", "bigint", NOTHING),
        (Decimal("NaN"), "", "bigint", NOTHING),
        (Decimal("-Infinity"), "", "bigint", NOTHING),
        (Decimal("3.5"), "int4", "bigint", UNKNOWN),
        (Decimal("3.5"), "numeric", "bigint", NOTHING),
        (3, "float8", "bigint", UNKNOWN),
        (3, "text", "bigint", UNKNOWN),
        (b"3", "", "bigint", UNKNOWN),
        ("ann", "", "text", "ann"),
        ("ann", "varchar", "text", "ann"),
        ("ann", "bpchar", "text", UNKNOWN),
        (b"ann", "", "text", UNKNOWN),
        (3, "", "text", UNKNOWN),
        (A_UUID, "", "uuid", A_UUID),
        (str(A_UUID).upper(), "uuid", "uuid", A_UUID),
        ("{" + str(A_UUID) + "}", "", "uuid", A_UUID),
        (A_UUID.hex, "", "uuid", A_UUID),
        ("-".join(A_UUID.hex[place : place + 4] for place in range(0, 32, 4)), "uuid", "uuid", A_UUID),
        (str(A_UUID) + "}", "", "uuid", UNKNOWN),
        (" " + str(A_UUID), "", "uuid", UNKNOWN),
        (str(A_UUID), "text", "uuid", UNKNOWN),
        (b"\x00", "", "bytea", b"\x00"),
        ("\\x00", "", "bytea", b"\x00"),
        ("\\000", "", "bytea", b"\x00"),
        ("\\8", "", "bytea", UNKNOWN),
        (date(2024, 1, 1), "", "date", date(2024, 1, 1)),
        ("2024-01-01", "date", "date", date(2024, 1, 1)),
        ("2024-02-30", "", "date", UNKNOWN),
        ("today", "", "date", UNKNOWN),
        (NOON, "", "date", UNKNOWN),
        (NOON, "", "timestamptz", NOON),
        (NOON.replace(tzinfo=None), "", "timestamptz", UNKNOWN),
        (NOON.isoformat(" "), "timestamptz", "timestamptz", NOON),
        ("2024-01-01 12:00", "", "timestamptz", UNKNOWN),
    ],
)
def test_the_key_that_a_value_is_equal_to(value: Any, cast: str, key_type: Any, expected: Any) -> None:
    assert key_value(Const(value, cast=cast), key_type, ()) == expected
    assert key_value(Const(param=1, cast=cast), key_type, (value,)) == expected
