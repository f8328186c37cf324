"""What holds for all tests."""

from __future__ import annotations

from collections.abc import Sequence

from tests.timing import Late


def pytest_set_filtered_exceptions() -> Sequence[type[Exception]]:
    """Only what came too late is tried again: whatever else fails once has failed."""
    return (Late,)
