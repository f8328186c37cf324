"""PostgreSQL servers on this machine, for as long as the benchmarks run."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from shardpool.local import LocalFleet


@contextmanager
def local_servers(count: int) -> Iterator[list[str]]:
    """The conninfo of each, as a superuser."""
    fleet = LocalFleet.up(f"bench-{os.getpid()}", shards=count, settings={"shared_buffers": "128MB"})
    try:
        yield [server.dsn("postgres", "postgres") for server in fleet.servers]
    finally:
        fleet.down()
