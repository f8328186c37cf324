"""One server's connections, shared by the pools of all endpoints that are on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..topology import Endpoint, Shard


def fewest(shards: Mapping[str, Shard]) -> int:
    """How many connections a server needs at least: one for each endpoint on it."""
    counts: dict[tuple[str, str], int] = {}
    for endpoint in _endpoints(shards):
        counts[_server(endpoint)] = counts.get(_server(endpoint), 0) + 1
    return max(counts.values(), default=0)


def shared(shards: Mapping[str, Shard], connections: int) -> dict[str, Shard]:
    """The shards with pools of which those on one server have so many connections together, at most.

    Each gets its share by its `max_size`, and at least one; there must be as many connections as endpoints.
    """
    wanted: dict[tuple[str, str], int] = {}
    counts: dict[tuple[str, str], int] = {}
    for endpoint in _endpoints(shards):
        server = _server(endpoint)
        wanted[server] = wanted.get(server, 0) + endpoint.pool.max_size
        counts[server] = counts.get(server, 0) + 1

    def fitted(endpoint: Endpoint) -> Endpoint:
        server = _server(endpoint)
        if wanted[server] <= connections:
            return endpoint
        # One for each, and of the rest its share of what was wanted beyond that.
        spare, beyond = connections - counts[server], wanted[server] - counts[server]
        size = 1 + (endpoint.pool.max_size - 1) * spare // beyond if beyond else 1
        pool = replace(endpoint.pool, max_size=size, min_size=min(endpoint.pool.min_size, size))
        return replace(endpoint, pool=pool)

    return {
        name: replace(shard, primary=fitted(shard.primary), replicas=tuple(map(fitted, shard.replicas)))
        for name, shard in shards.items()
    }


def _endpoints(shards: Mapping[str, Shard]) -> list[Endpoint]:
    return [endpoint for shard in shards.values() for endpoint in shard.endpoints]


def _server(endpoint: Endpoint) -> tuple[str, str]:
    host = endpoint.param("hostaddr") or endpoint.param("host") or endpoint.param("service")
    return {"127.0.0.1": "localhost", "::1": "localhost"}.get(host, host), endpoint.param("port", "5432")
