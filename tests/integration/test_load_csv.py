"""load_csv: what a file says is what the servers hold, whatever its quoting, its encoding and its options."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest

from shardpool import AsyncRouter, LoadError, Router
from shardpool.load import CsvFile, LoadReport, load_csv

NASTY = [
    "",
    "NA",
    "a,b",
    '"',
    '""',
    'x"y',
    '"x',
    "\n",
    "a\nb",
    "a\r\nb",
    "\r",
    "\\.",
    "\\N",
    "\\",
    "é",
    "ß,",
    " ",
    " x ",
]
NASTY += [" x ", "'", ";", "a;b", "\t", "§", "null", "0", "\\.\n\\.", "x\n\\.\ny"]
Row = tuple[str | None, ...]


def load(topology: str, table: str, file: CsvFile, **options: Any) -> LoadReport:
    async def run() -> LoadReport:
        async with AsyncRouter(topology) as router:
            return await load_csv(router, table, file, **options)

    return asyncio.run(run())


def field(value: str | None, chance: Random, delimiter: str, null: str) -> str:
    """A value in one of the ways to write it."""
    if value is None:
        return null
    must = value == null or any(mark in value for mark in (delimiter, '"', "\r", "\n"))
    return '"' + value.replace('"', '""') + '"' if must or chance.random() < 0.4 else value


def written(rows: Sequence[Row], chance: Random, delimiter: str, null: str, end: str) -> str:
    lines = [delimiter.join(field(value, chance, delimiter, null) for value in row) for row in rows]
    return end.join(["n,tenant_id,note,more".replace(",", delimiter), *lines]) + (end if chance.random() < 0.5 else "")


@pytest.mark.parametrize("seed", range(12))
def test_every_way_to_write_a_value_arrives_as_that_value(topology_path: str, router: Router, seed: int) -> None:
    router.scatter("alter table orders add more text")
    chance = Random(seed)
    delimiter, null = chance.choice([",", ";", "\t", "|", "§"]), chance.choice(["", "NA", "\\N", "\\.", "a,b", "0;"])
    encoding, end = chance.choice(["utf-8-sig", "utf-16", "cp1252"]), chance.choice(["\n", "\r\n", "\r"])
    numbers = range(chance.choice([1, 60, 5000]))
    values = [*NASTY, None] if chance.random() < 0.8 else ["plain", "", "text of some length", None]
    rows: list[Row] = [
        (str(n), chance.choice([str(n), f" {n}", f"+{n}"]), chance.choice(values), chance.choice(values))
        for n in numbers
    ]
    data = written(rows, chance, delimiter, null, end).encode(encoding)
    columns = chance.choice([None, ["more", "tenant_id", "n"], ["n", "note", "tenant_id", "more"]])
    file = CsvFile(io.BytesIO(data), delimiter=delimiter, null=null, encoding=encoding, columns=columns)
    report = load(topology_path, "orders", file)
    assert report.rows == len(rows)
    wanted = {(int(n), int(str(key)), note if columns is None or "note" in columns else None, more)
              for n, key, note, more in rows}  # fmt: skip
    found = router.scatter("select n, tenant_id, note, more from orders")
    assert {row for result in found.values() for row in result} == wanted
    assert router.check().ok


def test_a_file_of_one_column_has_no_end_within_and_an_empty_line_is_null(topology_path: str, router: Router) -> None:
    data = b'what\nx\n\\.\n\n"\\."\n""\ny\n'
    assert load(topology_path, "audit_log", CsvFile(io.BytesIO(data))).rows_by_shard == {"s0": 6}
    found = router.shard("s0").execute("select array_agg(what order by ctid) from audit_log").one()
    assert found == (["x", "\\.", None, "\\.", "", "y"],)
    data = b"what,more\n,1\n\\.,2\n"
    for null, values in (("", [None, "\\."]), ("\\.", ["", None])):
        router.shard("s0").execute("truncate audit_log")
        load(topology_path, "audit_log", CsvFile(io.BytesIO(data), columns=["what"], null=null))
        assert router.shard("s0").execute("select array_agg(what order by ctid) from audit_log").one() == (values,)


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ('1,1,"a\rb"\n1,2,x\n1,x,"y\n\n"\n1,y,\n', 5, "invalid input syntax for type integer"),
        ('1,1,"a\nb\nc"\n1,2,"x\r\n"\n"1","x",y\n1,y,z\n', 7, "invalid input syntax for type integer"),
        ('1,1,"a\n\\.\nb"\n\n2,1,x\n2,1,"x\ny"\n', 7, "duplicate key value"),
        ("1,1,a\n2,1,\0\n", 3, "NUL character"),
        ("1,1,a\n,1,b\n", 3, "cannot use None"),
        ('1,1,a\n"",1,"b"\n', 3, "cannot use ''"),
        ("1,1,a\n1 2,1,b\n", 3, "cannot use '1 2'"),
        ('1,1,"x"\n2,1,"y" \n3,1,x"z\n', 4, "a quote is opened and not closed"),
        ("1,1,x\n2,1,y,z\n3,1\n", 3, "extra data after last expected column"),
        ("1,1,x\n2,1\n3,1,y,z\n", 3, "missing data for column"),
        ("1,1,x\n2,1,a\rb\n", 3, "unquoted (carriage return|newline)"),
    ],
)
@pytest.mark.parametrize("many", [0, 3000])
def test_the_line_to_blame_is_named(
    topology_path: str, router: Router, tmp_path: Path, text: str, line: int, why: str, many: int
) -> None:
    before = "".join(f'{n},2,"of\ntwo"\n' for n in range(many))
    path = tmp_path / "orders.csv"
    path.write_bytes(("tenant_id,n,note\n" + before + text).encode())
    with pytest.raises(LoadError, match=why) as raised:
        load(topology_path, "orders", CsvFile(path))
    assert raised.value.line == line + 2 * many
    counts = router.scatter("select count(*) from orders")
    assert {result.one()[0] for result in counts.values()} == {0}


def test_a_refused_record_is_told_by_its_number_among_those_of_its_shard(topology_path: str, router: Router) -> None:
    keys = [key for key in range(400) if router.for_key(key, table="orders").shard == "s2"]
    router.shard("s2").execute("alter table orders add check (n <> 13)")
    lines = [f"{key},{13 if key == keys[7] else 1},x" for key in range(400)]

    def refused(end: str) -> LoadError:
        with pytest.raises(LoadError) as raised:
            load(topology_path, "orders", CsvFile(io.BytesIO(("tenant_id,n,note\n" + end.join(lines)).encode())))
        assert isinstance(raised.value.failures["s2"], psycopg.errors.CheckViolation)
        return raised.value

    assert refused("\n").rejected == {"s2": 8}
    # The server counts lines; where records have several, standard input cannot be read again to tell which it was.
    lines[keys[0]] = f'{keys[0]},1,"x\ny"'
    assert refused("\n").rejected == {}


def test_keys_are_placed_as_they_are_stored(topology_path: str, router: Router) -> None:
    router.scatter("alter table stores alter region type varchar(2)")
    load(topology_path, "stores", CsvFile(io.BytesIO(b'region,name\nde  ,a\n"us ",b\n"fr",c\n')))
    for region, name in (("de", "a"), ("us", "b"), ("fr", "c")):
        assert router.execute("select name from stores where region = %s", [region]).one() == (name,)
    assert router.check().ok


def test_moments_are_one_on_all_shards(topology_path: str, router: Router) -> None:
    router.scatter("alter table orders add at timestamptz, add made timestamptz default now()")
    data = b"tenant_id,n,note,at\n" + b"".join(b'%d,1,"now",2025-01-01 00:00:00+00\n' % key for key in range(200))
    load(topology_path, "orders", CsvFile(io.BytesIO(data)))
    made = {row for result in router.scatter("select distinct made, note from orders").values() for row in result}
    assert len(made) == 1
    assert made.pop()[1] == "now"
    for moment in (b"now", b'"now"', b"Tomorrow"):
        with pytest.raises(LoadError, match="another moment on each shard") as raised:
            load(topology_path, "orders", CsvFile(io.BytesIO(data + b"777,1,x," + moment + b"\n")))
        assert raised.value.line == 202


def test_reference_tables_get_every_record(topology_path: str, router: Router) -> None:
    report = load(topology_path, "countries", CsvFile(io.BytesIO('code,name\nde,"Deutsch\nland"\né,\\.\n'.encode())))
    assert report.rows_by_shard == {"s0": 2, "s1": 2, "s2": 2, "s3": 2}
    found = router.execute('select code, name from countries order by code collate "C"').rows
    assert found == [("de", "Deutsch\nland"), ("é", "\\.")]


def test_rows_without_a_key_are_told_apart_in_blocks_of_every_kind(
    topology_path: str, router: Router, tmp_path: Path
) -> None:
    many: Callable[[int], str] = lambda first: "".join(f"{n},1,x\n" for n in range(first, first + 20_000))  # noqa: E731
    path = tmp_path / "orders.csv"
    path.write_text("tenant_id,n,note\n" + many(0) + ',2,"a"\n"50000",2,b\n' + many(100_000) + ",3,c\n")
    report = load(topology_path, "orders", CsvFile(path), on_null_key="collect", collect_into=tmp_path / "left.csv")
    assert (report.rows, report.skipped) == (40_001, 2)
    assert (tmp_path / "left.csv").read_text() == "tenant_id,n,note\n,2,a\n,3,c\n"
    with pytest.raises(LoadError, match="duplicate key") as raised:
        load(topology_path, "orders", CsvFile(path), on_null_key="collect", collect_into=tmp_path / "left.csv")
    assert raised.value.line == 2
    assert (tmp_path / "left.csv").read_text() == "tenant_id,n,note\n,2,a\n,3,c\n"
