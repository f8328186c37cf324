"""When something must have ended: an absolute time, never a number of seconds from now, which is a `timeout`."""

from __future__ import annotations

import warnings
from time import monotonic
from typing import Any, NewType

# In the seconds of `time.monotonic`.
Deadline = NewType("Deadline", float)
NEVER = Deadline(float("inf"))


def deadline_after(seconds: float) -> Deadline:
    """That many seconds from now."""
    # Not Deadline(…), a function in Python: on the path of every call.
    until: Any = monotonic() + seconds
    return until  # type: ignore[no-any-return]


def halfway(deadline: Deadline) -> Deadline:
    """When half of the time is over that is left until then."""
    return Deadline((monotonic() + deadline) / 2)


def block_deadline(block_timeout: float | None, deadline: float | None) -> Deadline | None:
    """When a block that begins now must have ended; `deadline` is what users called `block_timeout` before."""
    if deadline is not None:
        warnings.warn("deadline= of a block is called block_timeout=", DeprecationWarning, stacklevel=3)
        block_timeout = deadline if block_timeout is None else min(block_timeout, deadline)
    return None if block_timeout is None else deadline_after(block_timeout)
