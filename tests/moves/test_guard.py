"""What the shards carry for moves, by itself: who works by which epoch, who has the token, who is refused.

Each order of events that once let a writer or a reader through is made to happen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from shardpool import load_topology
from shardpool.config import parse_topology
from shardpool.control import guard
from shardpool.topology import RunningMove
from tests.timing import SLACK, not_after

from .fleet import keys_of, own

pytestmark = pytest.mark.servers

KEYSPACES = """\
keyspaces:
  tenants: {key: bigint, hash: {buckets: 64, owners: {s0: 0-31, s1: 32-63}}, tables: {orders: tenant_id}}
single_tables: {audit: s0}
"""
SCHEMA = """\
create table orders (tenant_id bigint not null, n int not null, note text, primary key (tenant_id, n));
create table audit (n int primary key);
"""
RS001 = "RS001"
Connect = Callable[..., psycopg.Connection[Any]]


@pytest.fixture
def path(shardpool_make_topology: Callable[..., Path]) -> Path:
    return shardpool_make_topology(KEYSPACES, SCHEMA)


@pytest.fixture
def connect(path: Path) -> Iterator[Connect]:
    """Connections to s0, with an isolation level of their own where it is given; one is the mover's."""
    endpoint = load_topology(path).shards["s0"].primary
    assert endpoint.password_file is not None
    password = Path(endpoint.password_file).read_text()
    opened = []

    def make(isolation: str = "read committed", **more: str) -> psycopg.Connection[Any]:
        options = f"-c default_transaction_isolation={isolation.replace(' ', chr(92) + ' ')}"
        conninfo = make_conninfo("", **{**dict(endpoint.params), "password": password, "options": options, **more})
        opened.append(psycopg.connect(conninfo, autocommit=True))
        return opened[-1]

    yield make
    for conn in opened:
        conn.close()


def refused(conn: psycopg.Connection[Any], statement: str, params: Any = None) -> str:
    with pytest.raises(psycopg.Error) as caught:
        conn.execute(statement, params)
    return str(caught.value.sqlstate)


@contextmanager
def waiting(conn: psycopg.Connection[Any], statement: str, mover: psycopg.Connection[Any]) -> Iterator[list[str]]:
    """The statement in a thread; the block begins when it waits for a lock. Gives its SQLSTATE, or `ok`."""
    outcome: list[str] = []

    def run() -> None:
        try:
            conn.execute(statement)
            outcome.append("ok")
        except psycopg.Error as error:
            outcome.append(str(error.sqlstate))

    thread = Thread(target=run)
    thread.start()
    end = monotonic() + SLACK
    query = "select wait_event_type = 'Lock' from pg_stat_activity where pid = %s"
    while mover.execute(query, (conn.info.backend_pid,)).fetchone() != (True,):
        not_after(end)
    yield outcome
    thread.join(SLACK)
    assert not thread.is_alive()


def stale(mover: psycopg.Connection[Any], epoch: int, roles: tuple[str, ...] = ()) -> dict[int, int | None]:
    found = mover.execute(guard.STALE_SESSIONS, {"epoch": epoch, "roles": list(roles)}).fetchall()
    return {row[0]: row[6] for row in found}


# -- epochs -----------------------------------------------------------------------------------------------------------


def test_who_works_by_which_epoch_is_seen(connect: Connect) -> None:
    mover, first, second, undeclared = own(connect()), connect(), connect(), connect()
    first.execute(guard.DECLARE, (7,))
    second.execute(guard.DECLARE, (8,))
    pids = [conn.info.backend_pid for conn in (first, second, undeclared)]
    # The role is that of sessions that declare: whoever declares nothing under it is stale as well.
    assert stale(mover, 8) == {pids[0]: 7, pids[2]: None}
    assert stale(mover, 9) == {pids[0]: 7, pids[1]: 8, pids[2]: None}
    first.execute(guard.REDECLARE, (8, 7))
    assert stale(mover, 8) == {pids[2]: None}
    assert first.execute("show shardpool.epoch").fetchone() == ("8",)
    first.execute("discard all")
    assert pids[0] in stale(mover, 8)
    first.execute(guard.DECLARE, (8,))
    first.execute("select pg_advisory_unlock_all()")
    assert pids[0] in stale(mover, 8)
    for conn in (first, second):
        conn.close()
    undeclared.execute(guard.DECLARE, (8,))
    assert stale(mover, 8) == {}
    assert stale(mover, 8, ("somebody else",)) == {}


