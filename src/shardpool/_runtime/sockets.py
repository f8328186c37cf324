"""What is done to a connection's socket, and asked of it, beside libpq."""

from __future__ import annotations

import os
import socket
import struct
import sys
from contextlib import suppress
from typing import Any

# `tcpi_bytes_received` of struct tcp_info: see linux/tcp.h.
_PLACE = struct.Struct("Q")
_OFFSET = 128


def shut(conn: Any) -> None:
    """Shut a connection's socket, without closing it: its reader sees the end of the stream and gives up.

    A duplicate of the descriptor is used, since libpq owns the original and may close it at any time.
    """
    with suppress(Exception):
        duplicate = socket.socket(fileno=os.dup(conn.pgconn.socket))
        with duplicate, suppress(OSError):
            duplicate.shutdown(socket.SHUT_RDWR)


def received(conn: Any) -> int | None:
    """The bytes that have come on a connection since it was made; None where the system does not tell.

    Linux does for TCP. Nothing is changed, so that no duplicate is needed, whatever the descriptor is by now.
    """
    if sys.platform != "linux":
        return None
    with suppress(Exception):
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=conn.pgconn.socket)
        try:
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _OFFSET + _PLACE.size)
        finally:
            sock.detach()
        return int(_PLACE.unpack_from(info, _OFFSET)[0])
    return None
