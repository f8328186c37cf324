"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Sequence

from tests.timing import Late

# The commands that are tested write to pipes, and whoever reads those has not set it.
os.environ.pop("PYTHONUNBUFFERED", None)


def pytest_set_filtered_exceptions() -> Sequence[type[Exception]]:
    """Only what came too late is tried again: whatever else fails once has failed."""
    return (Late,)
