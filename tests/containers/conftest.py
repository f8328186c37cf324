"""Tests on containers: they need a container engine and images, so that `make test` leaves them out.

`make compose-test` and `make test-docker` run them; without an engine they fail there.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

WANTED = "SHARDPOOL_TEST_CONTAINERS"


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    return True if WANTED not in os.environ and collection_path.name.startswith("test_") else None


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """Fails where no engine answers."""
    from .engine import docker

    docker("info")
