"""Assertions about how long something took, with bounds that no busy machine reaches.

How long something takes to the tenth of a second is measured where both sides run side by side: `make bench` and
`make soak`. A test only tells that something ends, rather than hangs, waits for a timeout of the system, or takes the
square of its work.
"""

from __future__ import annotations

from time import monotonic

# What is promised on a quiet machine, and what a machine makes of it that others use as well.
SLACK = 10
# The deadline, in seconds, of what comes before a test's own subject, such as the first plan: no machine needs it all.
SLOW = 30.0


def in_time(seconds: float | None, promised: float, what: str = "it took too long") -> None:
    """Fails unless it took at most ten times the seconds that are `promised`; None is what never came to pass."""
    told = "it never came to pass" if seconds is None else f"{seconds:.3f} s"
    assert seconds is not None and seconds <= SLACK * promised, f"{what}: {told}, promised are {promised:.3f} s"


def not_after(end: float, what: str = "it has not come about in time") -> None:
    """Fails once `time.monotonic()` is past `end`: for loops that wait for something."""
    assert monotonic() <= end, what
