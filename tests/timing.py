"""Assertions about how long something took: on a machine that others use too, they are tried again before they fail."""

from __future__ import annotations

from time import monotonic


class Late(AssertionError):
    """Something took too long; the only failure after which a test is run again (see conftest.py)."""


def in_time(seconds: float | None, limit: float, what: str = "it took too long") -> None:
    """Fails unless it took at most `limit` seconds; None is what never came to pass."""
    if seconds is None or seconds > limit:
        told = "it never came to pass" if seconds is None else f"{seconds:.3f} s"
        raise Late(f"{what}: {told}, at most {limit:.3f} s")


def not_after(end: float, what: str = "it has not come about in time") -> None:
    """Fails once `time.monotonic()` is past `end`: for loops that wait for something."""
    if monotonic() > end:
        raise Late(what)
