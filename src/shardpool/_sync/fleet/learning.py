# Generated from _async/fleet/learning.py by tools/unasync.py: edit that one, then run `make sync`.
"""What the shards have published of the topology: a router whose file is older takes it over from them.

Asked on connections of its own, by whoever is at the addresses of the router's own topology: a server that says that it
is another shard, or of another fleet, has not answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import psycopg
from psycopg import Connection
from psycopg.rows import tuple_row

from ... import config
from ..._runtime.deadlines import Deadline, deadline_after
from ..._runtime.tasks import aside, run_all
from ...control.publication import DOCUMENT, EDITIONS
from ...errors import ShardUnavailable
from ...published import Edition, Published, agreed
from ...topology import Topology
from .dialer import Dialer

# Seconds that all shards together have for their answers.
_SECONDS = 3.0


def learned(dialer: Dialer, known: Topology) -> Published | None:
    """The newest topology after `known` that the shards agree on, or None. Raises `ConfigError` for one that is none.

    Shards that do not answer within some seconds are left out, if they are not too many: see `agreed`.
    """
    deadline = deadline_after(_SECONDS)
    return published(dialer, known, deadline, editions(dialer, known, deadline))


def editions(dialer: Dialer, known: Topology, deadline: Deadline) -> dict[str, Sequence[Edition]]:
    """What was published after `known`, by shard, of those that answer by the deadline (monotonic seconds)."""
    outcomes = run_all([partial(_editions, dialer, known, name, deadline) for name in known.shards])
    return {name: answer for name, (answer, _) in zip(known.shards, outcomes, strict=True) if answer is not None}


def published(
    dialer: Dialer, known: Topology, deadline: Deadline, editions: Mapping[str, Sequence[Edition]]
) -> Published | None:
    """The newest topology that shards agree on by what they have `told`; None when they do not, or none gives it."""
    for edition in agreed(editions, known):
        for name in editions:
            if any((mine.epoch, mine.digest) == (edition.epoch, edition.digest) for mine in editions[name]):
                text = _document(dialer, known, name, deadline, edition)
                if text is not None:
                    return Published(aside(partial(config.read_document, text)), edition.since)
    return None


def _editions(dialer: Dialer, known: Topology, name: str, deadline: Deadline) -> Sequence[Edition] | None:
    with dialer.dialed(known, name, deadline) as conn:
        rows = _rows(conn, EDITIONS, (known.epoch,))
    if not rows or rows[0][0] != known.fleet or name not in rows[0][1]:
        return None
    return [Edition(epoch, digest, _json(since)) for _, _, epoch, digest, since in rows if epoch is not None]


def _document(dialer: Dialer, known: Topology, name: str, deadline: Deadline, edition: Edition) -> str | None:
    """The text of an edition; None when the shard does not give it, or not any more."""
    try:
        with dialer.dialed(known, name, deadline) as conn:
            rows = _rows(conn, DOCUMENT, (edition.epoch, edition.digest))
    except (psycopg.Error, ShardUnavailable):
        return None
    return str(rows[0][0]) if rows else None


def _rows(conn: Connection[Any], query: str, params: Sequence[Any]) -> list[Any]:
    cursor = conn.cursor(row_factory=tuple_row)
    cursor.execute(query, params)
    return cursor.fetchall()


def _json(value: Any) -> Mapping[str, int]:
    """What a json column is, whether or not psycopg was told to leave it as text."""
    decoded = json.loads(value) if isinstance(value, str | bytes) else value
    return {str(name): int(epoch) for name, epoch in decoded.items()}
