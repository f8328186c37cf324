"""Connections to the two shards of a move, each for the time of one step."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from psycopg import sql

from ..operations.connections import Conn, Connections, connected, open_link
from ..topology import Topology

# Seconds that one step of a move may take on a server, but for copying, counting and waiting.
STEP = 30.0

__all__ = ["STEP", "Conn", "Connections", "ident", "link", "linked", "open_link"]


@asynccontextmanager
async def linked(topology: Topology, *shards: str, seconds: float = STEP) -> AsyncIterator[Connections]:
    """Connections in autocommit to the primaries of these shards; what is not done in time is cut off."""
    async with connected(dict.fromkeys(shards, topology), seconds) as conns:
        yield conns


@asynccontextmanager
async def link(topology: Topology, shard: str, *, seconds: float = STEP) -> AsyncIterator[Conn]:
    """A connection in autocommit to the primary of one shard."""
    async with linked(topology, shard, seconds=seconds) as conns:
        yield conns[shard]


def ident(name: str) -> str:
    """A name as SQL writes it."""
    return sql.Identifier(name).as_string(None)
