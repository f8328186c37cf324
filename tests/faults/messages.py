"""The SQL in what a PostgreSQL client sends, found message by message; no I/O.

See https://www.postgresql.org/docs/current/protocol-message-formats.html.
"""

from __future__ import annotations

import struct

_HEADER = struct.Struct("!I")
_ASKS_FOR_ENCRYPTION = (80877103, 80877104)


class Frontend:
    """One connection's stream from client to server. Encrypted ones cannot be read."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._started = False
        self._prepared: dict[bytes, bytes] = {}

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The statements whose message ends in this data: where the message begins in it (0 if before), and the SQL.

        Statements are told when they are run by Query or Bind, and when they are sent by Parse.
        """
        before = len(self._buffer)
        self._buffer += data
        found: list[tuple[int, bytes]] = []
        begin = 0
        while (end := self._end(begin)) is not None:
            sql = None
            if self._started:
                sql = self._statement(begin, end)
            else:
                self._start(begin)
            if sql is not None:
                found.append((max(0, begin - before), sql))
            begin = end
        del self._buffer[:begin]
        return found

    def _end(self, begin: int) -> int | None:
        """Where the message ends that begins there, or None while it has not come whole."""
        length = begin + 1 if self._started else begin
        if len(self._buffer) < length + 4:
            return None
        end = length + int(_HEADER.unpack_from(self._buffer, length)[0])
        return end if len(self._buffer) >= end else None

    def _start(self, begin: int) -> None:
        """The first messages have no type; a request for encryption is followed by another one of them."""
        code = _HEADER.unpack_from(self._buffer, begin + 4)[0]
        self._started = code not in _ASKS_FOR_ENCRYPTION

    def _statement(self, begin: int, end: int) -> bytes | None:
        kind = bytes(self._buffer[begin : begin + 1])
        if kind not in (b"Q", b"P", b"B"):
            return None
        body = bytes(self._buffer[begin + 5 : end])
        if kind == b"Q":
            return body.rstrip(b"\0")
        first, second, *_ = body.split(b"\0", 2)
        if kind == b"P":
            self._prepared[first] = second
            return second
        # Of an unnamed statement, its Parse has told already.
        return self._prepared.get(second) if second else None
