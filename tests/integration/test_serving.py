"""`/healthz`, `/readyz` and `/metrics` as clients see them, good and bad ones, on a real fleet."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from shardpool import AsyncRouter, Router, RouterMisuse
from shardpool._http import CLIENTS_AT_A_TIME, REQUEST_SECONDS
from shardpool.serving import REQUESTS_AT_A_TIME, Health
from tests.timing import in_time

FREE = "127.0.0.1:0"


def ask(address: str, path: str, method: str = "GET", **headers: str) -> tuple[int, str, dict[str, str]]:
    conn = http.client.HTTPConnection(address, timeout=10)
    try:
        conn.request(method, path, headers=headers)
        response = conn.getresponse()
        return response.status, response.read().decode(), dict(response.getheaders())
    finally:
        conn.close()


def raw(address: str, data: bytes, timeout: float = 10) -> bytes:
    """What comes back for these bytes, until the server closes."""
    host, port = address.rsplit(":", 1)
    got = b""
    with socket.create_connection((host, int(port)), timeout) as sock:
        sock.sendall(data)
        while chunk := sock.recv(65536):
            got += chunk
    return got


@pytest.fixture
def health(router: Router) -> Iterator[Health]:
    with Health(router, listen=FREE) as started:
        yield started


def partly(topology_path: str, *broken: str) -> str:
    """The topology with shards at a port where nobody listens."""
    path = Path(topology_path)
    text = path.read_text()
    for shard in broken:
        text = re.sub(rf"({shard}:\n    primary: .*?port: ')\d+", r"\g<1>1", text)
    path.write_text(text)
    return topology_path


def test_the_process_lives_and_every_shard_answers(health: Health, router: Router) -> None:
    status, body, headers = ask(health.address, "/healthz")
    assert (status, json.loads(body)) == (200, {"ok": True})
    assert headers["Content-Type"] == "application/json"
    status, body, _ = ask(health.address, "/readyz")
    told = json.loads(body)
    assert (status, told["ready"], told["needed"], told["well"]) == (200, True, 3, 4)
    assert (told["fleet"], told["epoch"]) == (router.topology.fleet, 5)
    assert set(told["shards"]) == {"s0", "s1", "s2", "s3"}
    assert told["shards"]["s0"]["ok"] and 0 < told["shards"]["s0"]["seconds"] < 1


@pytest.mark.parametrize(
    ("quorum", "broken", "status"),
    [
        ("majority", ["s1"], 200),
        ("majority", ["s1", "s2"], 503),
        ("all", ["s1"], 503),
        (2, ["s1", "s2"], 200),
        (3, ["s1", "s2"], 503),
    ],
)
def test_a_quorum_of_the_shards_decides(topology_path: str, quorum: Any, broken: list[str], status: int) -> None:
    with Router(partly(topology_path, *broken)) as router, Health(router, listen=FREE, quorum=quorum) as health:
        found, body, _ = ask(health.address, "/readyz")
        told = json.loads(body)
        assert (found, told["well"]) == (status, 4 - len(broken))
        assert told["shards"]["s1"]["ok"] is False
        assert told["shards"]["s1"]["error"] == "ShardUnavailable"
        assert ask(health.address, "/healthz")[0] == 200


def test_metrics_are_those_of_the_router(health: Health, router: Router) -> None:
    pytest.importorskip("prometheus_client")
    router.shard("s2").execute("select 1")
    status, body, headers = ask(health.address, "/metrics")
    assert status == 200 and headers["Content-Type"].startswith("text/plain")
    assert re.search(r'^shardpool_calls_total\{.*shard="s2".*\} 1\.0$', body, re.M)


def test_without_the_extra_metrics_say_what_to_install(health: Health, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    status, body, _ = ask(health.address, "/metrics")
    assert status == 404 and "shardpool[prometheus]" in body


def test_a_frozen_shard_is_told_within_the_timeout(router: Router, shardpool_fleet: Any) -> None:
    if not hasattr(shardpool_fleet, "fleet"):
        pytest.skip("only servers on this machine can be frozen")
    router.scatter("select 1")
    server = shardpool_fleet.fleet.server("s1")
    with Health(router, listen=FREE, timeout=0.5) as health:
        server.pause()
        try:
            begun = monotonic()
            status, body, _ = ask(health.address, "/readyz")
            in_time(monotonic() - begun, 1.5)
        finally:
            server.resume()
    told = json.loads(body)
    assert (status, told["well"], told["shards"]["s1"]["error"]) == (200, 3, "DeadlineExceeded")


def test_many_probes_at_once_ask_the_shards_once(health: Health, router: Router) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(health.address, "/readyz")[0], range(24)))
    assert set(answers) == {200}
    assert router.stats()["shards"]["s0"]["primary"]["calls"] <= 2


async def test_the_router_of_an_event_loop_is_asked_on_its_loop(topology_path: str) -> None:
    async with AsyncRouter(topology_path) as router:
        with Health(router, listen=FREE) as health:
            status, body, _ = await asyncio.to_thread(ask, health.address, "/readyz")
            assert (status, json.loads(body)["well"]) == (200, 4)


def test_unknown_hosts_and_origins_are_refused(health: Health, router: Router) -> None:
    address = health.address
    assert ask(address, "/healthz", Host="evil.example")[0] == 403
    assert ask(address, "/healthz", Host="localhost.evil.example:80")[0] == 403
    assert ask(address, "/healthz", Host="[")[0] == 403
    assert raw(address, b"GET /healthz HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 403")
    assert ask(address, "/healthz", Host="localhost:9188")[0] == 200
    assert ask(address, "/healthz", Host="[::1]:9188")[0] == 200
    assert ask(address, "/healthz", Origin="http://evil.example")[0] == 403
    assert ask(address, "/healthz", Origin="null")[0] == 403
    assert ask(address, "/healthz", Origin=f"http://{address}")[0] == 200
    with Health(router, listen=FREE, hosts=["metrics.internal"]) as named:
        assert ask(named.address, "/healthz", Host="Metrics.Internal:1")[0] == 200


def test_other_addresses_than_loopback_need_a_token(router: Router) -> None:
    for listen in ("0.0.0.0:0", "[::]:0", "192.0.2.1:0"):
        with pytest.raises(RouterMisuse, match="no token"):
            Health(router, listen=listen)
    for listen in ("nothing", "127.0.0.1", "127.0.0.1:port", ":80"):
        with pytest.raises(RouterMisuse, match="is not host:port"):
            Health(router, listen=listen)
    for quorum in (0, -1, "most"):
        with pytest.raises(RouterMisuse, match="quorum"):
            Health(router, quorum=quorum)
    with Health(router, listen="0.0.0.0:0", token="s3cret-ü") as health:
        address = health.address.replace("0.0.0.0", "127.0.0.1")
        for path in ("/healthz", "/readyz", "/metrics"):
            assert ask(address, path)[0] == 401
            assert ask(address, path, Authorization="Bearer wrong")[0] == 401
            assert ask(address, path, Authorization="s3cret")[0] == 401
        sent = b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\nAuthorization: Bearer s3cret-\xc3\xbc\r\n\r\n"
        assert raw(address, sent).startswith(b"HTTP/1.0 200")
        assert "s3cret" not in repr(health)


def test_other_paths_and_methods_are_refused(health: Health) -> None:
    assert ask(health.address, "/")[0] == 404
    assert ask(health.address, "/../healthz")[0] == 404
    assert ask(health.address, "/healthz?verbose=1")[0] == 200
    assert ask(health.address, "/healthz", "POST")[0] == 405
    status, body, headers = ask(health.address, "/healthz", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, "", "13")
    assert b"400" in raw(health.address, b"NIX / x y\r\n\r\n")


def test_a_slow_client_is_left_and_holds_up_nobody(health: Health) -> None:
    host, port = health.address.split(":")
    with socket.create_connection((host, int(port)), 10) as slow:
        begun = monotonic()
        slow.sendall(b"GET /healthz HTTP/1.1\r\n")
        assert ask(health.address, "/healthz")[0] == 200
        in_time(monotonic() - begun, 1)
        ended = False
        # A byte now and then does not lengthen its time.
        slow.settimeout(0.25)
        while not ended and monotonic() - begun < 3 * REQUEST_SECONDS:
            try:
                slow.sendall(b"x")
                ended = slow.recv(1) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
        assert ended


def test_a_request_without_end_is_cut_off(health: Health) -> None:
    host, port = health.address.split(":")
    with socket.create_connection((host, int(port)), 10) as endless:
        endless.settimeout(5)
        sent = 0
        with pytest.raises(OSError):
            while sent < 50_000_000:
                endless.sendall(b"a" * 65536)
                sent += 65536
        assert sent < 50_000_000


def test_clients_that_send_no_request_hold_up_nobody_and_the_slowest_are_left(health: Health) -> None:
    host, port = health.address.split(":")
    idle = [socket.create_connection((host, int(port)), 10) for _ in range(2 * CLIENTS_AT_A_TIME)]
    try:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert ask(health.address, path)[0] == 200
        assert idle[0].recv(1) == b""
    finally:
        for sock in idle:
            sock.close()


def test_clients_without_the_token_take_no_place_of_others(router: Router) -> None:
    with Health(router, listen=FREE, token="s3cret") as health, ExitStack() as stack:
        host, port = health.address.split(":")
        for _ in range(REQUESTS_AT_A_TIME):
            stack.enter_context(socket.create_connection((host, int(port)), 10)).sendall(b"GET /readyz")
        assert ask(health.address, "/readyz")[0] == 401
        assert ask(health.address, "/readyz", Authorization="Bearer s3cret")[0] == 200


def test_an_origin_that_is_no_address_is_refused(health: Health) -> None:
    for origin in ("http://[::1", "null", "http://", "http://evil.example"):
        assert ask(health.address, "/healthz", Origin=origin)[0] == 403


def test_it_stops_and_starts_again(router: Router) -> None:
    health = Health(router, listen=FREE)
    with pytest.raises(RouterMisuse):
        _ = health.address
    health.start()
    address = health.address
    health.start()
    assert health.address == address
    health.stop()
    health.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(address, "/healthz")
    with Health(router, listen=address) as again:
        assert ask(again.address, "/healthz")[0] == 200
