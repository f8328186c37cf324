"""G5: every call, and every block with a deadline, ends by it, whatever has become of the server.

How many end within 100 ms of it is told by `make soak`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event
from time import monotonic
from typing import Any

import psycopg
import pytest

from shardpool import ShardpoolError
from tests.timing import SLACK

from .calls import Calls
from .fleet import FaultFleet
from .processes import FAULTS

LIMIT = 0.6
ALLOWED = SLACK * LIMIT
COUNT = "select count(*) from ledger"
SICK = "s1"
# More than all verbs together take, with the four callers of `map`.
POOL = 20

Verb = Callable[[Calls, dict[str, list[int]]], Awaitable[Any]]


def _items(keys: dict[str, list[int]]) -> list[int]:
    return [key for of_shard in keys.values() for key in of_shard[:3]]


VERBS: dict[str, Verb] = {
    "execute of a route": lambda calls, keys: calls.execute(keys[SICK][0], COUNT, timeout=LIMIT),
    "run": lambda calls, keys: calls.run(keys[SICK][0], COUNT, timeout=LIMIT),
    "connection": lambda calls, keys: calls.connection(keys[SICK][0], COUNT, block_timeout=LIMIT),
    "transaction": lambda calls, keys: calls.transaction(keys[SICK][0], COUNT, block_timeout=LIMIT),
    "execute of all shards": lambda calls, keys: calls.query(COUNT, timeout=LIMIT),
    "execute that merges": lambda calls, keys: calls.query("select id from ledger order by id", timeout=LIMIT),
    "execute that pulls": lambda calls, keys: calls.query(COUNT, timeout=LIMIT, strategy="pull"),
    "execute that writes": lambda calls, keys: calls.query("update ledger set id = id", timeout=LIMIT),
    "scatter": lambda calls, keys: calls.scatter(COUNT, timeout=LIMIT),
    "scatter of a function": lambda calls, keys: calls.scatter_function(COUNT, timeout=LIMIT),
    "stream": lambda calls, keys: calls.stream("select id from ledger order by id", timeout=LIMIT),
    "stream that pulls": lambda calls, keys: calls.stream(COUNT, timeout=LIMIT, strategy="pull"),
    "map": lambda calls, keys: calls.map(COUNT, _items(keys), timeout=LIMIT),
    "copy_into": lambda calls, keys: calls.copy_into([(key, 1) for key in _items(keys)], timeout=LIMIT),
}


@pytest.mark.parametrize("fault", ["frozen", "black hole"])
@pytest.mark.parametrize(
    "when", ["before the call", "in the call", "in the call, elsewhere", "before the first connection"]
)
def test_every_verb_ends_by_its_deadline(
    when: str, fault: str, fleet: FaultFleet, open_calls: Callable[..., Calls]
) -> None:
    calls = open_calls(fleet.topology(pool=f"{{max_size: {POOL}}}"))
    outcomes = _outcomes(calls, fleet, when, fault)
    surprises = {v: e for v, (_, e) in outcomes.items() if not isinstance(e, ShardpoolError | psycopg.Error)}
    assert not surprises
    late = {verb: round(seconds, 2) for verb, (seconds, _) in outcomes.items() if seconds > ALLOWED}
    assert not late, f"later than {ALLOWED} s"


def _outcomes(calls: Calls, fleet: FaultFleet, when: str, fault: str) -> dict[str, tuple[float, BaseException | None]]:
    """All verbs at once, on one sick shard: how long each took, and its error."""
    keys = fleet.keys(3)
    if when != "before the first connection":
        _warm(calls, keys)
    if when.startswith("in the call"):
        # Elsewhere: what waits for one shard has to be ended on those that are done, and frozen meanwhile.
        sick = [SICK] if when == "in the call" else [name for name in fleet.servers if name != SICK]
        with _locked(fleet), ExitStack() as stack:
            running = {verb: calls.spawn(_timed(call(calls, keys))) for verb, call in VERBS.items()}
            Event().wait(LIMIT / 3)
            for name in sick:
                stack.enter_context(FAULTS[fault](fleet, name))
            return {verb: future.result(20) for verb, future in running.items()}
    with FAULTS[fault](fleet, SICK):
        running = {verb: calls.spawn(_timed(call(calls, keys))) for verb, call in VERBS.items()}
        return {verb: future.result(20) for verb, future in running.items()}


def _warm(calls: Calls, keys: dict[str, list[int]]) -> None:
    """Have the catalog read, the plans known, and a connection for each verb made."""
    for call in VERBS.values():
        calls.go(_timed(call(calls, keys)))
    sleeps = [calls.execute(keys[SICK][0], "select pg_sleep(0.4)", timeout=5) for _ in range(POOL)]
    for future in [calls.spawn(sleep) for sleep in sleeps]:
        future.result(20)


async def _timed(call: Awaitable[Any]) -> tuple[float, BaseException | None]:
    begun = monotonic()
    try:
        await call
    except Exception as error:
        return monotonic() - begun, error
    return monotonic() - begun, None


@contextmanager
def _locked(fleet: FaultFleet) -> Iterator[None]:
    """Everything that touches the ledger of the sick shard waits."""
    with fleet.connect(SICK) as conn:
        conn.execute("begin; lock table ledger")
        yield
