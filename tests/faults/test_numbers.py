"""The shard that numbers rows is away, or crashes: only rows that need a new block have to wait for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import pytest

from shardpool import Router, ShardError, Topology

from ..timing import in_time
from . import processes
from .fleet import FaultFleet

SQL = "insert into numbered (tenant_id) values (%s) returning id"


@pytest.fixture
def topology(fleet: FaultFleet) -> Iterator[Topology]:
    found = fleet.topology(timeout=2.0)
    space = found.keyspaces["tenants"]
    tables = {**space.tables, "public.numbered": ("tenant_id",)}
    found = replace(found, keyspaces={"tenants": replace(space, tables=tables)}, id_block=20)
    for name in fleet.servers:
        with fleet.connect(name) as conn:
            conn.execute("drop table if exists numbered")
            conn.execute("create table numbered (tenant_id bigint not null, id bigserial)")
            conn.execute("grant all on numbered, numbered_id_seq to app")
    yield found
    for name in fleet.servers:
        with fleet.connect(name) as conn:
            conn.execute("drop table numbered")


def test_only_rows_that_need_a_new_block_fail(fleet: FaultFleet, topology: Topology) -> None:
    key = fleet.keys(1)["s2"][0]
    with Router(topology) as router:
        found = [router.execute(SQL, [key], timeout=30).one()[0] for _ in range(5)]
        with processes.shut_down(fleet, "s0"):
            found += [router.execute(SQL, [key]).one()[0] for _ in range(15)]
            begun = monotonic()
            with pytest.raises(ShardError) as refused:
                router.execute(SQL, [key])
            in_time(monotonic() - begun, 2.0)
            assert refused.value.shard == "s0"
            assert "the next numbers of public.numbered_id_seq are to be had there only" in str(refused.value)
            router.execute("insert into numbered (tenant_id, id) values (%s, 100000)", [key])
        router.wait(30)
        found.append(router.execute(SQL, [key], timeout=30).one()[0])
    assert len(set(found)) == 21


def test_a_crash_brings_no_number_back(fleet: FaultFleet, topology: Topology) -> None:
    """Though the role does not wait for its commits, as nobody does who trusts one server to lose all or nothing."""
    key = fleet.keys(1)["s2"][0]
    many = f"insert into numbered (tenant_id) values {', '.join([f'({key})'] * 100)} returning id"
    with fleet.connect("s0") as conn:
        conn.execute("alter role app set synchronous_commit = off")
    try:
        found = []
        for _ in range(3):
            with Router(topology) as router:
                for _ in range(3):
                    found += router.execute(many, timeout=30).rows
                with processes.killed(fleet, "s0"):
                    pass
    finally:
        with fleet.connect("s0") as conn:
            conn.execute("alter role app reset synchronous_commit")
    assert len(set(found)) == 900
