"""Moves from their begin to their end, on real servers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shardpool import Router, RouterMisuse
from shardpool.reshard import MoveOptions, Progress
from tests.timing import SLOW

from .fleet import Moves, connect, keys_of

pytestmark = pytest.mark.servers

KEYSPACES = f"""\
defaults: {{timeout: {SLOW:g}s}}
keyspaces:
  tenants: {{key: bigint, hash: {{buckets: 64, owners: {{s0: 0-31, s1: 32-63}}}}, tables: {{orders: tenant_id}}}}
single_tables: {{audit: s0}}
"""
SCHEMA = """\
create table orders (tenant_id bigint not null, n int not null, note text, primary key (tenant_id, n));
create table audit (n int primary key);
"""


@pytest.fixture
def moves(make_moves: Callable[[str, str], Moves]) -> Moves:
    return make_moves(KEYSPACES, SCHEMA)


def fill(moves: Moves, count: int = 400) -> list[int]:
    """Rows of so many keys, each on its shard."""
    topology = moves.topology
    space = topology.keyspaces["tenants"]
    found: dict[str, list[int]] = {shard: [] for shard in space.shard_names()}
    for key in range(count):
        found[space.shard_by_bucket[space.partitioning.bucket(key)]].append(key)
    for shard, keys in found.items():
        with connect(topology, shard) as conn, conn.cursor() as cursor:
            query = "insert into orders select %s, n, 'x' from generate_series(1, 3) as n"
            cursor.executemany(query, [(key,) for key in keys])
    return list(range(count))


def test_a_router_moves_buckets_while_it_is_open(moves: Moves) -> None:
    """Its own sessions hear of each state by the file that it follows: nobody has to be ended."""
    fill(moves)
    said: list[Progress] = []
    moving = keys_of(moves.topology, "tenants", range(8), 20)
    with Router(moves.path, reload_interval=0.1) as router:
        assert router.for_key(moving[0], table="orders").execute("select count(*) from orders").one()[0] > 0
        move = router.moves.plan("tenants", buckets=range(8), to="s1")
        (number,) = router.moves.make(move, MoveOptions(pause_limit=20.0, straggler_seconds=60.0), progress=said.append)
        assert moves.topology.moves[number].state == "moved"
        assert moves.topology.keyspaces["tenants"].shard_by_bucket[0] == "s1"
        count = "select count(*) from orders where tenant_id = any(%s)"
        assert moves.query("s0", count, (moving,)) == moves.query("s1", count, (moving,)) == [(60,)]
        steps = [progress.step for progress in said]
        assert [step for step in steps if step in ("compared", "handed over", "moved")] == [
            "compared",
            "handed over",
            "moved",
        ]
        (status,) = router.moves.status()
        assert (status.step, status.owner, status.is_made) == ("moved", "s1", False)
        assert router.moves.verify(number).differences == ()
        router.reload()
        router.for_key(moving[0], table="orders").execute("update orders set note = 'later' where n = 1")
        router.moves.finish(number, MoveOptions(straggler_seconds=60.0))
        assert moves.query("s0", count, (moving,)) == [(0,)] and moves.query("s1", count, (moving,)) == [(60,)]
        router.reload()
        assert router.execute("select count(*) from orders").one() == (1200,)
    assert moves.left("s0") == moves.left("s1") == {}
    assert not moves.topology.moves


def test_a_router_without_a_file_has_no_moves(moves: Moves) -> None:
    with Router(moves.topology) as router, pytest.raises(RouterMisuse, match="topology file"):
        router.moves  # noqa: B018
