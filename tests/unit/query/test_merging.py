"""Rows of several shards, merged by the bytes that servers send, are in the order of the whole; so are sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cmp_to_key
from itertools import groupby
from typing import Any

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shardpool.query.analysis.pins import Const
from shardpool.query.merge.merging import NotHere, added, bound_value, merged_order, row_keys
from shardpool.query.plans.plan import SortKey

INT64 = st.integers(-(2**63), 2**63 - 1)
SMALL = st.integers(-3, 3)


@dataclass(frozen=True)
class FakeResult:
    """As much of a PGresult as merging looks at."""

    rows: Sequence[Sequence[bytes | None]]
    nfields: int
    oids: Sequence[int] = (20,)

    @property
    def ntuples(self) -> int:
        return len(self.rows)

    def get_value(self, row: int, column: int) -> bytes | None:
        return self.rows[row][column]

    def ftype(self, column: int) -> int:
        return self.oids[column % len(self.oids)]


@dataclass(frozen=True)
class Kind:
    """A type of values: the decoder that is named for it, the values, and what a server sends in text and in binary."""

    decoder: str
    values: st.SearchStrategy[Any]
    text: Callable[[Any], bytes]
    binary: Callable[[Any], bytes]


def _big_endian(size: int) -> Callable[[int], bytes]:
    return lambda number: number.to_bytes(size, "big", signed=True)


def _as_digits(size: int) -> Callable[[int], bytes]:
    return lambda number: _big_endian(size)(number).hex().encode()


KINDS = [
    Kind("integer", st.one_of(SMALL, INT64), lambda n: str(n).encode(), _big_endian(8)),
    Kind("integer", st.integers(-(2**15), 2**15 - 1), lambda n: str(n).encode(), _big_endian(2)),
    Kind("bytes", st.text(alphabet="aAäß日\U0001f600 \x01", max_size=3), str.encode, str.encode),
    Kind("bytes", st.booleans(), lambda b: b"t" if b else b"f", lambda b: bytes([b])),
    Kind("bytes", st.uuids(), lambda u: str(u).encode(), lambda u: u.bytes),
    # Dates: days since 2000, infinity the greatest; times: microseconds.
    Kind("date_send", st.one_of(SMALL, st.integers(-(2**31), 2**31 - 1)), _as_digits(4), _as_digits(4)),
    Kind("timestamptz_send", st.one_of(SMALL, INT64), _as_digits(8), _as_digits(8)),
]


@dataclass(frozen=True)
class Case:
    kinds: list[Kind]
    keys: list[SortKey]
    rows: list[tuple[Any, ...]]
    shards: list[int]
    binary: bool


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3))
    width = len(kinds)
    keys = []
    for column in draw(st.permutations(range(width)))[: draw(st.integers(1, width))]:
        place = draw(st.sampled_from([column, column - width]))
        keys.append(SortKey(place, kinds[column].decoder, draw(st.booleans()), draw(st.booleans())))
    rows = draw(st.lists(st.tuples(*(st.one_of(st.none(), kind.values) for kind in kinds)), max_size=25))
    shards = draw(st.lists(st.integers(0, 3), min_size=len(rows), max_size=len(rows)))
    return Case(kinds, keys, rows, shards, draw(st.booleans()))


def _order(case: Case) -> Callable[[Any], Any]:
    """ORDER BY as PostgreSQL means it, on values."""

    def compare(one: tuple[Any, ...], other: tuple[Any, ...]) -> int:
        for key in case.keys:
            a, b = one[key.column], other[key.column]
            if a is None or b is None:
                found = ((a is None) - (b is None)) * (-1 if key.nulls_first else 1)
            else:
                a, b = (x.encode() if isinstance(x, str) else x for x in (a, b))
                found = ((a > b) - (a < b)) * (-1 if key.descending else 1)
            if found:
                return found
        return 0

    return cmp_to_key(compare)


def _sent(case: Case, row: tuple[Any, ...]) -> list[bytes | None]:
    return [
        None if value is None else (kind.binary if case.binary else kind.text)(value)
        for kind, value in zip(case.kinds, row, strict=True)
    ]


def _oids(case: Case) -> list[int]:
    """Of int8, of text, or of what a type sends."""
    return [{"integer": 20}.get(kind.decoder, 25) for kind in case.kinds]


@settings(max_examples=400)
@given(cases(), st.sampled_from([1, 2, 1000]))
def test_merging_a_split_gives_the_whole_in_order(case: Case, block: int) -> None:
    order = _order(case)
    parts = [[row for row, at in zip(case.rows, case.shards, strict=True) if at == shard] for shard in range(4)]
    parts = [sorted(part, key=order) for part in parts]
    answers = [FakeResult([_sent(case, row) for row in part], len(case.kinds), _oids(case)) for part in parts]
    merged = [parts[shard][row] for shard, row in merged_order(answers, case.keys, case.binary, block=block)]
    whole = sorted(case.rows, key=order)
    # Rows that ORDER BY does not tell apart may come in any order.
    for (_, one), (_, other) in zip(groupby(merged, key=order), groupby(whole, key=order), strict=True):
        assert sorted(one, key=repr) == sorted(other, key=repr)
    assert len(merged) == len(whole)


@given(cases())
def test_integers_of_rows_compare_as_those_that_were_sent(case: Case) -> None:
    answer = FakeResult([_sent(case, row) for row in case.rows], len(case.kinds), _oids(case))
    parts = [(answer, range(len(case.rows) // 2)), (answer, range(len(case.rows) // 2, len(case.rows)))]
    sent = row_keys(parts, case.keys, case.binary)
    assert row_keys(parts, case.keys, case.binary, case.rows) == sent


@settings(max_examples=200)
@given(
    st.lists(st.lists(st.one_of(st.none(), INT64), max_size=4), min_size=1, max_size=4),
    st.sampled_from("sum min max".split()),
)
def test_added_values_are_those_of_the_whole(parts: list[list[int | None]], way: str) -> None:
    """Each shard's value is that of its rows, NULL when it has none; of numeric, which has no bounds."""
    made = {"sum": sum, "min": min, "max": max}[way]
    told = [[n for n in part if n is not None] for part in parts]
    answers = [FakeResult([[str(made(part)).encode() if part else None]], 1, oids=(1700,)) for part in told]
    whole = [number for part in told for number in part]
    assert added(answers, [way]) == [str(made(whole)).encode() if whole else None]


