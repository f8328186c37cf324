"""Has the server of an idle connection gone? Told by its socket alone, without a round trip."""

from __future__ import annotations

import select
from typing import Any

import psycopg

# Seconds after which a connection that nobody has used is looked at before it is used again. A look costs 3 µs.
IDLE_SECONDS = 1.0
# The attribute of a connection that says when it was given back to its pool, in monotonic seconds.
GIVEN_BACK = "_shardpool_given_back"
# A FATAL message, then the end of the stream: what a server that shuts down leaves behind. One more to be sure.
_READS = 3


def has_gone(conn: Any) -> bool:
    """Whether an idle connection has been closed by its server.

    It has nothing to read but notifications, changed settings, and the end of the stream. A server that is frozen or
    cannot be reached does not tell, so that False is no promise.
    """
    try:
        poll = select.poll()
        poll.register(conn.pgconn.socket, select.POLLIN)
        for _ in range(_READS):
            if not poll.poll(0):
                return False
            conn.pgconn.consume_input()
    except psycopg.OperationalError:
        return True
    return True
