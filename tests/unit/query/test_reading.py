"""A statement as servers read it under settings that change what its text means."""

from __future__ import annotations

import psycopg
import pytest

from shardpool import UnsupportedQuery
from shardpool.query.text.reading import as_read, depends_on

OFF = {"standard_conforming_strings": "off"}
NULLS = {"transform_null_equals": "on"}


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        (r"select 'a\\b'", r"select  E'a\\b'"),
        (r"select 'it\'s', 'x''y\n', E'c\\d', 'plain'", r"select  E'it\'s',  E'x''y\n', E'c\\d', 'plain'"),
        ("select 'a'\n 'b\\\\c', 'd'", "select  E'a'\n 'b\\\\c', 'd'"),
        ("select $$a\\b'$$, $x$'\\'$x$, 'e\\f'", "select $$a\\b'$$, $x$'\\'$x$,  E'e\\f'"),
        ("select 1 -- it's \\\n, '\\\\' /* ' /* \\ ' */ */, \"a'\\b\" , '\\''", None),
        (r"select type'\x', b'01'", r"select type E'\x', b'01'"),
    ],
)
def test_texts_with_backslashes_are_escaping_ones_where_they_do_not_conform(sql: str, read: str | None) -> None:
    expected = read or "select 1 -- it's \\\n,  E'\\\\' /* ' /* \\ ' */ */, \"a'\\b\" ,  E'\\''"
    assert as_read(sql, OFF) == expected
    assert as_read(sql, {"standard_conforming_strings": "on"}) == sql
    assert depends_on(sql) == ("standard_conforming_strings",)


def test_a_text_that_a_backslash_leaves_open_is_an_error_as_on_the_server() -> None:
    with pytest.raises(psycopg.errors.SyntaxError, match="unterminated"):
        as_read(r"select '\'", OFF)


@pytest.mark.parametrize("sql", [r"select N'a\b'", r"select U&'\0061'"])
def test_other_forms_of_text_with_a_backslash_are_refused_by_name(sql: str) -> None:
    with pytest.raises(UnsupportedQuery, match="standard_conforming_strings"):
        as_read(sql, OFF)


@pytest.mark.parametrize(
    ("sql", "read"),
    [
        ("select a from t where a = null", "SELECT a FROM t WHERE a IS NULL"),
        ("select null = (a + 1) from t", "SELECT a + 1 IS NULL FROM t"),
        ("select a = (null), case a when null then 1 end", "SELECT a IS NULL, CASE a WHEN NULL THEN 1 END"),
        ("select a <> null, a = $1, a = null::int", None),
    ],
)
def test_a_comparison_with_null_is_a_test_for_it_where_servers_transform_it(sql: str, read: str | None) -> None:
    found = as_read(sql, NULLS)
    assert found == (read or found)
    assert ("IS NULL" in found) is (read is not None)
    assert as_read(sql, {}) == sql
