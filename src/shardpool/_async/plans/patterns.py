"""Plans of statements that differ in literals only: the second of them makes a pattern for all that come."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..._endpoint.session import expect_quiet
from ..._endpoint.session_sql import dirties
from ..._runtime.plan_cache import PlanCache
from ...query.plans.patterns import Pattern, fixed, pattern
from ...query.plans.planned import Planned, exact_types
from ...query.text.literals import Literals
from ...topology import Topology

if TYPE_CHECKING:
    from .schema_cache import AsyncSchemaCache

_FRAMES_MAX, _FRAMES_CHARACTERS = 1024, 1_000_000
# Of one text without its literals: where those differ that have to be the same, every statement is another.
_PATTERNS_MAX = 8


class _Made(NamedTuple):
    pattern: Pattern | None
    reading: Mapping[str, str | None] | None
    is_quiet: bool
    # The types of values whose place the fast look-up tells.
    exact: tuple[type, ...]


class _Frame:
    """What is known of texts that are the same without their literals."""

    def __init__(self) -> None:
        # The numbers of the literals that may be others, and the patterns by the values of the rest.
        self.numbers: tuple[int, ...] = ()
        self.made: dict[tuple[Any, ...], _Made] = {}


class AsyncPatterns:
    """The patterns of a router's statements, for one topology and one generation of what the shards have told."""

    def __init__(self) -> None:
        self._frames: PlanCache[_Frame] = PlanCache(_FRAMES_MAX, _FRAMES_CHARACTERS)
        self._topology: Topology | None = None
        self._generation = 0

    def planned(self, sql: str, found: Literals, topology: Topology, schema: AsyncSchemaCache) -> Planned | None:
        """The plan of a statement, of a pattern that there is. No I/O."""
        frame = self._frames.get(found.frame)
        if frame is None or topology is not self._topology or schema.generation != self._generation:
            return None
        made = frame.made.get(fixed(frame.numbers, found.values))
        if made is None or made.pattern is None:
            return None
        like = Planned(made.pattern.filled(sql, found.values), None, topology, schema.generation)
        like.reading = made.reading
        if made.pattern.key is not None:
            like.keyspace, like.place = made.pattern.key
            like.exact = made.exact
            like.values, like.count = found.values, len(found.values)
        if made.is_quiet:
            expect_quiet(sql)
        return like

    def learn(self, sql: str, found: Literals, planned: Planned, schema: AsyncSchemaCache) -> None:
        """Make a pattern of a statement that was planned, if there was another like it before. No I/O."""
        if planned.topology is not self._topology or planned.generation != self._generation:
            self._frames.clear()
            self._topology, self._generation = planned.topology, planned.generation
        frame, catalog = self._frames.get(found.frame), schema.catalog
        if frame is None:
            self._frames.keep(found.frame, _Frame(), len(found.frame))
        elif catalog is not None and len(frame.made) < _PATTERNS_MAX:
            made = pattern(sql, found, planned.plan, planned.topology, catalog)
            if made is not None:
                frame.numbers = made.numbers
            key = fixed(frame.numbers, found.values)
            exact = () if made is None or made.key is None else exact_types(planned.topology, made.key[0])
            frame.made[key] = _Made(made, planned.reading, not dirties(sql), exact)
