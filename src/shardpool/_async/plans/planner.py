"""`execute` without a key: from the SQL to a plan, cached by its text, and from the parameters to the shards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial as bind_arguments
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import sql

from ..._call import Params
from ..._runtime.deadlines import Deadline
from ..._runtime.plan_cache import PlanCache
from ..._runtime.tasks import async_aside
from ...errors import RoutingError, UnsupportedQuery
from ...events import LongPlan
from ...query.analysis import catalog as catalogs
from ...query.merge.merging import NotHere
from ...query.plans import effects
from ...query.plans.bound import Bound, Incomplete, bind
from ...query.plans.exclusion import without_copies
from ...query.plans.plan import Plan
from ...query.plans.planned import Planned
from ...query.plans.planner import completed
from ...query.plans.planner import plan as make_plan
from ...query.text.calls import converted as convert_placeholders
from ...query.text.literals import literals
from ...query.text.reading import as_read, depends_on
from ...query.text.remembered import LONG
from ...topology import Topology
from .patterns import AsyncPatterns
from .schema_cache import AsyncSchemaCache

if TYPE_CHECKING:
    from ..fleet.fleet import AsyncFleet

T = TypeVar("T")

# A plan takes up to forty times the memory of its text.
_PLANS_MAX, _PLANNED_CHARACTERS = 2048, 4_000_000


class AsyncPlanner:
    """Plans of statements by their texts, each for one topology and one generation of what the shards have told."""

    def __init__(self, fleet: AsyncFleet, schema: AsyncSchemaCache) -> None:
        self._fleet = fleet
        self.schema = schema
        self._plans: PlanCache[Planned] = PlanCache(_PLANS_MAX, _PLANNED_CHARACTERS)
        self._patterns = AsyncPatterns()

    async def plan(
        self,
        query: Any,
        params: Params | None,
        deadline: Deadline,
        strategy: str | None = None,
        new: frozenset[str] = frozenset(),
    ) -> Planned:
        """The plan of a statement, kept by its text for as long as topology and schema hold.

        An INSERT gives the columns `new` numbers that no row has.
        """
        key, topology = (query, params is None, strategy, new), self._fleet.snapshot.topology
        kept = self._plans.get(key) if type(query) is str else None
        # `_kept` written out: on the path of every statement without a key.
        if kept is not None and kept.topology is topology and kept.generation == self.schema.generation:
            return kept
        is_plain = params is None and strategy is None and not new
        found = literals(query) if is_plain and type(query) is str and len(query) < LONG else None
        if found is not None and (like := self._patterns.planned(query, found, topology, self.schema)) is not None:
            return like
        await self.schema.current(deadline)
        text, converted = convert_placeholders(await self.as_text(query, deadline), params is not None)
        if type(query) is str and (kept := self._kept(key, topology)) is not None:
            # Made by another who has waited for the catalog, too.
            return kept
        generation = self.schema.generation
        plan = await self._made(text, topology, deadline, new)
        planned = Planned(plan, converted, topology, generation, self.schema.reader.adapted.foreign)
        planned.reading = {name: self.schema.settings.get(name) for name in depends_on(text)} or None
        if type(query) is str and generation == self.schema.generation:
            self._plans.keep(key, planned, len(text))
            if found is not None:
                self._patterns.learn(text, found, planned, self.schema)
        return planned

    async def without_copies(self, query: Any, params: Params | None, deadline: Deadline) -> str | None:
        """The text, with `$n`, that all shards are sent while rows are on two of them; None for the query itself."""
        topology = self._fleet.topology
        catalog = await self.schema.current(deadline)
        text, _ = convert_placeholders(await self.as_text(query, deadline), params is not None)
        changed = without_copies(text, topology, catalog)
        return None if changed == text else changed

    def _kept(self, key: Any, topology: Topology) -> Planned | None:
        planned = self._plans.get(key)
        if planned is None or planned.topology is not topology or planned.generation != self.schema.generation:
            return None
        return planned

    async def as_text(self, query: Any, deadline: Deadline) -> str:
        """The text of a query that is planned, and run: psycopg's objects are written as its connections do."""
        if isinstance(query, str):
            return query
        await self.schema.current(deadline)
        if isinstance(query, sql.Composable):
            return query.as_bytes(self.schema.reader.adapted).decode()
        if isinstance(query, bytes):
            return query.decode(self.schema.reader.encoding)
        raise UnsupportedQuery(
            f"a query of type {type(query).__name__} cannot be routed by its tables",
            hint="Pass str, bytes or a psycopg.sql object, or give key=….",
        )

    async def instead(
        self, query: Any, params: Params | None, deadline: Deadline, reason: Exception
    ) -> tuple[Planned, Bound]:
        """The plan that takes the place of one whose answer was not quite right, or could not be put together here.

        It is kept for the next calls unless the reason was in the parameters of this one.
        """
        strategy = "combine" if isinstance(reason, NotHere) else "pull"
        found = await self.plan(query, params, deadline, strategy)
        if type(query) is str and getattr(reason, "lasting", True):
            self._plans.keep((query, params is None, None, frozenset()), found, len(query))
        return found, await self.bind(found, params, deadline, strategy)

    async def _made(self, text: str, topology: Topology, deadline: Deadline, new: frozenset[str] = frozenset()) -> Plan:
        """A new plan. Nothing is refused by an old catalog."""
        while True:
            catalog = await self.schema.current(deadline)
            try:
                text = as_read(text, catalog.settings)
                return await self._tell_if_long(text, bind_arguments(make_plan, text, topology, catalog, new))
            except catalogs.NeedsShard as needed:
                await self.schema.add_shard(catalog, needed.shard, deadline)
            except catalogs.NeedsBodies as needed:
                await self.schema.add_bodies(catalog, needed.names, deadline)
            except (RoutingError, UnsupportedQuery, psycopg.errors.UndefinedFunction):
                if not await self.schema.refreshed(deadline):
                    raise

    async def refuse_effects_of_load(self, table: str, columns: Sequence[str], deadline: Deadline) -> None:
        """Raise `UnsupportedQuery` where loading rows into a table may write rows that lie elsewhere."""
        while True:
            catalog = await self.schema.current(deadline)
            try:
                effects.refuse_effects_of_load(table, columns, self._fleet.topology, catalog)
                return
            except catalogs.NeedsShard as needed:
                await self.schema.add_shard(catalog, needed.shard, deadline)
            except catalogs.NeedsBodies as needed:
                await self.schema.add_bodies(catalog, needed.names, deadline)
            except UnsupportedQuery:
                if not await self.schema.refreshed(deadline):
                    raise

    async def _tell_if_long(self, text: str, make: Callable[[], Plan]) -> Plan:
        begun = monotonic()
        made = await beside(text, make)
        if len(text) >= LONG:
            self._fleet.observers.observe(LongPlan(characters=len(text), seconds=monotonic() - begun))
        return made

    async def bind(
        self, found: Planned, params: Params | None, deadline: Deadline, strategy: str | None = None
    ) -> Bound:
        """The shards that the statement asks with these parameters; `OtherMap` when keys are known to be elsewhere."""
        if self._fleet.newer_maps.told:
            for use in found.plan.uses:
                self._fleet.newer_maps.check(use.keyspace, self._fleet.topology)
        topology, values = found.topology, found.arrange(params)
        while True:
            try:
                try:
                    return await beside(found.plan.sql, bind_arguments(bind, found.plan, topology, values))
                except Incomplete:
                    catalog = await self.schema.current(deadline)
                    text = found.plan.sql
                    complete = bind_arguments(completed, text, topology, catalog, strategy=strategy)
                    found.plan = await self._tell_if_long(text, complete)
            except (UnsupportedQuery, psycopg.errors.UndefinedFunction):
                if found.plan.verb != "SELECT" or not await self.schema.refreshed(deadline):
                    raise
                found.plan = await self._made(found.plan.sql, topology, deadline)


async def beside(text: str, function: Callable[[], T]) -> T:
    """What a function makes of a text; of a long one in a thread: the event loop goes on."""
    return await async_aside(function) if len(text) >= LONG else function()