def test_a_session_that_holds_two_epochs_counts_by_the_older(connect: Connect) -> None:
    mover, session = own(connect()), connect()
    session.execute(guard.DECLARE, (7,))
    session.execute(guard.DECLARE, (8,))
    assert list(stale(mover, 8).values()) == [7]


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_a_session_is_turned_away_or_seen_in_either_order(connect: Connect, isolation: str) -> None:
    mover, session = own(connect()), connect(isolation)
    with session.pipeline() as pipeline:
        session.execute(guard.DECLARE, (7,))
        pipeline.sync()
        here = session.execute("select min_epoch from shardpool.meta")
        assert here.fetchone() == (0,)
    mover.execute(guard.RAISE_MIN_EPOCH, (8, 8))
    assert list(stale(mover, 8)) == [session.info.backend_pid]
    later = connect(isolation)
    with later.pipeline() as pipeline:
        later.execute(guard.DECLARE, (7,))
        pipeline.sync()
        assert later.execute("select min_epoch from shardpool.meta").fetchone() == (8,)
    mover.execute(guard.RAISE_MIN_EPOCH, (5, 5))
    assert mover.execute("select min_epoch from shardpool.meta").fetchone() == (8,)


def test_what_declares_inside_of_a_transaction_keeps_the_lock_when_it_is_rolled_back(connect: Connect) -> None:
    """Why routers redeclare between units of work only."""
    session = connect()
    session.execute(guard.DECLARE, (7,))
    with session.transaction(force_rollback=True):
        session.execute(guard.REDECLARE, (8, 7))
    assert session.execute("show shardpool.epoch").fetchone() == ("7",)
    held = session.execute("select objid::bigint from pg_locks where classid = 1936747624 and pid = pg_backend_pid()")
    assert held.fetchall() == [(8,)]


# -- the guard and the token ------------------------------------------------------------------------------------------


@pytest.fixture
def mover(connect: Connect) -> psycopg.Connection[Any]:
    conn = connect()
    conn.execute("insert into shardpool.token values (3, 's0', 1)")
    return conn


def hand_over(mover: psycopg.Connection[Any]) -> None:
    mover.execute("update shardpool.token set owner = 's1', epoch = 2 where move = 3")


def test_the_guard_lets_in_whom_the_token_names(connect: Connect, mover: psycopg.Connection[Any]) -> None:
    session = connect()
    for call in (guard.GUARD, guard.GUARD_READ, guard.GUARD_SESSION):
        session.execute(call, (3,))
    session.execute(guard.RELEASE_GUARD, (3,))
    hand_over(mover)
    for call in (guard.GUARD, guard.GUARD_READ, guard.GUARD_SESSION):
        with pytest.raises(psycopg.Error) as caught:
            session.execute(call, (3,))
        assert caught.value.sqlstate == RS001 and caught.value.diag.message_detail == "s1 2"
    # What no move knows is nobody's.
    assert refused(session, guard.GUARD, (4,)) == RS001
    held = "select count(*) from pg_locks where locktype = 'advisory' and classid = 1936747623"
    assert mover.execute(held).fetchone() == (0,), "a refused session keeps no lock"


@pytest.mark.parametrize("isolation", ["repeatable read", "serializable", "read committed"])
def test_a_guard_that_waited_for_the_hand_over_is_refused(
    connect: Connect, mover: psycopg.Connection[Any], isolation: str
) -> None:
    """Its snapshot is from before it waited: a plain look would still see the token here."""
    session = connect(isolation)
    session.execute("begin")
    with mover.transaction():
        mover.execute("select pg_advisory_xact_lock(1936747623, 3)")
        held = waiting(session, "select shardpool.guard(3)", connect())
        outcome = held.__enter__()
        hand_over(mover)
    held.__exit__(None, None, None)
    assert outcome == [RS001 if isolation == "read committed" else "40001"]


