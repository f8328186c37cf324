# Generated from _async/route.py by tools/unasync.py: edit that one, then run `make sync`.
"""Routes, which are what a key leads to, and shards by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import StaleTopology
from ..result import Result
from . import planning
from .handle import Handle
from .lease import Params
from .shards import ShardPools

if TYPE_CHECKING:
    from .router import Router
    from .state import State


class Route(Handle):
    """The bucket of a key, and by it the shard that owns the key now.

    A route is made once per bucket and shared by all its keys. It may be kept: after a reload it follows its bucket to
    the new owner. When the bucket's keys have been divided since (a range split, a key pinned), the route can no longer
    know which of them it is for, and raises `StaleTopology`: ask the router for the key again. Only `execute` goes on,
    when the statement itself names the key.
    """

    __slots__ = ("_binding", "_keyspace")

    _follows_keys = True

    def __init__(self, router: Router, state: State, keyspace: str, bucket: int) -> None:
        self._router = router
        self._keyspace = keyspace
        # One tuple, replaced whole: another thread sees the old binding or the new one, never half of each.
        self._binding = state, bucket, state.owner(keyspace, bucket)

    def _divided(self, query: Any, params: Params | None, deadline: float) -> Handle | None:
        found = planning.planned(self._router, query, params, deadline)
        if not found.plan.uses or any(use.keyspace != self._keyspace for use in found.plan.uses):
            return None
        bound = planning.bound(self._router, found, params, deadline)
        return self._router.shard(bound.shards[0]) if bound.strategy == "one" and len(bound.shards) == 1 else None

    def _current_pools(self) -> ShardPools:
        if self._router._outdated.told:
            self._router._outdated.check(self._keyspace, self._router._state.topology)
        binding = self._binding
        if binding[0] is not self._router._state:
            binding = self._follow(self._router._state)
        return binding[2]

    def _follow(self, state: State) -> tuple[State, int, ShardPools]:
        """Find the own bucket again in a newer topology."""
        seen, bucket, _ = self._binding
        new = state.topology.keyspaces.get(self._keyspace)
        old = seen.topology.keyspaces[self._keyspace]
        found = None if new is None else old.partitioning.bucket_in(new.partitioning, bucket)
        if found is None:
            raise StaleTopology(
                f"bucket {bucket} of keyspace {self._keyspace} is no longer what it was",
                detail=f"epoch {state.topology.epoch} divides its keys otherwise than epoch {seen.topology.epoch}.",
                hint="Call for_key() again for the key.",
            )
        self._binding = binding = state, found, state.owner(self._keyspace, found)
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
        state, bucket, _ = self._binding
        return state.topology.keyspaces[self._keyspace].epoch_by_bucket[bucket]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._keyspace}/{self._binding[1]} on {self.shard}>"


class KeyRoute(Route):
    """The route of a key with a text that ends in spaces, which a `varchar(n)` may cut off when it stores them."""

    __slots__ = ("_key",)

    def __init__(self, router: Router, state: State, keyspace: str, bucket: int, key: Any) -> None:
        super().__init__(router, state, keyspace, bucket)
        self._key = key

    def _execute_until(self, query: Any, params: Params | None, deadline: float, **options: Any) -> Result:
        planning.refuse_cut(self._router, self._keyspace, self._key, query, deadline)
        return super()._execute_until(query, params, deadline, **options)


class ShardHandle(Handle):
    """A shard by name, with the verbs of a route."""

    __slots__ = ("_name",)

    def __init__(self, router: Router, name: str) -> None:
        self._router = router
        self._name = name

    def _current_pools(self) -> ShardPools:
        state = self._router._state
        state.topology.shard(self._name)
        return state.pools[self._name]

    @property
    def name(self) -> str:
        return self._name

    shard = name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"
