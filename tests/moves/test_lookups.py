"""Rows whose values are unique over the fleet move, and so do the entries of the values."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shardpool import Router
from shardpool.operations import check_lookups, create_lookups, repair_lookups
from shardpool.reshard import MoveOptions

from ..timing import SLOW
from .fleet import Moves

pytestmark = pytest.mark.servers

OWNERS = "hash: {buckets: 64, owners: {s0: 0-31, s1: 32-63}}"
KEYSPACES = f"""\
defaults: {{timeout: {SLOW:g}s}}
keyspaces:
  people: {{key: bigint, {OWNERS}, tables: {{users: id}}}}
  emails: {{key: text, {OWNERS}, lookup: {{users.email: unique}}}}
"""
SCHEMA = "create table users (id bigint primary key, email text)"


def test_rows_and_entries_move_and_lead_to_each_other(make_moves: Callable[[str, str], Moves]) -> None:
    moves = make_moves(KEYSPACES, SCHEMA)
    asyncio.run(create_lookups(moves.topology, timeout=SLOW))
    asyncio.run(repair_lookups(moves.topology, orphans=False))
    options = MoveOptions(pause_limit=20.0, straggler_seconds=60.0)
    with Router(moves.path, reload_interval=0.1) as router:
        router.execute("insert into users select n, 'u' || n from generate_series(1, 200) n")
        for keyspace in ("people", "emails"):
            move = router.moves.plan(keyspace, buckets=range(24), to="s1")
            (number,) = router.moves.make(move, options)
            # The source still has copies.
            router.reload()
            router.execute("update users set email = 'v' || id where id % 10 = 0")
            router.execute("delete from users where email = 'u1' or email = 'u2'")
            router.execute("insert into users values (1, 'u1'), (2, 'u2')")
            router.moves.finish(number, options)
            router.reload()
            router.execute("update users set email = 'u' || id where id % 10 = 0")
        for key in (1, 2, 10, 77, 200):
            assert router.execute("select id from users where email = %s", (f"u{key}",)).rows == [(key,)]
    (report,) = asyncio.run(check_lookups(moves.topology))
    assert report.ok and report.rows == report.entries == 200
