"""G1 to G3: what was acknowledged is there once, what was refused is not, and a read gives its key's rows."""

from __future__ import annotations

from threading import Event

import pytest

from .calls import Calls
from .fleet import FaultFleet
from .processes import FAULTS
from .workload import Workload

# Long enough for a server to be found again and to answer its callers.
_AFTER_SECONDS = 1.0


@pytest.mark.parametrize("fault", FAULTS)
def test_the_ledger_is_right_when_a_shard_is(fault: str, fleet: FaultFleet, calls: Calls, seconds: float) -> None:
    with Workload(calls, fleet.keys(10), callers=10, think=0.01) as workload:
        Event().wait(0.3)
        with FAULTS[fault](fleet, "s1"):
            Event().wait(seconds)
        Event().wait(_AFTER_SECONDS)
    assert workload.violations(fleet.rows()) == [], workload.account()
    # Else the fault has not met anybody, or nobody has written.
    assert fault == "slow" or any(call.shard == "s1" and not call.is_well for call in workload.calls)
    assert len(workload.ledger.acknowledged) > 30
