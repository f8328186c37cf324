# Generated from _async/routes.py by tools/unasync.py: edit that one, then run `make sync`.
"""Routes, which are what a key leads to: one for each bucket, and the look-ups that find it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any

import psycopg

from .._call import Call, Params
from .._runtime.deadlines import Deadline
from ..errors import MissingKey, RoutingError, StaleTopology
from ..keys import ends_in_space
from ..partitioning import make_lookup
from ..result import Result
from ..topology import qualified
from .fleet import redirects
from .fleet.shards import ShardPools
from .plans.later import Plans
from .work import autocommit
from .work.guarding import Buckets
from .work.handle import Handle, ShardHandle

if TYPE_CHECKING:
    from .fleet.fleet import Fleet
    from .fleet.snapshot import Snapshot


class Route(Handle):
    """The bucket of a key, and by it the shard that owns the key now.

    A route is made once per bucket and shared by all its keys. It may be kept: after a reload it follows its bucket to
    the new owner. When the bucket's keys have been divided since (a range split, a key pinned), the route can no longer
    know which of them it is for, and raises `StaleTopology`: ask the router for the key again. Only `execute` goes on,
    when the statement itself names the key.
    """

    __slots__ = ("_binding", "_keyspace", "_plans")

    _follows_keys = True

    def __init__(self, fleet: Fleet, plans: Plans, snapshot: Snapshot, keyspace: str, bucket: int) -> None:
        self._fleet = fleet
        self._plans = plans
        self._keyspace = keyspace
        # One tuple, replaced whole: another thread sees the old binding or the new one, never half of each.
        self._binding = snapshot, bucket, snapshot.owner(keyspace, bucket)

    def _divided(self, query: Any, params: Params | None, deadline: Deadline) -> Handle | None:
        planned = self._plans.planner.plan(query, params, deadline)
        if not planned.plan.uses or any(use.keyspace != self._keyspace for use in planned.plan.uses):
            return None
        bound = self._plans.planner.bind(planned, params, deadline)
        return ShardHandle(self._fleet, bound.shards[0]) if bound.strategy == "one" and len(bound.shards) == 1 else None

    def _current_pools(self) -> ShardPools:
        if self._fleet.newer_maps.told:
            self._fleet.newer_maps.check(self._keyspace, self._fleet.snapshot.topology)
        binding = self._binding
        if binding[0] is not self._fleet.snapshot:
            binding = self._follow(self._fleet.snapshot)
        return binding[2]

    def _buckets(self) -> Buckets | None:
        return {self._keyspace: (self._binding[1],)}

    def _follow(self, snapshot: Snapshot) -> tuple[Snapshot, int, ShardPools]:
        """Find the own bucket again in a newer topology."""
        seen, bucket, _ = self._binding
        new = snapshot.topology.keyspaces.get(self._keyspace)
        old = seen.topology.keyspaces[self._keyspace]
        same = None if new is None else old.partitioning.bucket_in(new.partitioning, bucket)
        if same is None:
            raise StaleTopology(
                f"bucket {bucket} of keyspace {self._keyspace} is no longer what it was",
                detail=f"epoch {snapshot.topology.epoch} divides its keys otherwise than epoch {seen.topology.epoch}.",
                hint="Call for_key() again for the key.",
            )
        self._binding = binding = snapshot, same, snapshot.owner(self._keyspace, same)
        return binding

    @property
    def keyspace(self) -> str:
        """The name of the keyspace."""
        return self._keyspace

    @property
    def bucket(self) -> int:
        """The number of the bucket, in the current topology."""
        self._current_pools()
        return self._binding[1]

    @property
    def shard(self) -> str:
        """The name of the shard that owns the bucket now."""
        return self._current_pools().name

    @property
    def epoch(self) -> int:
        """The epoch since which the shard owns the bucket."""
        self._current_pools()
        snapshot, bucket, _ = self._binding
        return snapshot.topology.keyspaces[self._keyspace].epoch_by_bucket[bucket]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._keyspace}/{self._binding[1]} on {self.shard}>"


class KeyRoute(Route):
    """The route of a key with a text that ends in spaces, which a `varchar(n)` may cut off when it stores them."""

    __slots__ = ("_key",)

    def __init__(self, fleet: Fleet, plans: Plans, snapshot: Snapshot, keyspace: str, bucket: int, key: Any) -> None:
        super().__init__(fleet, plans, snapshot, keyspace, bucket)
        self._key = key

    @staticmethod
    def _run_statement(
        fleet: Fleet, route: KeyRoute, query: Any, params: Params | None, deadline: Deadline, **options: Any
    ) -> Result:
        route._plans.planner.schema.refuse_cut(route._keyspace, route._key, query, deadline)
        return autocommit.run(fleet, route, query, params, deadline, **options)


Lookup = Callable[[Any], Route]


class RouteTable:
    """One route for each bucket of one snapshot, and the look-ups of keys. Immutable once it is made."""

    def __init__(self, fleet: Fleet, plans: Plans, snapshot: Snapshot) -> None:
        self._fleet = fleet
        self._plans = plans
        self.topology = snapshot.topology
        self.snapshot = snapshot
        self.routes = {
            keyspace.name: [
                Route(fleet, plans, snapshot, keyspace.name, bucket)
                for bucket in range(keyspace.partitioning.bucket_count)
            ]
            for keyspace in self.topology.keyspaces.values()
        }
        # For values that a statement compares a key with.
        self.by_keyspace: dict[str, Lookup] = {
            name: make_lookup(self.topology.keyspaces[name].partitioning, routes)
            for name, routes in self.routes.items()
        }
        # For keys that are given beside a statement, which is not looked into otherwise.
        self._minding = {name: self._minding_spaces(name, lookup) for name, lookup in self.by_keyspace.items()}
        self._by_table = self._lookups_by_table()
        self.lookup = self._default_lookup()

    def _minding_spaces(self, name: str, lookup: Lookup) -> Lookup:
        """The look-up, with routes of their own for texts that a column may store shorter than they are given."""
        if "text" not in self.topology.keyspaces[name].key_types:
            return lookup

        def minding(key: Any) -> Route:
            route = lookup(key)
            if not ends_in_space(key):
                return route
            snapshot, bucket, _ = route._binding
            return KeyRoute(self._fleet, self._plans, snapshot, name, bucket, key)

        return minding

    def _lookups_by_table(self) -> dict[str, Lookup]:
        lookups: dict[str, Lookup] = {}
        for keyspace in self.topology.keyspaces.values():
            for table in keyspace.tables:
                lookups[table] = self._minding[keyspace.name]
                if table.startswith("public."):
                    lookups[table.removeprefix("public.")] = lookups[table]
        return lookups

    def _default_lookup(self) -> Lookup:
        if self.topology.default_keyspace is not None:
            return self._minding[self.topology.default_keyspace.name]

        def lookup(key: Any) -> Route:
            self.topology.keyspace()
            raise MissingKey("no keyspace was named")

        return lookup

    def named(self, keyspace: str | None, table: str | None) -> Lookup:
        """The look-up of that keyspace or table; raises `UnknownKeyspace`, `UnknownTable`, `MissingKey`."""
        if keyspace is None and table is not None:
            lookup = self._by_table.get(table)
            if lookup is not None:
                return lookup
        return self._minding[self.topology.keyspace(keyspace, table=table and qualified(table)).name]


class Routes:
    """The table of routes in force, replaced whole with each snapshot. A route of an older one follows its bucket."""

    def __init__(self, fleet: Fleet, plans: Plans) -> None:
        self._fleet = fleet
        self._plans = plans
        self._put(RouteTable(fleet, plans, fleet.snapshot))

    def _put(self, table: RouteTable) -> None:
        self.table = table
        # Of a key whose keyspace is not named.
        self.lookup = table.lookup

    def before_swap(self, snapshot: Snapshot) -> Callable[[], None]:
        """Make the table of a snapshot; what this gives puts it in force."""
        return partial(self._put, RouteTable(self._fleet, self._plans, snapshot))

    def of_key(self, key: Any, keyspace: str | None, table: str | None) -> Route:
        """See `Router.for_key`."""
        if keyspace is None and table is None:
            return self.lookup(key)
        return self.table.named(keyspace, table)(key)

    def execute(self, call: Call, key: Any, keyspace: str | None, table: str | None) -> Result:
        """Run one statement on the shard of a key, wherever that is by then."""
        query, params, deadline = call.query, call.params, call.deadline
        options: dict[str, Any] = {"readonly": call.readonly, "binary": call.binary, "row_factory": call.row_factory}
        while True:
            in_force = self.table
            route = self.of_key(key, keyspace, table)
            try:
                try:
                    return route._run_statement(self._fleet, route, query, params, deadline, **options)
                except psycopg.DatabaseError as error:
                    return route._execute_elsewhere(error, query, params, deadline, **options)
            except StaleTopology as error:
                # Its bucket was divided since the look-up.
                if not redirects.is_worth_again(self._fleet, in_force.snapshot, error, deadline):
                    raise

    def of_keys(self, keys: Iterable[Any], keyspace: str | None, table: str | None) -> dict[str, list[Any]]:
        """See `Router.for_keys`."""
        lookup = self.table.named(keyspace, table)
        keys_by_shard: dict[str, list[Any]] = {}
        for key in keys:
            keys_by_shard.setdefault(lookup(key).shard, []).append(key)
        return keys_by_shard

    def of_range(self, low: Any, high: Any, keyspace: str | None, table: str | None) -> list[Route]:
        """See `Router.for_range`."""
        in_force = self.table
        of = in_force.topology.keyspace(keyspace, table=table)
        if not of.partitioning.is_ordered:
            raise RoutingError(
                f"keyspace {of.name} is not divided by range",
                hint="Use for_keys() for single keys, or scatter() to ask every shard.",
            )
        routes = in_force.routes[of.name]
        return [routes[bucket] for bucket in of.partitioning.buckets_between(low, high)]

    def shards(
        self, shards: Iterable[str] | None, keys: Iterable[Any] | None, keyspace: str | None, table: str | None
    ) -> list[str]:
        """The shards that are named, or that own one of the keys, or all.

        In the order of the topology: two scatters always take them in the same order.
        """
        topology = self._fleet.topology
        if shards is not None:
            wanted = set(shards)
            for name in wanted:
                topology.shard(name)
        elif keys is not None:
            wanted = set(self.of_keys(keys, keyspace, table))
        else:
            wanted = set(topology.shards)
        return [name for name in topology.shards if name in wanted]
