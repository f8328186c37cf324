"""An HTTP server of which a request is bounded in time and size, and the number of clients too.

A client that sends its request slowly takes no place of those who have sent theirs, and is left when too many do so.
"""

from __future__ import annotations

import io
import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any, Protocol, cast

# A request has to be there within these seconds and bytes; so many are waited for at a time.
REQUEST_SECONDS = 3.0
REQUEST_BYTES = 8192
CLIENTS_AT_A_TIME = 128

# Status, content type and body.
Answer = tuple[int, str, bytes]


class Answering(Protocol):
    """What says how a request is answered."""

    def answer(self, method: str, path: str, header: Callable[[str], str | None]) -> Answer: ...


class HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    # As many may come at once as are waited for: the system has others come again after a second, or three, or seven.
    request_queue_size = CLIENTS_AT_A_TIME

    def __init__(self, address: tuple[str, int], health: Answering) -> None:
        self.health = health
        self._lock = threading.Lock()
        # Clients whose request is not there yet, the one that has been longest about it first.
        self._slow: dict[Any, None] = {}
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own looks its name up in the DNS, which can take long and is not used.
        socket.socket.setsockopt(self.socket, socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._lock:
            self._slow[request] = None
            slowest = next(iter(self._slow)) if len(self._slow) > CLIENTS_AT_A_TIME else None
        if slowest is not None:
            self.has_sent(slowest)
            with suppress(OSError):
                # Its thread, which reads, finds its end.
                slowest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def has_sent(self, request: Any) -> None:
        """The request of a client is there, or is not waited for any longer."""
        with self._lock:
            self._slow.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is nobody's fault."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"
    server_version = "shardpool"
    sys_version = ""

    def handle(self) -> None:
        """One request, whose head is read whole before it is looked at: so its time is bounded, not that of a line."""
        try:
            head = self._read_head()
        finally:
            cast("HttpServer", self.server).has_sent(self.connection)
        if head is not None:
            self.rfile = io.BufferedReader(io.BytesIO(head))
            self.handle_one_request()

    def _read_head(self) -> bytes | None:
        deadline = monotonic() + REQUEST_SECONDS
        head = b""
        while b"\r\n\r\n" not in head:
            left = deadline - monotonic()
            if left <= 0 or len(head) > REQUEST_BYTES:
                return None
            self.connection.settimeout(left)
            try:
                got = self.connection.recv(REQUEST_BYTES)
            except OSError:
                return None
            if not got:
                return None
            head += got
        self.connection.settimeout(REQUEST_SECONDS)
        return head

    def do_GET(self) -> None:
        health = cast("HttpServer", self.server).health
        try:
            status, kind, body = health.answer(self.command, self.path, self.headers.get)
        except Exception as error:
            status, kind, body = plain(500, type(error).__name__)
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        if status == 401:
            self.send_header("WWW-Authenticate", "Bearer")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a probe every second is not worth a line."""


def plain(status: int, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", f"{text}\n".encode()


def json_answer(status: int, value: dict[str, Any]) -> Answer:
    return status, "application/json", (json.dumps(value) + "\n").encode()
