"""What a router is at one moment: the topology, a route for every bucket, and the pools. Swapped whole."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from .._plan_cache import PlanCache
from .._watchdog import AsyncWatchdog
from ..errors import MissingKey
from ..keys import ends_in_space
from ..partitioning import make_lookup
from ..topology import Topology, qualified
from .connector import AsyncConnectOptions
from .pools import AsyncEndpointPool
from .route import AsyncKeyRoute, AsyncRoute
from .shards import AsyncShardPools

if TYPE_CHECKING:
    from .planning import Planned
    from .router import AsyncRouter

# A plan takes up to forty times the memory of its text.
_PLANS_MAX, _PLANNED_CHARACTERS = 2048, 4_000_000
Lookup = Callable[[Any], AsyncRoute]


class AsyncState:
    """Immutable once it is made; everything that a look-up of a key needs is made here, beforehand."""

    def __init__(self, router: AsyncRouter, topology: Topology, pools: dict[str, AsyncShardPools]) -> None:
        self.topology = topology
        self.made_at = monotonic()
        self.pools = pools
        # SQL without a key, by its text: see `planning`.
        self.plans: PlanCache[Planned] = PlanCache(_PLANS_MAX, _PLANNED_CHARACTERS)
        self.routes = {
            keyspace.name: [
                AsyncRoute(router, self, keyspace.name, bucket) for bucket in range(keyspace.partitioning.bucket_count)
            ]
            for keyspace in topology.keyspaces.values()
        }
        self.lookup_by_keyspace: dict[str, Lookup] = {
            name: make_lookup(topology.keyspaces[name].partitioning, routes) for name, routes in self.routes.items()
        }
        # For keys that are given beside a statement, which is not looked into otherwise.
        self._lookup_by_keyspace = {
            name: self._minding_spaces(router, name, lookup) for name, lookup in self.lookup_by_keyspace.items()
        }
        self.lookup_by_table: dict[str, Lookup] = self._lookups_by_table()
        self.lookup = self._default_lookup()

    def _minding_spaces(self, router: AsyncRouter, name: str, lookup: Lookup) -> Lookup:
        """The look-up, with routes of their own for texts that a column may store shorter than they are given."""
        if "text" not in self.topology.keyspaces[name].key_types:
            return lookup

        def minding(key: Any) -> AsyncRoute:
            route = lookup(key)
            if not ends_in_space(key):
                return route
            state, bucket, _ = route._binding
            return AsyncKeyRoute(router, state, name, bucket, key)

        return minding

    def owner(self, keyspace: str, bucket: int) -> AsyncShardPools:
        return self.pools[self.topology.keyspaces[keyspace].shard_by_bucket[bucket]]

    def _lookups_by_table(self) -> dict[str, Lookup]:
        found: dict[str, Lookup] = {}
        for keyspace in self.topology.keyspaces.values():
            for table in keyspace.tables:
                found[table] = self._lookup_by_keyspace[keyspace.name]
                if table.startswith("public."):
                    found[table.removeprefix("public.")] = found[table]
        return found

    def _default_lookup(self) -> Lookup:
        if len(self._lookup_by_keyspace) == 1:
            return next(iter(self._lookup_by_keyspace.values()))

        def lookup(key: Any) -> AsyncRoute:
            self.topology.keyspace()
            raise MissingKey("no keyspace was named")

        return lookup

    def lookup_named(self, keyspace: str | None, table: str | None) -> Lookup:
        """The look-up of that keyspace or table; raises `UnknownKeyspace`, `UnknownTable`, `MissingKey`."""
        if keyspace is None and table is not None:
            found = self.lookup_by_table.get(table)
            if found is not None:
                return found
        return self._lookup_by_keyspace[self.topology.keyspace(keyspace, table=table and qualified(table)).name]


def open_pools(
    topology: Topology,
    options: AsyncConnectOptions,
    watchdog: AsyncWatchdog,
    old: dict[str, AsyncShardPools] | None = None,
) -> dict[str, AsyncShardPools]:
    """The pools of a topology: those of `old` go on where nothing but the size of a pool has changed."""
    return {
        name: AsyncShardPools(topology, shard, options, watchdog, (old or {}).get(name))
        for name, shard in topology.shards.items()
    }


def retired_pools(old: dict[str, AsyncShardPools], new: dict[str, AsyncShardPools]) -> list[AsyncEndpointPool]:
    """The endpoint pools of `old` that are not among those of `new`."""
    kept = {id(endpoint) for shard in new.values() for endpoint in shard.endpoints}
    return [endpoint for shard in old.values() for endpoint in shard.endpoints if id(endpoint) not in kept]
