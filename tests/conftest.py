"""What holds for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import pytest
from _pytest.tmpdir import tmppath_result_key

from tests.timing import Late

# The commands that are tested write to pipes, and whoever reads those has not set it.
os.environ.pop("PYTHONUNBUFFERED", None)
# What a shell starts in the background ignores interrupts, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_set_filtered_exceptions() -> Sequence[type[Exception]]:
    """Only what came too late is tried again: whatever else fails once has failed."""
    return (Late,)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """`tmp_path` wants a report of each setup, and pytest-retry makes none of one that it repeats."""
    item.stash.setdefault(tmppath_result_key, {})