def test_the_hand_over_waits_for_units_sessions_and_prepared_transactions(
    connect: Connect, mover: psycopg.Connection[Any]
) -> None:
    unit, lent, prepared = connect(), connect(), connect()
    exclusive = "select pg_try_advisory_xact_lock(1936747623, 3)"
    unit.execute("begin")
    unit.execute(guard.GUARD, (3,))
    assert mover.execute(exclusive).fetchone() == (False,)
    unit.execute("commit")
    assert mover.execute(exclusive).fetchone() == (True,)
    lent.execute(guard.GUARD_SESSION, (3,))
    lent.execute("insert into orders values (1, 1)")
    assert mover.execute(exclusive).fetchone() == (False,)
    lent.execute(guard.RELEASE_GUARD, (3,))
    assert mover.execute(exclusive).fetchone() == (True,)
    prepared.execute("begin")
    prepared.execute(guard.GUARD, (3,))
    prepared.execute("insert into orders values (1, 2)")
    prepared.execute("prepare transaction 'undecided'")
    prepared.close()
    assert mover.execute(exclusive).fetchone() == (False,)
    mover.execute("rollback prepared 'undecided'")
    assert mover.execute(exclusive).fetchone() == (True,)


def test_a_row_that_moves_is_written_where_its_token_is_by_whoever_writes_it(
    path: Path, connect: Connect, mover: psycopg.Connection[Any]
) -> None:
    """Past the routers, or in a transaction that is prepared and left: the hand-over waits, or the row is refused."""
    topology = load_topology(path)
    move = RunningMove(3, "s0", "s1", "guarded", keyspace="tenants", buckets=((0, 31),))
    moving, staying = (keys_of(topology, "tenants", buckets, 1)[0] for buckets in (range(32), range(32, 64)))
    insert, delete = "insert into orders values (%s, %s, '')", "delete from orders where tenant_id = %s"
    raw, unit, later = connect(), connect(), connect("repeatable read")
    raw.execute(insert, (moving, 0))
    mover.execute(guard.row_guard(topology, move, "public.orders"))
    lock, unlock = "select pg_try_advisory_lock(1936747625, 3)", "select pg_advisory_unlock(1936747625, 3)"

    def is_free() -> bool:
        (free,) = mover.execute(lock).fetchone() or (None,)
        if free:
            mover.execute(unlock)
        return bool(free)

    # A session that holds the guard for itself, as routers do, may prepare what it has written.
    unit.execute(guard.GUARD_SESSION, (3,))
    for gid, statement, values in (
        ("left", insert, (moving, 1)),
        ("left", "update orders set note = 'x' where tenant_id = %s", (moving,)),
        ("left", delete, (moving,)),
    ):
        unit.execute("begin")
        unit.execute(statement, values)
        assert not is_free()
        unit.execute(f"prepare transaction '{gid}'")
        assert not is_free(), "nobody has decided it"
        raw.execute(f"rollback prepared '{gid}'")
        assert is_free()
    with raw.transaction():
        raw.execute(insert, (staying, 1))
        assert is_free(), "another row's"
    later.execute("begin")
    later.execute("select 1 from orders")
    mover.execute("select pg_advisory_lock(1936747625, 3)")
    with waiting(raw, f"insert into orders values ({moving}, 2, '')", mover) as outcome:
        hand_over(mover)
        mover.execute(unlock)
    assert outcome == [RS001]
    assert refused(later, insert, (moving, 3)) == "40001"
    later.execute("rollback")
    assert refused(unit, delete, (moving,)) == refused(unit, "update orders set note = ''") == RS001
    mover.execute(guard.lift_row_guard(move, "public.orders"))
    unit.execute(delete, (moving,))


def test_nothing_behind_a_refused_guard_is_done(connect: Connect, mover: psycopg.Connection[Any]) -> None:
    session = connect()
    hand_over(mover)
    with pytest.raises(psycopg.Error) as caught, session.pipeline():
        session.execute(guard.GUARD, (3,))
        session.execute("insert into orders values (1, 1)", prepare=False)
    assert caught.value.sqlstate == RS001
    assert mover.execute("select count(*) from orders").fetchone() == (0,)


