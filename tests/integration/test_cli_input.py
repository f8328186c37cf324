"""What a person may type and a file may hold: exact answers, and mistakes that are told with what to do."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from shardpool import Router

from .test_cli import Cli, cli

__all__ = ["cli"]


def test_json_says_all_that_postgresql_says(cli: Cli) -> None:
    sql = """
        select interval '1 year 2 mons 3 days 04:05:06.7' i, 'NaN'::float8 nan, '-Infinity'::float4 inf, 0.1::float4 f,
          1e300::float8 big, 1.50::numeric num, 'NaN'::numeric nnan, date '0044-03-15 BC' bc, 'infinity'::date dinf,
          timestamptz '0044-03-15 12:00:00+00 BC' is not null t, time '24:00' midnight, array['NaN', 1.5]::float8[] fs,
          array[[1, null], [3, 4]] ints, array['a b', null, '"q"']::text[] texts, array[date '0001-01-01 BC'] dates,
          '{"a": 1e400, "b": 0.1, "c": [1.00000000000000000001, null], "d": "NaN"}'::jsonb doc, int4range(1, 5) r,
          '\\x00ff'::bytea b, 9223372036854775807 n, null::interval nothing, row(1, 'x') rec, 'x'::"char" c
    """
    told = cli.json("query", sql)
    (row,) = told["rows"]
    assert dict(zip(told["columns"], row, strict=True)) == {
        "i": "1 year 2 mons 3 days 04:05:06.7", "nan": "NaN", "inf": "-Infinity", "f": 0.1, "big": 1e300, "num": "1.50",
        "nnan": "NaN", "bc": "0044-03-15 BC", "dinf": "infinity", "t": True, "midnight": "24:00:00",
        "fs": ["NaN", 1.5], "ints": [[1, None], [3, 4]], "texts": ["a b", None, '"q"'], "dates": ["0001-01-01 BC"],
        "doc": {"a": 10**400, "b": 0.1, "c": ["1.00000000000000000001", None], "d": "NaN"}, "r": "[1,5)",
        "b": "\\x00ff", "n": 9223372036854775807, "nothing": None, "rec": "(1,x)", "c": "x",
    }  # fmt: skip
    everywhere = cli.json("query", "--all-shards", "select 'Infinity'::float8 as x")["results"]
    assert {tuple(result["rows"][0]) for result in everywhere.values()} == {("Infinity",)}
    assert cli.json("query", "select 1")["rows"] == [[1]]
    assert cli.json("query", "create temp table t ()", "--shard", "s0")["rows"] == []


def test_hints_are_in_the_words_of_the_command_line(cli: Cli) -> None:
    for refused in ("select ctid from orders", "select 1; select 2", "select * from nowhere"):
        cli("query", refused, code=2)
        assert "()" not in cli.stderr.partition("HINT:")[2] and "=…" not in cli.stderr
    cli("query", "select 1", "--key", "17", code=2)
    assert "Give --keyspace or --table." in cli.stderr
    cli("shell", code=2, text="select ctid from orders;\n")
    assert r"\shard" in cli.stderr or "HINT" not in cli.stderr


def test_a_schema_that_is_newer_and_names_this_package_is_worked_with(topology_path: str, cli: Cli) -> None:
    with Router(topology_path) as router:
        router.scatter("update shardpool.meta set version = 2, works_with = '{1,2}'")
        # What a newer package might have: it is not set back by an older `init`.
        router.scatter("create or replace function shardpool.days(key date) returns bigint return 4711")
    assert "0 errors, 0 warnings" in cli("check")
    assert cli("init")
    with Router(topology_path) as router:
        assert {result.one() for result in router.scatter("select shardpool.days('2025-01-01')").values()} == {(4711,)}
        assert {result.one() for result in router.scatter("select version from shardpool.meta").values()} == {(2,)}
    cli("topology", "set", "shards.s2.pool.max_size", "20")
    with Router(topology_path) as router:
        router.scatter("update shardpool.meta set works_with = '{2}'")
    cli("init", code=1)
    assert "Upgrade the shardpool package" in cli.stderr
    assert "Upgrade the shardpool package" in cli("check", code=1)


# What the package of before asks of a shard, and takes for an answer.
OLD_IDENTITY = """
SELECT self.fleet, self.shard, meta.version,
  greatest((SELECT coalesce(max(owner.epoch), 0) FROM shardpool.owner), (to_jsonb(meta)->>'epoch')::bigint),
  (SELECT coalesce(jsonb_object_agg(keyspace, contract - 'vectors'), '{}') FROM shardpool.hash_contract),
  pg_catalog.pg_is_in_recovery(),
  (SELECT coalesce(max(owner.epoch), 0) FROM shardpool.owner),
  to_jsonb(self)->>'also'
FROM shardpool.self CROSS JOIN shardpool.meta
"""
OLD_SCHEMA = """
drop function shardpool.install_map(text, bigint, text), shardpool.accept_maps(text, jsonb, boolean),
  shardpool.maps_in_force(text), shardpool.accept_tables(jsonb, boolean), shardpool.install_tables(bigint, jsonb);
alter table shardpool.hash_contract drop column maps;
alter table shardpool.meta drop column works_with, drop column tables;
"""


def test_shards_of_the_schema_of_before_are_worked_with_and_brought_up_to_date(
    topology_path: str, cli: Cli, tmp_path: Path
) -> None:
    with Router(topology_path) as router:
        router.scatter("select 1")
        assert {r.one()[2] for r in router.scatter(OLD_IDENTITY).values()} == {1}
        for shard in router.shards:
            with router.shard(shard).connection() as conn:
                conn.execute(OLD_SCHEMA)
    told = cli("check")
    assert "other pins, bounds or listed keys in a topology are not noticed" in told and " 0 errors, 4 warnings" in told
    other = tmp_path / "other.yaml"
    text = Path(topology_path).read_text(encoding="utf-8")
    other.write_text(text.replace("{s0: 0-1023, s1: 1024-2047", "{s1: 0-1023, s0: 1024-2047"), encoding="utf-8")
    with Router(other) as wrong, pytest.raises(psycopg.OperationalError, match="other owners of keys"):
        wrong.shard("s0").execute("select 1")
    cli("topology", "set", "shards.s2.pool.max_size", "20")
    assert "0 errors, 0 warnings" in cli("check")
