"""A plan with its parameters: the shards that are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import UnsupportedQuery
from ..topology import Topology
from .plan import Gathered, Plan, Shipped

Fanout = Literal["one", "some", "all"]


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a statement goes with these parameters.

    `strategy` is `one`, or the name of what is done with several shards. `shards` are those asked, none when any one
    will do; `shards_by_use` are those of each table.
    """

    plan: Plan
    strategy: str
    shards: tuple[str, ...]
    shards_by_use: tuple[frozenset[str], ...] = ()

    @property
    def scattered(self) -> Gathered | Shipped | None:
        return None if self.strategy == "one" else self.plan.scattered


def bind(plan: Plan, topology: Topology, params: Sequence[Any]) -> Bound:
    """The shards that a plan asks with these parameters; raises the plan's refusal when they are several."""
    by_use = plan.shards_by_use(topology, params)
    touched = frozenset().union(*by_use)
    if len(touched) <= 1:
        if not touched and plan.writes:
            touched = frozenset(())
        return Bound(plan, "one", tuple(touched), tuple(by_use))
    if plan.refusal is not None:
        raise again(plan.refusal)
    assert plan.scattered is not None
    if plan.root is not None:
        touched = by_use[plan.root]
    if len(touched) <= 1:
        # The rows of every other table that matter are on the shards of this one's.
        return Bound(plan, "one", tuple(touched), tuple(by_use))
    order = tuple(name for name in topology.shards if name in touched)
    return Bound(plan, plan.scattered.name, order, tuple(by_use))


def again(error: UnsupportedQuery) -> UnsupportedQuery:
    """A refusal to be raised: a shared one would collect the tracebacks of all callers."""
    return UnsupportedQuery(error.message, detail=error.detail, hint=error.hint)


def check_fanout(bound: Bound, fanout: Fanout) -> None:
    """Raise `UnsupportedQuery` when more shards are asked than `fanout` allows."""
    if fanout == "all" or len(bound.shards) <= 1:
        return
    pinned = all(any(use.pins) or not use.keyspace for use in bound.plan.uses)
    if fanout == "some" and pinned:
        return
    raise UnsupportedQuery(
        f"the statement asks {len(bound.shards)} shards, and fanout={fanout!r} forbids it",
        detail="; ".join(map(str, bound.plan.uses)),
        hint="Filter every sharded table on its partition key, or allow it with fanout='all'.",
    )