def test_a_role_without_rights_on_the_token_may_guard(connect: Connect, mover: psycopg.Connection[Any]) -> None:
    mover.execute("create role shop_app; grant shop_app to current_user")
    try:
        for isolation in ("read committed", "repeatable read"):
            session = connect(isolation)
            session.execute("set role shop_app")
            for call in (guard.DECLARE, guard.GUARD, guard.GUARD_READ, guard.GUARD_SESSION, guard.RELEASE_GUARD):
                session.execute(call, (3,))
            session.execute(guard.REDECLARE, (4, 3))
            for forbidden in ("update shardpool.token set owner = 's1'", "select shardpool.check_token(3)"):
                assert refused(session, forbidden) == "42501"
            session.close()
    finally:
        mover.execute("drop role shop_app")


# -- fences -----------------------------------------------------------------------------------------------------------

WRITES = {
    "insert": "insert into orders values (1, 1)",
    "an update of no row": "update orders set note = 'x' where tenant_id = 4711",
    "a delete of no row": "delete from orders where tenant_id = 4711",
    "on conflict": "insert into orders values (1, 1) on conflict do nothing",
    "merge": "merge into orders using (values (4711)) as v (id) on tenant_id = id when matched then delete",
    "with": "with gone as (delete from orders where tenant_id = 4711 returning 1) select count(*) from gone",
}


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read"])
def test_a_stale_writer_is_refused_also_where_no_row_matches(connect: Connect, isolation: str) -> None:
    mover, none, old, new = connect(), connect(isolation), connect(isolation), connect(isolation)
    old.execute(guard.DECLARE, (16,))
    new.execute(guard.DECLARE, (17,))
    before = connect("repeatable read")
    before.execute("begin")
    before.execute("select count(*) from shardpool.meta")  # its snapshot is older than the fence
    mover.execute(guard.stale_fence("public.orders", 17))
    for what, statement in WRITES.items():
        assert refused(none, statement) == RS001, what
        assert refused(old, statement) == RS001, what
        with new.transaction(force_rollback=True):
            new.execute(statement)
    assert refused(before, WRITES["an update of no row"]) == RS001
    with pytest.raises(psycopg.Error) as caught, none.cursor().copy("copy orders from stdin") as copy:
        copy.write("1\t1\tx\n")
    assert caught.value.sqlstate == RS001
    assert none.execute("select count(*) from orders").fetchone() == (0,)
    mover.execute(guard.lift_stale_fence("public.orders"))
    none.execute(WRITES["insert"])


def test_a_fence_waits_for_who_writes_without_it(connect: Connect) -> None:
    mover, writer = connect(), connect()
    writer.execute("begin")
    writer.execute(WRITES["insert"])
    mover.execute("set lock_timeout = '50ms'")
    assert refused(mover, guard.stale_fence("public.orders", 17)) == "55P03"
    writer.execute("commit")
    mover.execute(guard.stale_fence("public.orders", 17))


def test_truncate_and_keys_that_leave_what_moves_are_refused(path: Path, connect: Connect) -> None:
    text = path.read_text() + (
        "moves:\n  - {number: 3, keyspace: tenants, buckets: 0-7, from: s0, to: s1, state: copying}\n"
        "  - {number: 4, table: audit, from: s0, to: s1, state: copying}\n"
    )
    topology = parse_topology(text, file=str(path), folder=path.parent)
    space = topology.keyspaces["tenants"]
    keys: dict[bool, list[int]] = {True: [], False: []}
    for key in range(200):
        keys[space.partitioning.bucket(key) in space.move_by_bucket].append(key)
    mover, session = connect(), connect()
    session.execute("insert into orders values (%s, 1), (%s, 2)", (keys[True][0], keys[False][0]))
    for table in ("public.orders", "public.audit"):
        mover.execute(guard.change_fence(topology, table, "s0"))
    assert refused(session, "truncate orders") == refused(session, "truncate audit") == RS001
    move = "update orders set tenant_id = %s where tenant_id = %s"
    assert refused(session, move, (keys[False][1], keys[True][0])) == RS001
    assert refused(session, move, (keys[True][1], keys[False][0])) == RS001
    session.execute(move, (keys[True][1], keys[True][0]))
    session.execute(move, (keys[False][1], keys[False][0]))
    session.execute("update orders set note = 'x'")
    for table in ("public.orders", "public.audit"):
        mover.execute(guard.lift_change_fence(table))
    session.execute("truncate orders, audit")
