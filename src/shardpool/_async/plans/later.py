"""The planner, made when it is first needed: to import what knows SQL takes as long as to import psycopg."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...control.alike_settings import AlikeSettings

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet
    from .planner import AsyncPlanner


class AsyncPlans:
    """The planner of a fleet, whose `schema` this is until there is one."""

    def __init__(self, fleet: AsyncFleet) -> None:
        self._fleet = fleet
        self._planner: AsyncPlanner | None = None
        self._alike = AlikeSettings()
        self._lock = threading.Lock()

    @property
    def planner(self) -> AsyncPlanner:
        """The one planner of the fleet."""
        return self._planner or self._made()

    def _made(self) -> AsyncPlanner:
        from .planner import AsyncPlanner
        from .schema_cache import AsyncSchemaCache

        with self._lock:
            if self._planner is None:
                schema = AsyncSchemaCache(self._fleet, self._alike)
                self._planner = AsyncPlanner(self._fleet, schema)
                self._fleet.schema = schema
            return self._planner

    def changed(self) -> None:
        """Nothing is known that DDL could have made wrong."""

    def may_write(self, query: Any) -> bool:
        """Whether a statement may write."""
        return self.planner.schema.may_write(query)

    def check_settings(self, settings_by_shard: Mapping[str, Any]) -> bool:
        """Whether sessions of these shards read and write alike."""
        return self._alike.check(settings_by_shard, {}, "")

    def start_afresh(self) -> None:
        """In a forked child, which has not got the threads."""
        self._lock = threading.Lock()

    def stop(self) -> None:
        """Nobody waits."""
