"""G1 to G3: what was acknowledged is there once, what was refused is not, and a read gives its key's rows."""

from __future__ import annotations

from contextlib import suppress
from threading import Event
from typing import Any

import psycopg
import pytest

from .calls import Calls
from .fleet import FaultFleet
from .processes import FAULTS
from .workload import Workload

# Two shards are ill at the same time, each in its own way.
PAIRS = [
    ("killed", "slow"),
    ("shut down", "reset"),
    ("crashed", "refused"),
    ("frozen", "another password"),
    ("no connection left", "unreachable"),
    ("cut before commit", "cut after insert"),
    ("cut after commit", "cut before insert"),
    ("black hole", "cut after commit"),
]
# Long enough for a server to be found again and to answer its callers.
_AFTER_SECONDS = 0.8
INSERT = "insert into ledger values (%s, %s)"


def test_every_fault_is_tried() -> None:
    assert {fault for pair in PAIRS for fault in pair} == set(FAULTS)


@pytest.mark.parametrize(("first", "second"), PAIRS)
def test_the_ledger_is_right_when_two_shards_are(
    first: str, second: str, fleet: FaultFleet, calls: Calls, seconds: float
) -> None:
    with Workload(calls, fleet.keys(10), callers=10, think=0.01) as workload:
        Event().wait(0.3)
        with FAULTS[first](fleet, "s1"), FAULTS[second](fleet, "s3"):
            Event().wait(seconds)
        Event().wait(_AFTER_SECONDS)
    assert workload.violations(fleet.rows()) == [], workload.account()
    # Else the fault has not met anybody, or nobody has written.
    assert any(call.shard == "s1" and not call.is_well for call in workload.calls)
    assert len(workload.ledger.acknowledged) > 30


def test_a_block_whose_transaction_has_failed_is_never_acknowledged(kind: str, fleet: FaultFleet, calls: Calls) -> None:
    (key,) = fleet.keys(1)["s0"]

    def swallows(conn: Any) -> None:
        conn.execute(INSERT, (key, 1))
        with suppress(psycopg.errors.DivisionByZero):
            conn.execute("select 1 / 0")

    async def swallows_in_task(conn: Any) -> None:
        await conn.execute(INSERT, (key, 1))
        with suppress(psycopg.errors.DivisionByZero):
            await conn.execute("select 1 / 0")

    route = calls.router.for_key(key)

    async def in_block(verb: Any) -> None:
        if kind == "sync":
            with verb() as conn:
                swallows(conn)
        else:
            async with verb() as conn:
                await swallows_in_task(conn)

    async def in_run() -> None:
        if kind == "sync":
            route.run(swallows)
        else:
            await route.run(swallows_in_task)

    for call in (in_block(route.transaction), in_run()):
        with pytest.raises(psycopg.errors.InFailedSqlTransaction):
            calls.go(call)
    # connection() means what psycopg's means: a transaction that has failed is rolled back without a word.
    calls.go(in_block(route.connection))
    assert not fleet.rows()["s0"]
    # The connection is as good as before, and a savepoint is the way to go on after an error.
    calls.go(calls.run(key, INSERT, (key, 2)))
    assert fleet.rows()["s0"] == {(key, 2): 1}
