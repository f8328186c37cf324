"""`snapshot(cut="strict")` sees no effect without its cause, whoever writes, and however far apart the shards are."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from shardpool import DeadlineExceeded, Router
from tests.timing import SLOW

from .fleet import FaultFleet
from .proxy import Delay

CHAIN = ("s0", "s1", "s2", "s3")
WRITERS = 2
# One row after another, each when the one before it is acknowledged; by psycopg alone, past all proxies.
_WRITER = """
import json, sys, time
import psycopg
pause, chain = json.load(sys.stdin)
conns = [psycopg.connect(conninfo, autocommit=True) for conninfo, _ in chain]
turn = 0
while True:
    turn += 1
    for conn, (_, key) in zip(conns, chain):
        conn.execute("update ledger set id = %s where tenant_id = %s", (turn, key))
    if turn == 1:
        print("writes", flush=True)
    time.sleep(pause)
"""


@contextmanager
def writing(fleet: FaultFleet, keys: dict[str, list[int]], pause: float) -> Iterator[None]:
    """Processes at work, each with a row of its own on each shard."""
    with ExitStack() as stack:
        processes = []
        for writer in range(WRITERS):
            chain = []
            for name in CHAIN:
                with fleet.connect(name) as conn:
                    chain.append((make_conninfo(conn.info.dsn, password=conn.info.password), keys[name][writer]))
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _WRITER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(process.kill)
            assert process.stdin is not None
            process.stdin.write(json.dumps((pause, chain)))
            process.stdin.close()
            processes.append(process)
        for process in processes:
            assert process.stdout is not None and process.stdout.readline() == "writes\n"
        yield


def effects_without_cause(router: Router, keys: dict[str, list[int]], cut: Any) -> int:
    """How many rows a snapshot sees that were written after one which it does not see."""
    with router.snapshot(cut=cut, timeout=SLOW) as snap:
        turn_by_key = dict(snap.execute("select tenant_id, id from ledger").rows)
    assert len(turn_by_key) == WRITERS * len(CHAIN)
    found = 0
    for writer in range(WRITERS):
        turns = [turn_by_key[keys[name][writer]] for name in CHAIN]
        found += sum(effect > cause for cause, effect in pairwise(turns))
    return found


@pytest.fixture
def keys(fleet: FaultFleet) -> dict[str, list[int]]:
    found = fleet.keys(WRITERS)
    with Router(fleet.topology(timeout=SLOW)) as router:
        rows = [(key, 0) for owned in found.values() for key in owned]
        router.copy_into("ledger", rows, columns=["tenant_id", "id"])
    return found


def test_no_effect_is_seen_without_its_cause(fleet: FaultFleet, keys: dict[str, list[int]]) -> None:
    with Router(fleet.topology(timeout=SLOW)) as router:
        router.wait(SLOW)
        with writing(fleet, keys, 0.002):
            assert [effects_without_cause(router, keys, "strict") for _ in range(15)] == [0] * 15
        # The last shard is opened later than the others, by more than it takes to write on all of them.
        fleet.proxies[CHAIN[-1]].set(Delay(0.02))
        with writing(fleet, keys, 0.0):
            assert [effects_without_cause(router, keys, "strict") for _ in range(3)] == [0] * 3
            assert sum(effects_without_cause(router, keys, "atomic") for _ in range(5)) > 0, "nothing was shown"


def test_who_writes_on_is_not_held_up_and_not_waited_for(fleet: FaultFleet, keys: dict[str, list[int]]) -> None:
    query = "select sum(id) from ledger"
    with Router(fleet.topology(timeout=SLOW)) as router, fleet.connect("s1") as other:
        other.execute("begin")
        other.execute("update ledger set id = 7")
        with router.snapshot(cut="strict") as snap:
            assert snap.execute(query).one() == (0,)
            router.execute("update ledger set id = 1 where tenant_id = %s", (keys["s0"][0],))
            other.execute("commit")
            assert snap.execute(query).one() == (0,)
        assert router.execute(query).one() == (1 + 7 * WRITERS,)
        with pytest.raises(ValueError, match="cut"):
            router.snapshot(cut="exact")  # type: ignore[arg-type]


def test_without_an_instant_it_ends_by_its_deadline(fleet: FaultFleet, keys: dict[str, list[int]]) -> None:
    """Somebody never ends, and the others never stand still."""
    fleet.proxies[CHAIN[-1]].set(Delay(0.02))
    with Router(fleet.topology(timeout=SLOW)) as router, fleet.connect("s1") as other:
        router.wait(SLOW)
        other.execute("begin")
        other.execute("lock table ledger in row exclusive mode")
        snapshot = router.snapshot(cut="strict", timeout=2)
        with writing(fleet, keys, 0.0), pytest.raises(DeadlineExceeded) as error, snapshot:
            pass
        assert "no instant was found" in str(error.value) and "lock timeout" in str(error.value)
        other.execute("rollback")
        assert router.execute("update ledger set id = 0").rowcount == WRITERS * len(CHAIN)
