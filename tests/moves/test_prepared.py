"""A transaction over several shards that nobody has decided yet keeps the rows that it has written where they are."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic

import pytest

from shardpool import Router
from tests.timing import SLACK, not_after

from .fleet import Moves, connect, keys_of, own

pytestmark = pytest.mark.servers

KEYSPACES = """\
keyspaces:
  tenants: {key: bigint, hash: {buckets: 64, owners: {s0: 0-31, s1: 32-63}}, tables: {ledger: tenant_id}}
"""
SCHEMA = "create table ledger (tenant_id bigint primary key, version bigint not null)"
BEGIN = ["move", "tenants", "--buckets", "0-7", "--to", "s1", "--pause-limit", "20s"]
TRIGGERS = "select exists (select from pg_trigger where tgname = 'shardpool_guard_1_delete')"
TOKEN = "select owner from shardpool.token where move = 1"


def test_a_transaction_that_is_left_prepared_is_waited_for_and_named(
    make_moves: Callable[[str, str], Moves],
) -> None:
    moves = make_moves(KEYSPACES, SCHEMA)
    key = keys_of(moves.topology, "tenants", range(8), 1)[0]
    with Router(moves.path) as router:
        router.execute("insert into ledger values (%s, 1)", (key,))
    write = "update ledger set version = version + 1 where tenant_id = %s"
    end = monotonic() + 10 * SLACK
    with own(connect(moves.topology, "s0")) as waits, own(connect(moves.topology, "s0")) as router_gone:
        # A transaction that has begun to write, for which a replication slot waits: the move goes on when it has ended.
        router_gone.execute("begin")
        router_gone.execute("select pg_current_xact_id()")
        with moves.begin(*BEGIN) as process:
            while not moves.query("s0", TOKEN):
                not_after(end)
            # A unit of work as a router has it: the move has to wait for it, and hands nothing over before.
            waits.execute("select shardpool.guard_session(1)")
            router_gone.execute("rollback")
            while not moves.query("s0", TRIGGERS)[0][0]:
                not_after(end)
            router_gone.execute("set shardpool.epoch = 2147483647")
            router_gone.execute("begin")
            router_gone.execute(write, (key,))
            router_gone.execute("prepare transaction 'left behind'")
            router_gone.close()
            waits.close()
            _, told = process.communicate(timeout=300)
        assert process.returncode == 1 and "prepared transaction left behind" in told, told
    assert moves.query("s0", TOKEN) == moves.query("s1", TOKEN) == [("s0",)]
    # Another one past the routers, on the shard that has not got the rows: refused, and nothing is lost.
    with connect(moves.topology, "s1") as early, pytest.raises(Exception, match="is not on this shard"):
        own(early).execute("set shardpool.epoch = 2147483647")
        early.execute("insert into ledger values (%s, 9)", (key,))
    with connect(moves.topology, "s0") as recovery:
        recovery.execute("commit prepared 'left behind'")
    moves("move", "resume", "1", "--pause-limit", "20s")
    assert moves.query("s1", "select tenant_id, version from ledger") == [(key, 2)]
    moves("move", "finish", "1", "--pause-limit", "20s")
    assert moves.query("s0", "select * from ledger") == []
    assert moves.left("s0") == moves.left("s1") == {}
