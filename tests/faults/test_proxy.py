"""The proxy that the other tests trust: what it passes, and what it does to connections in each mode."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from time import monotonic
from typing import Any

import pytest

from tests.timing import in_time

from .proxy import BlackHole, Cut, Delay, Pass, Proxy, Refuse, Reset


class _Upper:
    """A server that answers each chunk in capitals, and after the end of its input says bye."""

    def __init__(self) -> None:
        self.received = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address: Any = self._listener.getsockname()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(conn,), daemon=True).start()

    def _talk(self, conn: socket.socket) -> None:
        try:
            with conn:
                while data := conn.recv(1 << 16):
                    self.received += data
                    conn.sendall(data.upper())
                conn.sendall(b"bye")
        except OSError:
            return

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def upper() -> Iterator[_Upper]:
    server = _Upper()
    yield server
    server.close()


@pytest.fixture
def proxy(upper: _Upper) -> Iterator[Proxy]:
    made = Proxy(upper.address)
    yield made
    made.close()


def _client(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=3)


def _is_silent(client: socket.socket) -> bool:
    client.settimeout(0.2)
    try:
        client.recv(10)
    except TimeoutError:
        return True
    return False


def test_bytes_and_the_end_of_each_direction_pass(proxy: Proxy) -> None:
    _talks(proxy)


def _talks(proxy: Proxy) -> None:
    with _client(proxy) as client:
        client.sendall(b"hello")
        assert client.recv(10) == b"HELLO"
        client.shutdown(socket.SHUT_WR)
        assert client.recv(10) == b"bye"
        assert client.recv(10) == b""


def test_much_passes_fast(proxy: Proxy) -> None:
    data = b"x" * (1 << 20)
    with _client(proxy) as client:
        begun = monotonic()
        sender = threading.Thread(target=client.sendall, args=(data * 16,))
        sender.start()
        left = len(data) * 16
        while left:
            left -= len(client.recv(1 << 18))
        sender.join()
        in_time(monotonic() - begun, 3)


def test_a_delay_is_kept_in_each_direction(proxy: Proxy) -> None:
    with _client(proxy) as client:
        proxy.set(Delay(0.1))
        begun = monotonic()
        client.sendall(b"hello")
        assert client.recv(10) == b"HELLO"
        assert monotonic() - begun >= 0.2


def test_what_a_black_hole_swallowed_stays_away_and_other_connections_go_on(proxy: Proxy) -> None:
    with _client(proxy) as old, _client(proxy) as idle:
        old.sendall(b"a")
        assert old.recv(10) == b"A"
        proxy.set(BlackHole())
        old.sendall(b"b")
        with _client(proxy) as new:
            new.sendall(b"c")
            assert _is_silent(old) and _is_silent(new)
            proxy.set(Pass())
            assert _is_silent(old) and _is_silent(new)
        idle.sendall(b"d")
        assert idle.recv(10) == b"D"


def test_a_black_hole_may_accept_nobody(proxy: Proxy) -> None:
    proxy.set(BlackHole(accepts=False))
    with pytest.raises(TimeoutError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=0.3)
    proxy.set(Pass())
    _talks(proxy)


def test_reset_resets_old_and_new_connections(proxy: Proxy) -> None:
    with _client(proxy) as old:
        old.sendall(b"a")
        assert old.recv(10) == b"A"
        proxy.set(Reset())
        with pytest.raises(ConnectionResetError):
            old.recv(10)
    with pytest.raises(ConnectionResetError), _client(proxy) as new:
        new.recv(10)


def test_refuse_has_nobody_listen_until_it_passes_again(proxy: Proxy) -> None:
    proxy.set(Refuse())
    with pytest.raises(ConnectionRefusedError):
        _client(proxy)
    proxy.set(Pass())
    _talks(proxy)


_START = b"\x00\x00\x00\x08\x04\xd2\x16\x2f" + b"\x00\x00\x00\x0a\x00\x03\x00\x00\x00\x00"


def _query(sql: bytes) -> bytes:
    return b"Q" + (len(sql) + 5).to_bytes(4, "big") + sql + b"\0"


@pytest.mark.parametrize("answer", [False, True])
def test_a_cut_comes_before_the_statement_or_before_its_answer(proxy: Proxy, upper: _Upper, answer: bool) -> None:
    proxy.set(Cut(b"commit", answer=answer))
    with _client(proxy) as client:
        client.sendall(_START + _query(b"insert"))
        assert client.recv(100)
        with pytest.raises(ConnectionResetError):
            client.sendall(_query(b"COMMIT"))
            while client.recv(100):
                pass
    assert proxy.cuts == 1
    assert (b"COMMIT" in upper.received) is answer
    assert b"insert" in upper.received
