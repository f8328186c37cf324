# Generated from _async/work/guarding.py by tools/unasync.py: edit that one, then run `make sync`.
"""While rows are handed over the shards say who owns them: a unit of work asks first, and goes where they say."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import Connection

from ..._endpoint import refusals
from ..._runtime.deadlines import Deadline
from ..._runtime.tasks import sleep
from ...errors import DeadlineExceeded, first_line
from ...topology import RunningMove
from ..fleet import redirects, sessions
from ..fleet.pools import EndpointPool

if TYPE_CHECKING:
    from ..fleet.fleet import Fleet
    from ..fleet.snapshot import Snapshot

# The buckets whose rows a unit of work may touch, by keyspace.
Buckets = Mapping[str, Collection[int]]

# Seconds before a shard is asked again that is to get the rows, and has not got them yet.
_SOONEST, _LATEST = 0.001, 0.004
# What `shardpool.check_token` says: the move, and who has its token since when.
_MOVE = re.compile(r"what move (\d+) moves")
_OWNER = re.compile(r"(.+) (\d+)", re.DOTALL)


def moves_touched(snapshot: Snapshot, shard: str, buckets: Buckets | None) -> list[RunningMove]:
    """The moves that hand over rows of the shard which a unit of work may touch."""
    return [move for move in snapshot.guarded.get(shard, ()) if buckets is None or _touches(move, buckets)]


def _touches(move: RunningMove, buckets: Buckets) -> bool:
    if move.keyspace is None:
        return True
    touched = buckets.get(move.keyspace, ())
    return any(first <= bucket <= last for first, last in move.buckets for bucket in touched)


def is_admitted(
    fleet: Fleet,
    pool: EndpointPool,
    conn: Connection[Any],
    moves: Sequence[RunningMove],
    deadline: Deadline,
    *,
    at_once: bool,
) -> bool:
    """Whether the shard owns what the moves move; until the connection is given back, or `at_once` for now.

    False when it is to be routed anew, by what the shard has said, and after a pause where that was no news. Raises
    `DeadlineExceeded`.
    """
    watch = pool.health.watchdog.watch(conn, deadline, pool.health)
    try:
        sessions.guard(conn, [move.number for move in moves], at_once=at_once)
        return True
    except psycopg.errors.SerializationFailure:
        # The token was given away while it was waited for.
        return False
    except psycopg.Error as error:
        refusal = error
    finally:
        if not pool.health.watchdog.release(watch):
            conn.close()
    if monotonic() >= deadline:
        raise _overdue(pool, refusal)
    if conn.closed:
        pool.health.was_lost(refusal)
        raise refusals.unavailable(pool.shard, pool.endpoint, refusal)
    if not redirects.is_redirect(refusal):
        raise refusal
    _heed(fleet, refusal, deadline)
    return False


def _heed(fleet: Fleet, refusal: psycopg.Error, deadline: Deadline) -> None:
    move = _MOVE.search(refusal.diag.message_primary or "")
    owner_match = _OWNER.fullmatch(refusal.diag.message_detail or "")
    if move is not None and owner_match is not None and fleet.learn(int(move[1]), owner_match[1], int(owner_match[2])):
        return
    # The topology may be of another epoch by now.
    redirects.tell(fleet, refusal)
    sleep(min(random.uniform(_SOONEST, _LATEST), max(0.0, deadline - monotonic())))


def _overdue(pool: EndpointPool, refusal: BaseException) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"rows of shard {pool.shard} were being handed over to another until the deadline",
        shard=pool.shard,
        endpoint=pool.endpoint.name,
        phase="wait",
        detail=first_line(refusal),
        hint="Nothing was done. How far the move is says: shardpool move status",
    )
