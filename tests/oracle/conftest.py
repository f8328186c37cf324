"""The databases of the oracle, made once per worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from .fleet import Oracle, made


@pytest.fixture(scope="session")
def oracle(shardpool_fleet: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Oracle]:
    with made(shardpool_fleet.servers(), tmp_path_factory.mktemp("oracle")) as found:
        yield found


@pytest.fixture(scope="session")
def plain(oracle: Oracle) -> Iterator[psycopg.Connection[Any]]:
    with oracle.connect() as conn:
        yield conn


@pytest.fixture(scope="session")
def shuffled(oracle: Oracle) -> Iterator[psycopg.Connection[Any]]:
    with oracle.connect("shuffled") as conn:
        yield conn
