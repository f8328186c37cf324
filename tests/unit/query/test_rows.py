"""The rows of VALUES in the text of an INSERT."""

from __future__ import annotations

import pytest

from shardpool.query.text.rows import taken_apart


@pytest.mark.parametrize(
    ("sql", "numbers", "expected", "params"),
    [
        ("insert into t (a, b) values (1, 2), (3, '(),')", [1], "insert into t (a, b) values (3, '(),')", []),
        (
            "insert into t values ($1, 'é)', $2), ($3, E'\\')', $2), ($4, \"x)\", $1) returning $2, $4",
            [2, 1],
            "insert into t values ($1, \"x)\", $2), ($3, E'\\')', $4) returning $4, $1",
            [4, 1, 3, 2],
        ),
        (
            'insert into t ("values") /* values (0) */ values -- (9)\n ((1)), -- one\n'
            " ((select max(a) from (values (2)) v))"
            " on conflict (a) do update set b = (values (3))",
            [1],
            'insert into t ("values") /* values (0) */ values -- (9)\n ((select max(a) from (values (2)) v))'
            " on conflict (a) do update set b = (values (3))",
            [],
        ),
        (
            "INSERT INTO t VALUES\n($$a),($$),\n(array[2, 3]) ;",
            [1, 0],
            "INSERT INTO t VALUES\n(array[2, 3]), ($$a),($$) ;",
            [],
        ),
    ],
)
def test_some_rows_are_taken(sql: str, numbers: list[int], expected: str, params: list[int]) -> None:
    assert taken_apart(sql).of(numbers) == (expected, params)