def test_counts_of_no_rows_are_zero_and_several_columns_keep_apart() -> None:
    answers = [FakeResult([[b"0", None, b"5"]], 3), FakeResult([[b"2", b"-7", b"3"]], 3)]
    assert added(answers, ["sum", "sum", "min"]) == [b"2", b"-7", b"3"]
    assert added(answers[:1], ["sum", "sum", "max"]) == [b"0", None, b"5"]


def test_a_bigint_that_overflows_is_an_error_as_on_one_server() -> None:
    answers = [FakeResult([[str(2**63 - 1).encode()]], 1), FakeResult([[b"1"]], 1)]
    with pytest.raises(psycopg.errors.NumericValueOutOfRange):
        added(answers, ["sum"])


@pytest.mark.parametrize(
    ("const", "params", "expected"),
    [
        (None, [], None),
        (Const(3), [], 3),
        (Const(None), [], None),
        (Const(param=1), [7], 7),
        (Const(param=1), [None], None),
    ],
)
def test_limit_and_offset_as_numbers(const: Const | None, params: list[Any], expected: int | None) -> None:
    assert bound_value(const, params) == expected


@pytest.mark.parametrize("value", [-1, "3", 2.5, True])
def test_only_a_server_reads_any_other_limit(value: Any) -> None:
    with pytest.raises(NotHere):
        bound_value(Const(param=1), [value])
