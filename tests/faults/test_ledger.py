"""G1 to G3: what was acknowledged is there once, what was refused is not, and a read gives its key's rows."""

from __future__ import annotations

from threading import Event

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
