"""What one shard says of its tables, functions and settings when it is asked."""

from __future__ import annotations

import json
from collections.abc import Set
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg.rows import tuple_row

from ..._call import Params
from ..._runtime.deadlines import Deadline
from ...control.catalog import BODIES_QUERY, BUILT_IN_QUERY, CATALOG_QUERY, MARK_QUERY, facts, further
from ...query.plans.planned import Adapted
from ..work.handle import AsyncShardHandle

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet


class Fingerprint(NamedTuple):
    """What tables and functions, and what sequences are known by."""

    schema: str
    sequences: str


class AsyncSchemaReader:
    """Asks shards, and keeps of their connections how values are written there, and in which encoding texts are."""

    def __init__(self, fleet: AsyncFleet) -> None:
        self._fleet = fleet
        self.adapted = Adapted(psycopg.adapters)
        self.encoding = "utf-8"
        # The shard that was asked last for its catalog.
        self.asked = ""

    async def facts(
        self, name: str, deadline: Deadline, *, readonly: bool = False
    ) -> tuple[dict[str, Any], Fingerprint]:
        """What a shard says of the tables of the topology, `asked` being their names, and the fingerprint of that."""
        self.asked = name
        tables = list(self._fleet.snapshot.topology.placements)
        told = await self._ask(name, CATALOG_QUERY, [tables], deadline, readonly=readonly)
        answers = {
            key: await self._ask(name, query, params, deadline, readonly=readonly)
            for key, (query, params) in further(told, tables).items()
        }
        found = facts(told, answers)
        found["asked"] = set(tables)
        return found, Fingerprint(*found.pop("mark"))

    async def fingerprint(self, name: str, deadline: Deadline, *, readonly: bool) -> Fingerprint:
        """What a shard's catalog is known by, as it is now."""
        tables = list(self._fleet.snapshot.topology.placements)
        return Fingerprint(*await self._ask(name, MARK_QUERY, [tables], deadline, readonly=readonly))

    async def built_in(self, name: str, deadline: Deadline) -> list[Any]:
        """The functions, operators and types of a server that every server of its version has."""
        built_in: list[Any] = await self._ask(name, BUILT_IN_QUERY, None, deadline)
        return built_in

    async def bodies(self, name: str, functions: Set[str], deadline: Deadline) -> Any:
        """The bodies of these functions."""
        return await self._ask(name, BODIES_QUERY, [sorted(functions)], deadline)

    async def _ask(
        self, name: str, query: str, params: Params | None, deadline: Deadline, *, readonly: bool = False
    ) -> Any:
        result = await AsyncShardHandle(self._fleet, name)._execute(
            query, params, deadline, readonly=readonly, row_factory=tuple_row
        )
        transformer = result._transformer
        self.adapted, self.encoding = Adapted(transformer.adapters), transformer.encoding
        # As it came: what the callers' loaders make of a text is theirs.
        (told,) = next(iter(result.raw()))
        return json.loads(bytes(told or b"null").decode(transformer.encoding))
