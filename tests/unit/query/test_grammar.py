"""What PostgreSQL's grammar says is wrong is told with its SQLSTATE."""

from __future__ import annotations

import psycopg
import pytest

from shardpool.query.text.statement import parse


@pytest.mark.parametrize(
    ("sql", "state"),
    [
        ("select sum(1) over (order by 1 rows between unbounded following and current row)", "42P20"),
        ("select sum(1) over (order by 1 rows between 1 following and 1 preceding)", "42P20"),
        ("select sum(1) over (order by 1 rows between current row and unbounded preceding)", "42P20"),
        ("select 1::float(0)", "22023"),
        ("select 1::float(54)", "22023"),
        (r"select e'\u00'", "22025"),
        (r"select U&'\zz'", "42601"),
        (r"select e'\xff'", "22021"),
        ("select unique (select 1)", "0A000"),
        ("select * from json_table('{}', 'a' || 'b' columns (a int))", "0A000"),
        ("create table t (a int, check (a > 1) deferrable)", "0A000"),
        ("create extension a from '1'", "0A000"),
        ("create role public", "42939"),
        ("select 1 limit 1, 2", "42601"),
        ("select 1 from", "42601"),
    ],
)
def test_an_error_of_the_grammar_keeps_its_sqlstate(sql: str, state: str) -> None:
    with pytest.raises(psycopg.Error) as raised:
        parse(sql)
    assert raised.value.sqlstate == state
