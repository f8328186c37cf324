"""`top` and `serve` as a person calls them, on a real fleet, also when a server is stopped or frozen."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

import pytest

from shardpool import Router
from tests.timing import in_time, not_after

from .test_cli import COMMAND, Cli, cli
from .test_cli_prompt import Terminal

__all__ = ["cli"]


@pytest.fixture
def fleet(shardpool_fleet: Any) -> Any:
    """The fleet, if its servers can be stopped; those that a test stops run again at its end."""
    if not hasattr(shardpool_fleet, "fleet"):
        pytest.skip("only servers on this machine can be stopped")
    return shardpool_fleet.fleet


@contextmanager
def stopped(fleet: Any, shard: str) -> Iterator[None]:
    fleet.server(shard).kill()
    try:
        yield
    finally:
        fleet.start()


@contextmanager
def frozen(fleet: Any, shard: str) -> Iterator[None]:
    fleet.server(shard).pause()
    try:
        yield
    finally:
        fleet.server(shard).resume()


def test_top_once_tells_what_the_servers_tell(cli: Cli, topology_path: str) -> None:
    with Router(topology_path) as router, router.shard("s1").connection() as conn:
        conn.execute("select 1")
        told = cli.json("top", "--once", "--interval", "0.3")
    rows = {row["shard"]: row for row in told["endpoints"]}
    assert set(rows) == {"s0", "s1", "s2", "s3"}
    assert {row["state"] for row in rows.values()} == {"ok"}
    assert {row["role"] for row in rows.values()} == {"primary"}
    assert (rows["s0"]["connections"], rows["s1"]["connections"]) == (1, 2)
    assert rows["s0"]["max_connections"] > 10
    assert 0 < rows["s0"]["ping_p50"] <= rows["s0"]["ping_p99"] < 1
    assert rows["s0"]["tps"] >= 0 and rows["s0"]["lag"] is None
    lines = cli("top", "--once", "--interval", "0.2").splitlines()
    assert lines[0].split()[:4] == ["shard", "endpoint", "state", "role"]
    assert [line.split()[:3] for line in lines[2:]] == [[f"s{n}", "primary", "ok"] for n in range(4)]


def test_top_shows_a_stopped_server_and_a_frozen_one_and_waits_for_neither(cli: Cli, fleet: Any) -> None:
    with stopped(fleet, "s2"), frozen(fleet, "s1"):
        begun = monotonic()
        told = cli.json("top", "--once", "--interval", "0.3", "--timeout", "0.5", code=1)
        in_time(monotonic() - begun, 6)
    states = {row["shard"]: row["state"] for row in told["endpoints"]}
    assert states == {"s0": "ok", "s1": "silent", "s2": "down", "s3": "ok"}
    [down] = [row for row in told["endpoints"] if row["shard"] == "s2"]
    assert "s2" in down["error"]


def test_top_shows_a_waiting_backend(cli: Cli, topology_path: str) -> None:
    with Router(topology_path) as router, Router(topology_path) as other, router.shard("s0").transaction() as conn:
        conn.execute("lock table countries")
        with subprocess.Popen(
            [*COMMAND, "query", "--shard", "s0", "--timeout", "20", "select count(*) from countries"],
            env=cli.environment,
            stdout=subprocess.DEVNULL,
        ) as waiter:
            until = monotonic() + 10
            query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'"
            while not other.shard("s0").execute(query).one()[0]:
                not_after(until)
            row = cli.json("top", "--once", "--interval", "0.2")["endpoints"][0]
            waiter.terminate()
    assert (row["active"], row["waiting"]) == (1, 1)


@pytest.mark.parametrize("columns", ["200", "80"])
def test_top_on_a_terminal(cli: Cli, fleet: Any, columns: str) -> None:
    cli.environment["COLUMNS"] = columns
    terminal = Terminal(cli, "--interval", "0.3", "--timeout", "0.5", command="top")
    try:
        terminal.expect(r"4 of 4 endpoints well.*q leaves")
        with stopped(fleet, "s3"):
            terminal.expect(r"3 of 4 endpoints well.*s3 +primary +down.*q leaves")
        terminal.type("x")
        terminal.expect(r"4 of 4 endpoints well.*q leaves")
        terminal.type("q")
        assert terminal.wait() == 0
    finally:
        terminal.close()


def test_top_leaves_at_once_while_a_shard_is_frozen(cli: Cli, fleet: Any) -> None:
    terminal = Terminal(cli, "--interval", "0.3", "--timeout", "0.5", command="top")
    try:
        terminal.expect(r"4 of 4 endpoints well.*q leaves")
        with frozen(fleet, "s0"):
            terminal.expect(r"3 of 4 endpoints well.*q leaves")
            begun = monotonic()
            terminal.type("q")
            assert terminal.wait() == 0
            in_time(monotonic() - begun, 8)
    finally:
        terminal.close()


def test_top_in_a_pipe_goes_on_until_it_is_interrupted(cli: Cli) -> None:
    with subprocess.Popen(
        [*COMMAND, "top", "--json", "--interval", "0.2"], env=cli.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        text = ""
        while text.count('"fleet"') < 3:
            text += process.stdout.readline()
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode == 130


@contextmanager
def serving(cli: Cli, *arguments: str) -> Iterator[str]:
    """The address of a `serve` that runs; it has to end well by SIGTERM."""
    with subprocess.Popen(
        [*COMMAND, "serve", "--listen", "127.0.0.1:0", *arguments],
        env=cli.environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            match = re.match(r"http://(127\.0\.0\.1:\d+): /healthz", line)
            assert match, line
            yield match[1]
            process.terminate()
            process.communicate(timeout=20)
            assert process.returncode == 0
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def get(address: str, path: str, **headers: str) -> tuple[int, str]:
    conn = http.client.HTTPConnection(address, timeout=10)
    conn.request("GET", path, headers=headers)
    response = conn.getresponse()
    text = response.read().decode()
    conn.close()
    return response.status, text


def test_serve_tells_health_and_readiness(cli: Cli, fleet: Any) -> None:
    with serving(cli, "--quorum", "all") as address:
        assert get(address, "/healthz")[0] == 200
        status, body = get(address, "/readyz")
        assert (status, json.loads(body)["well"]) == (200, 4)
        with stopped(fleet, "s1"):
            until = monotonic() + 10
            while get(address, "/readyz")[0] == 200:
                not_after(until)
            assert json.loads(get(address, "/readyz")[1])["shards"]["s1"]["ok"] is False
        until = monotonic() + 20
        while get(address, "/readyz")[0] != 200:
            not_after(until)


def test_serve_asks_for_its_token_and_refuses_what_cannot_be(cli: Cli) -> None:
    cli.environment["SHARDPOOL_TOKEN"] = "a-token"
    with serving(cli) as address:
        assert get(address, "/healthz")[0] == 401
        assert get(address, "/healthz", Authorization="Bearer a-token")[0] == 200
    del cli.environment["SHARDPOOL_TOKEN"]
    cli("serve", "--listen", "0.0.0.0:0", code=2)
    assert "no token is asked for" in cli.stderr
    cli("serve", "--quorum", "most", code=2)
    cli("serve", "--listen", "here", code=2)
