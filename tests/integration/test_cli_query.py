"""`query` and `explain` of statements that are routed by their tables, and how values are written."""

from __future__ import annotations

import pytest

from .test_cli import Cli, cli
from .test_cli_shell import ROWS

__all__ = ["cli"]


@pytest.mark.parametrize("arguments", [(), ("select 1", "-f", "x.sql")])
def test_explain_and_query_want_one_statement(cli: Cli, arguments: tuple[str, ...]) -> None:
    cli("query", *arguments, code=2)
    cli("explain", *arguments, code=2)


def test_explain_runs_nothing(cli: Cli) -> None:
    cli("query", ROWS)
    told = cli("explain", "delete from orders")
    assert "strategy: write" in told and "shards: s0, s1, s2, s3" in told
    told = cli.json("explain", "select * from orders where tenant_id = %s", "-p", "17")
    assert (told["strategy"], told["shards"]) == ("one", ["s3"])
    (cli.folder / "q.sql").write_text("select count(*)\nfrom orders;\n")
    assert cli("explain", "-f", "q.sql") == cli("explain", "-", text="select count(*)\nfrom orders;\n")
    assert cli("query", "--csv", "-f", "q.sql") == "count\n8\n"
    assert cli("query", "--csv", "-", text="select count(*) from orders") == "count\n8\n"
    cli("explain", "create table t (x int)", code=2)
    assert "HINT:" in cli.stderr


def test_query_shows_its_plan_and_keeps_to_its_fanout(cli: Cli) -> None:
    assert cli("query", "--plan", "--csv", "select count(*) from orders") == "count\n0\n"
    assert cli.stderr.startswith("strategy: add")
    cli("query", "--fanout", "some", "select count(*) from orders", code=2)
    cli("query", "--fanout", "some", "select count(*) from orders where tenant_id in (1, 2, 3, 4)")
    cli("query", "--plan", "--shard", "s0", "select 1", code=2)
    assert "--plan and --fanout" in cli.stderr


def test_csv_keeps_line_ends(cli: Cli) -> None:
    assert cli("query", "--csv", "select E'a\\nb' as t") == 't\n"a\nb"\n'


def test_values_are_written_as_postgresql_writes_them(cli: Cli) -> None:
    sql = (
        """select array[1,null] a, '{"k": [1]}'::jsonb j, interval '26 hours' i, 'infinity'::date d, true t, 1e400 n"""
    )
    told = cli("query", "--csv", sql)
    assert told.splitlines()[1].startswith('"{1,NULL}","{""k"": [1]}",26:00:00,infinity,t,1000')
    assert "26:00:00" in cli("query", sql)
    assert cli("query", "select null as empty, 1.50 as number, 12345.6 as longer").splitlines()[2] == (
        "         1.50  12345.6"
    )
    cli("query", ROWS)
    told = cli("query", "--csv", "select array_agg(tenant_id order by tenant_id) from orders where tenant_id < 3")
    assert told == 'array_agg\n"{0,1,2}"\n'
    assert cli("query", "--csv", "--all-shards", "select '{}'::int[] as a").splitlines()[1] == "s0,{}"
