"""A plan with its parameters: the shards that are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from ..errors import UnsupportedQuery, check_choice
from ..topology import Topology
from .pins import NOTHING, stored_value
from .plan import Copies, Gathered, Plan, Shipped, Split

Fanout = Literal["one", "some", "all"]
Strategy = Literal["combine", "pull"]


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a statement goes with these parameters.

    `strategy` is `one`, or the name of what is done with several shards. `shards` are those asked, none when any one
    will do; `shards_by_use` are those of each table, and `shards_by_row` those of the rows of VALUES where the plan
    divides them.
    """

    plan: Plan
    strategy: str
    shards: tuple[str, ...]
    shards_by_use: tuple[frozenset[str], ...] = ()
    shards_by_row: Sequence[str] = field(default=(), repr=False)

    @property
    def scattered(self) -> Gathered | Shipped | Split | None:
        """What is done with several shards."""
        return None if self.strategy == "one" else self.plan.scattered

    def describe(self) -> str:
        """The plan as text: strategy, shards, why nothing faster, and the SQL that each step runs."""
        from .describe import describe

        return describe(self)

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        from .describe import as_dict

        return as_dict(self)

    def __str__(self) -> str:
        return self.describe()


class Incomplete(Exception):
    """The plan concerns several shards, and it has not been made for that yet: see `planner.completed`."""


def bind(plan: Plan, topology: Topology, params: Sequence[Any]) -> Bound:
    """The shards that a plan asks with these parameters; raises the plan's refusal when they are several."""
    for kept in plan.kept:
        if not kept.holds(topology.keyspaces[kept.keyspace].key_types[kept.part], params):
            raise kept.refusal()
    rows: Sequence[str] = ()
    match plan.scattered:
        case Gathered(copies=Copies()):
            return Bound(plan, "write", tuple(topology.shards))
        case Split() as split:
            rows = _row_shards(split, topology, plan.read(params))
            by_use = [frozenset(rows), *(use.shards(topology, params) for use in plan.uses[1:])]
        case _:
            by_use = plan.shards_by_use(topology, params)
    touched = frozenset().union(*by_use)
    if len(touched) > 1:
        if not plan.is_complete:
            raise Incomplete
        if plan.refusal is not None:
            raise again(plan.refusal)
        if plan.root is not None:
            # The rows of every other table that matter are on the shards of this one's.
            touched = by_use[plan.root]
    order = tuple(name for name in topology.shards if name in touched)
    if len(order) <= 1 or plan.scattered is None:
        return Bound(plan, "one", order, tuple(by_use))
    return Bound(plan, plan.scattered.name, order, tuple(by_use), rows)


def _row_shards(split: Split, topology: Topology, params: Sequence[Any]) -> list[str]:
    """The shard of each row of an INSERT; a row without a key goes to the first: its server has to refuse NULL.

    Raises `KeyNotCovered`, and `InvalidKey` for a value whose place only the server could tell.
    """
    keyspace = topology.keyspaces[split.keyspace]
    types = keyspace.partitioning.key_types
    names = []
    for consts in split.keys:
        key = [stored_value(const, type_, params) for const, type_ in zip(consts, types, strict=True)]
        if any(part is NOTHING for part in key):
            names.append(next(iter(topology.shards)))
        else:
            bucket = keyspace.partitioning.bucket(key[0] if len(key) == 1 else tuple(key))
            names.append(keyspace.shard_by_bucket[bucket])
    return names


def again(error: UnsupportedQuery) -> UnsupportedQuery:
    """A refusal to be raised: a shared one would collect the tracebacks of all callers."""
    return UnsupportedQuery(error.message, detail=error.detail, hint=error.hint)


def check_options(fanout: Fanout | None, strategy: Strategy | None) -> None:
    """Raise `ValueError` for one that there is not."""
    check_choice("fanout", fanout, (None, *get_args(Fanout)))
    check_choice("strategy", strategy, (None, *get_args(Strategy)))


def check_atomic(bound: Bound) -> None:
    """Raise `UnsupportedQuery` for a write on several shards: it is one transaction on each, not one over all."""
    if bound.plan.writes and len(bound.shards) > 1:
        raise UnsupportedQuery(
            f"{bound.plan.verb} on {len(bound.shards)} shards is not atomic",
            detail=f"It would be one transaction on each of {', '.join(bound.shards)}.",
            hint="Write the rows of one partition key at a time, or leave out atomic=True.",
        )


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
