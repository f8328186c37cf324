"""Fleets whose databases can be dropped after a test, whatever became of its moves.

`make moves` runs all tests of moves; `make test` leaves out those that take minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shardpool.testing import EmbeddedFleet, Fleet

from .fleet import Moves

LONG = {
    "test_kinds.py",
    "test_prepared.py",
    "test_refusals.py",
    "test_servers.py",
    "test_side_by_side.py",
    "test_under_load.py",
}
WANTED = "SHARDPOOL_TEST_MOVES"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if WANTED not in os.environ and collection_path.name in LONG else None


@pytest.fixture
def make_moves(
    shardpool_fleet: Fleet, shardpool_make_topology: Callable[..., Path]
) -> Iterator[Callable[[str, str], Moves]]:
    """`make(keyspaces, schema)`: the commands on a new fleet."""
    made = []
    # Before version 16 only superusers subscribe.
    for server in shardpool_fleet.fleet.servers if isinstance(shardpool_fleet, EmbeddedFleet) else ():
        with server.connect() as conn:
            if conn.info.server_version < 160000:
                conn.execute("alter role app superuser")

    def make(keyspaces: str, schema: str) -> Moves:
        made.append(Moves(shardpool_make_topology(keyspaces, schema)))
        return made[-1]

    yield make
    for moves in made:
        moves.end_streams()
