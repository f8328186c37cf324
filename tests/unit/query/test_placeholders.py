"""Placeholders are converted as psycopg converts them: psycopg itself is the oracle."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg._queries import _query2pg  # psycopg's own conversion, to compare with

from shardpool.query.text.placeholders import convert

_PIECES = st.sampled_from(["select ", "%s", "%b", "%t", "%%", "%(a)s", "%(b)s", "%(a)b", " x ", "'%%'", "é", "$1", "%"])


def _psycopg(query: bytes) -> tuple[Any, ...] | str:
    try:
        text, formats, names, _ = _query2pg(query, "utf-8")
    except (psycopg.ProgrammingError, UnicodeDecodeError):  # the latter from its own message about a '%é'
        return "refused"
    return text, [format.value for format in formats], names


def _ours(query: bytes) -> tuple[Any, ...] | str:
    try:
        converted = convert(query)
    except psycopg.ProgrammingError:
        return "refused"
    names = list(converted.names) if converted.names and isinstance(converted.names[0], str) else None
    return converted.text, list(converted.formats), names


@given(st.lists(_PIECES, max_size=8).map("".join))
def test_conversion_equals_that_of_psycopg(query: str) -> None:
    assert _ours(query.encode()) == _psycopg(query.encode())


def test_a_name_that_comes_twice_is_one_parameter() -> None:
    converted = convert(b"select %(a)s, %(b)s, %(a)s")
    assert converted.text == b"select $1, $2, $1"
    assert converted.arrange({"a": 1, "b": 2, "unused": 3}) == [1, 2]


@pytest.mark.parametrize(
    ("query", "params", "error"),
    [
        (b"select %s", [], psycopg.ProgrammingError),
        (b"select 1", [1], psycopg.ProgrammingError),
        (b"select %(a)s", {"b": 1}, psycopg.ProgrammingError),
        (b"select %(a)s", [1], TypeError),
        (b"select %s", {"a": 1}, TypeError),
    ],
)
def test_parameters_that_do_not_fit_are_refused(query: bytes, params: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        convert(query).arrange(params)
