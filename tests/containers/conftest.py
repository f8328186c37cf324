"""Tests on containers: they need a container engine and images, so that `make test` leaves them out.

`make compose-test` and `make test-docker` run them; without an engine they fail there. With
`SHARDPOOL_TEST_CONTAINERS=brief` what the engine does not do leaves a test out: `.ci/containers` runs some of them so.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .hosts import Hosts

WANTED = "SHARDPOOL_TEST_CONTAINERS"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if WANTED not in os.environ and collection_path.name.startswith("test_") else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    from .engine import EngineFailed

    report = yield
    if os.environ.get(WANTED) == "brief" and call.excinfo is not None and call.excinfo.errisinstance(EngineFailed):
        report.outcome = "skipped"
        report.longrepr = (str(item.path), 0, f"the container engine: {call.excinfo.value}")
    return report


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Fails where no engine answers."""
    from .engine import docker

    docker("info")


@pytest.fixture(scope="session")
def hosts(engine: None) -> Iterator[Hosts]:
    """Four servers that are hosts of their own."""
    from .hosts import Hosts

    made = Hosts()
    try:
        yield made
    finally:
        made.close()
