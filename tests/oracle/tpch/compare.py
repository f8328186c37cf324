"""Answers as they are compared: names, types, rows with their Python types, the order by the keys of ORDER BY."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import psycopg

from shardpool import Router

from .queries import Query

# A generous bound on each statement: queries 17 and 20 take long where a planner errs.
TIMEOUT = 300.0

Row = tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """`repr` of a value shows its Python type and, of a numeric, the digits after the point."""

    columns: tuple[str, ...]
    types: tuple[str, ...]
    rows: list[Row]

    @classmethod
    def of(cls, description: Sequence[psycopg.Column] | None, rows: Iterable[Sequence[Any]]) -> Answer:
        described = description or ()
        types = psycopg.adapters.types
        named = ((types.get(column.type_code), column.type_code) for column in described)
        return cls(
            tuple(column.name for column in described),
            tuple(info.name if info else f"oid {oid}" for info, oid in named),
            [tuple(map(repr, row)) for row in rows],
        )


@dataclass(frozen=True)
class Expected:
    """The answer of the one server; `ties` are all rows whose order key is that of its last row, when LIMIT cut."""

    answer: Answer
    ties: Counter[Row]


def ask_fleet(router: Router, sql: str, **options: Any) -> tuple[Answer, Any]:
    result = router.execute(sql, timeout=TIMEOUT, **options)
    return Answer.of(result.description, result.rows), result


def ask_plain(conn: psycopg.Connection, sql: str) -> Answer:
    cursor = conn.execute(sql)  # type: ignore[call-overload]
    return Answer.of(cursor.description, cursor.fetchall())


def expected(conn: psycopg.Connection, query: Query, scale: float) -> Expected:
    answer = ask_plain(conn, query.text(scale))
    ties: Counter[Row] = Counter()
    if query.limit is not None and len(answer.rows) == query.limit:
        last = _key(query, answer.rows[-1])
        everything = ask_plain(conn, query.without_limit(scale))
        ties = Counter(row for row in everything.rows if _key(query, row) == last)
    return Expected(answer, ties)


def difference(query: Query, got: Answer, want: Expected) -> str | None:
    """What is wrong with an answer, or None.

    Rows with the same order key may come in any order; of those with the key on which LIMIT cuts, any may come, each
    as often as it is there.
    """
    answer = want.answer
    if got.columns != answer.columns:
        return f"columns {got.columns}, not {answer.columns}"
    if got.types != answer.types:
        return f"types {got.types}, not {answer.types}"
    if len(got.rows) != len(answer.rows):
        return f"{len(got.rows)} rows, not {len(answer.rows)}"
    for at, (given, wanted) in enumerate(zip(got.rows, answer.rows, strict=True)):
        if _key(query, given) != _key(query, wanted):
            return f"row {at + 1} is {given}, not {wanted}"
    groups = zip(_groups(query, got.rows), _groups(query, answer.rows), strict=True)
    last = _key(query, answer.rows[-1]) if answer.rows else ()
    for (key, given_rows), (_, wanted_rows) in groups:
        cut = bool(want.ties) and key == last
        surplus = given_rows - (want.ties if cut else wanted_rows)
        if surplus:
            return f"row {next(iter(surplus))} is not among {sorted(want.ties if cut else wanted_rows)}"
    return None


def _key(query: Query, row: Row) -> Row:
    return tuple(row[at] for at in query.order)


def _groups(query: Query, rows: list[Row]) -> list[tuple[Row, Counter[Row]]]:
    """The rows by their order keys; those without an order are one group."""
    return [(key, Counter(group)) for key, group in groupby(rows, lambda row: _key(query, row))]
