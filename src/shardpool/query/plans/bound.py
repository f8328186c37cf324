"""A plan with its parameters: the shards that are asked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from ...errors import InvalidKey, UnsupportedQuery
from ...keys import KeyType
from ...topology import Topology
from ..analysis.pins import NOTHING, AssignedKeys, KeyAssignment, stored_value
from ..choices import Fanout
from ..text.remembered import LONG
from .plan import Copies, Gathered, Plan, Rekeyed, Scattered, Split, Transferred, Use

_MEANING = {
    "one": "one shard runs the statement as it stands",
    "concatenate": "every shard answers for itself; the rows follow one another",
    "merge": "every shard answers in order; the rows are merged by their keys",
    "add": "every shard answers with one row; their values are added",
    "combine": "every shard makes a partial result; one shard puts them together",
    "pull": "the rows that the statement needs go to one shard, which runs it",
    "write": "every shard does its part, and all commit when all have done it",
    "split": "the rows are divided by their keys, and all shards commit when all have theirs",
    "number": "numbers of sequences are drawn, or a sequence is set on every shard, and the rest is planned with that",
    "lookup": "a look-up of the value tells its row's key; the shard of that key runs the statement",
    "rekey": "rows are deleted where they are, and inserted where their new key belongs, in one transaction",
    "make": "one shard makes the rows, or they are read: it is known then where they belong, and they are inserted",
}


_TIMED = "time of the transaction: told to all by one shard"


@dataclass(frozen=True, slots=True)
class Bound:
    """Where a statement goes with these parameters.

    `strategy` is `one`, or the name of what is done with several shards. `shards` are those asked, none when any one
    will do; `shards_by_use` are those of each table, and `shards_by_row` those of the rows of VALUES where the plan
    divides them. `buckets_by_shard` has, by shard and keyspace, the buckets whose rows are touched there; None when
    these are all that the shards own. `apart` says why a write on several shards is a transaction on each, and not one
    over all of them; empty when it is one, None where nobody has asked.
    """

    plan: Plan
    strategy: str
    shards: tuple[str, ...]
    shards_by_use: tuple[frozenset[str], ...] = ()
    shards_by_row: Sequence[str] = field(default=(), repr=False)
    buckets_by_shard: Mapping[str, Mapping[str, Set[int]]] | None = field(default=None, repr=False)
    apart: str | None = None

    @property
    def scattered(self) -> Scattered | None:
        """What is done with several shards."""
        return None if self.strategy == "one" else self.plan.scattered

    def describe(self) -> str:
        """The plan as text: strategy, shards, why nothing faster, and the SQL that each step runs."""
        return "\n".join(_lines(self))

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON-ready data."""
        data: dict[str, Any] = {
            "strategy": self.strategy,
            "verb": self.plan.verb,
            "writes": self.plan.writes,
            "shards": list(self.shards),
            "tables": [
                {"table": use.table, "keyspace": use.keyspace or None, "pins": str(use), "shards": sorted(shards)}
                for use, shards in zip(self.plan.uses, self.shards_by_use, strict=False)
            ],
            "reasons": list(self.plan.reasons) if self.strategy != "one" else [],
            "sql": self.plan.sql,
            "planned_aside": len(self.plan.sql) >= LONG,
        }
        if self.apart is not None:
            data["atomic"] = not self.apart
        if lost := _lost_order(self):
            data["order_lost_by"] = lost
        if self.strategy == "lookup" and self.plan.looked is not None:
            data["lookup"], data["final_sql"] = self.plan.looked.lookup.name, self.plan.looked.text
            return data
        match self.scattered:
            case Gathered() as plan:
                data["shard_sql"] = plan.sql
            case Rekeyed() as plan:
                data["shard_sql"], data["final_sql"] = plan.delete.sql, str(plan.finish)
            case Transferred() as plan:
                data["ships"] = [
                    {
                        "temp": transfer.temp,
                        "of": transfer.subject,
                        "sql": str(transfer.query),
                        "filters": list(map(str, transfer.filters)),
                    }
                    for transfer in plan.transfers
                ]
                data["final_sql"] = plan.final
        return data

    def __str__(self) -> str:
        return self.describe()


class Incomplete(Exception):
    """The plan concerns several shards, and it has not been made for that yet: see `planner.completed`."""


def bind(plan: Plan, topology: Topology, params: Sequence[Any]) -> Bound:
    """The shards that a plan asks with these parameters; raises the plan's refusal when they are several."""
    if plan.numbers is not None or plan.setting is not None:
        return Bound(plan, "number", ())
    changed = [
        assignment
        for assignment in plan.key_assignments
        if not assignment.holds(_key_type(assignment, topology), params)
    ]
    if changed:
        return _rekeyed(plan, changed, topology, params)
    rows: Sequence[str] = ()
    match plan.scattered:
        case Gathered(copies=Copies()):
            return Bound(plan, "write", tuple(topology.shards))
        case Split() as split:
            rows, of_rows = _row_shards(split, topology, plan.read(params))
            of_uses = [of_rows, *(use.buckets(topology, params) for use in plan.uses[1:])]
            others = zip(plan.uses[1:], of_uses[1:], strict=True)
            by_use = [frozenset(rows), *(use.shards_of(topology, buckets) for use, buckets in others)]
        case _:
            read = plan.read(params)
            of_uses = [use.buckets(topology, read) for use in plan.uses]
            by_use = [use.shards_of(topology, buckets) for use, buckets in zip(plan.uses, of_uses, strict=True)]
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
    if (len(order) <= 1 or plan.scattered is None) and not plan.is_always_made:
        return Bound(plan, "one", order, tuple(by_use), buckets_by_shard=_by_shard(plan, topology, of_uses))
    assert plan.scattered is not None
    name = plan.scattered.name
    return Bound(plan, name, order, tuple(by_use), rows, _by_shard(plan, topology, of_uses))


def _rekeyed(plan: Plan, changed: Sequence[KeyAssignment], topology: Topology, params: Sequence[Any]) -> Bound:
    """Where an UPDATE goes that gives rows another key: by their new one they may belong to the shard that has them."""
    if plan.rekeyed is None:
        raise changed[0].refusal()
    read = plan.read(params)
    old = [use.buckets(topology, read) for use in plan.uses]
    by_use = [use.shards_of(topology, buckets) for use, buckets in zip(plan.uses, old, strict=True)]
    after = _after(plan.uses[0], changed)
    new = None if after is None else _new_buckets(after, topology, read)
    # A shard lets no row of a bucket that moves become one of another by UPDATE.
    if after is not None and new is not None and not topology.keyspaces[after.keyspace].moves:
        staying = frozenset().union(*by_use, after.shards_of(topology, new))
        if len(staying) == 1:
            whole = replace(plan, uses=(*plan.uses, after))
            return Bound(whole, "one", tuple(staying), tuple(by_use), (), _by_shard(whole, topology, [*old, new]))
    if not by_use[0]:
        return Bound(plan, "one", (), tuple(by_use))
    if isinstance(plan.rekeyed, UnsupportedQuery):
        raise again(plan.rekeyed)
    order = tuple(name for name in topology.shards if name in by_use[0])
    return Bound(replace(plan, scattered=plan.rekeyed, check=None), plan.rekeyed.name, order, tuple(by_use))


def _after(use: Use, changed: Sequence[KeyAssignment]) -> Use | None:
    """The use of the rows as they become; None where their key is an expression."""
    pins = list(use.pins)
    for assignment in changed:
        if assignment.assigned is None:
            return None
        pins[assignment.part] = (AssignedKeys((assignment.assigned,)),)
    return replace(use, pins=tuple(pins))


def _new_buckets(after: Use, topology: Topology, params: Sequence[Any]) -> Set[int] | None:
    """The buckets of the rows as they become; None where that is not known, or some are the key of no shard."""
    try:
        return after.buckets(topology, params) or None
    except InvalidKey:
        return None


def _key_type(assignment: KeyAssignment, topology: Topology) -> KeyType:
    return topology.keyspaces[assignment.keyspace].key_types[assignment.part]


def _by_shard(
    plan: Plan, topology: Topology, of_uses: Sequence[Set[int] | None]
) -> dict[str, dict[str, set[int]]] | None:
    """By shard and keyspace the buckets of all uses; None when one of them has no bounds."""
    by_shard: dict[str, dict[str, set[int]]] = {}
    for use, buckets in zip(plan.uses, of_uses, strict=True):
        if not use.keyspace:
            continue
        if buckets is None:
            return None
        owners = topology.keyspaces[use.keyspace].shard_by_bucket
        for bucket in buckets:
            by_shard.setdefault(owners[bucket], {}).setdefault(use.keyspace, set()).add(bucket)
    return by_shard


def _row_shards(split: Split, topology: Topology, params: Sequence[Any]) -> tuple[list[str], set[int]]:
    """The shard of each row of an INSERT, and the buckets of all.

    A row without a key goes to the first shard: its server has to refuse NULL.

    Raises `KeyNotCovered`, and `InvalidKey` for a value whose place only the server could tell.
    """
    keyspace = topology.keyspaces[split.keyspace]
    types = keyspace.partitioning.key_types
    names, buckets = [], set()
    for consts in split.keys:
        key = [stored_value(const, type_, params) for const, type_ in zip(consts, types, strict=True)]
        if any(part is NOTHING for part in key):
            names.append(next(iter(topology.shards)))
        else:
            bucket = keyspace.partitioning.bucket(key[0] if len(key) == 1 else tuple(key))
            names.append(keyspace.shard_by_bucket[bucket])
            buckets.add(bucket)
    return names, buckets


def again(error: UnsupportedQuery) -> UnsupportedQuery:
    """A refusal to be raised: a shared one would collect the tracebacks of all callers."""
    return UnsupportedQuery(error.message, detail=error.detail, hint=error.hint)


def check_fanout(bound: Bound, fanout: Fanout) -> None:
    """Raise `UnsupportedQuery` when more shards are asked than `fanout` allows."""
    if fanout == "all" or (len(bound.shards) <= 1 and bound.strategy != "rekey"):
        return
    pinned = all(any(use.pins) or not use.keyspace for use in bound.plan.uses)
    if fanout == "some" and pinned:
        return
    raise UnsupportedQuery(
        f"the statement asks {_counted(bound)}, and fanout={fanout!r} forbids it",
        detail="; ".join(map(str, bound.plan.uses)),
        hint="Filter every sharded table on its partition key, or allow it with fanout='all'.",
    )


def _counted(bound: Bound) -> str:
    return f"{len(bound.shards)} shards{' and those of new keys' if bound.strategy == 'rekey' else ''}"


# -- the plan as text --------------------------------------------------------------------------------------------


def _lines(bound: Bound) -> Iterator[str]:
    yield f"strategy: {bound.strategy} ({_MEANING[bound.strategy]})"
    yield f"shards: {', '.join(bound.shards) or 'any one'}"
    for use, shards in zip(bound.plan.uses, bound.shards_by_use, strict=False):
        yield f"table {use} → {', '.join(sorted(shards)) or 'no shard: no row can match'}"
    if bound.strategy != "one":
        for reason in bound.plan.reasons:
            yield f"not faster because: {reason}"
    if bound.apart and bound.strategy == "rekey":
        yield f"transaction: refused where rows go to another shard, because: {bound.apart}"
    elif bound.apart:
        yield f"transaction: one on each shard, not one over all, because: {bound.apart}"
    elif bound.apart is not None:
        yield "transaction: one over all shards (two-phase commit)"
    lost = _lost_order(bound)
    if lost:
        yield f"order of the rows: none, as that of a sorted subquery ends at {lost}; ORDER BY outside gives them one"
    if len(bound.plan.sql) >= LONG:
        yield f"planned beside the event loop: the text has {len(bound.plan.sql):,} characters"
    yield from _steps(bound)


def _lost_order(bound: Bound) -> str:
    return bound.scattered.lost_order if isinstance(bound.scattered, Gathered | Transferred) else ""


def _steps(bound: Bound) -> Iterator[str]:
    if bound.plan.numbers is not None:
        yield f"numbers: {', '.join(f'{count} of {name}' for name, count in bound.plan.numbers.counts.items())}"
        yield f"SQL: {bound.plan.numbers.text}"
        return
    if bound.strategy == "lookup" and bound.plan.looked is not None:
        yield f"SQL of the look-up, by {bound.plan.looked.lookup.name}: {bound.plan.looked.query}"
        yield f"SQL of the shard of the row: {bound.plan.looked.text}"
        return
    if bound.plan.setting is not None:
        yield f"SQL of the value: {bound.plan.setting.values}"
        return
    match bound.scattered:
        case None:
            yield f"SQL: {bound.plan.sql}"
        case Gathered() as plan:
            finish = plan.copies.finish if plan.copies is not None else ""
            yield f"SQL of {'the first' if finish else 'each'} shard: {plan.sql}"
            if finish:
                yield f"SQL of the others, with the rows of the first: {finish}"
            for key in plan.sort:
                order = (
                    f"{'descending' if key.descending else 'ascending'}, NULL {'first' if key.nulls_first else 'last'}"
                )
                yield f"merge by: column {key.column + 1 if key.column >= 0 else key.column} ({key.decoder}), {order}"
            if plan.add:
                yield f"add: {', '.join(plan.add)}"
            if plan.limit is not None or plan.offset is not None:
                yield f"cut: limit {plan.limit or 'none'}, offset {plan.offset or 0}"
            if plan.timed is not None:
                yield _TIMED
        case Transferred() as plan:
            for transfer in plan.transfers:
                where = "".join(f" AND ({condition})" for condition in transfer.filters).replace(" AND", " WHERE", 1)
                subject = transfer.subject.removeprefix("public.")
                yield f"SQL of each shard, for {subject} → {transfer.temp}: {transfer.query}{where}"
            yield f"SQL of the one shard: {plan.final}"
        case Rekeyed() as plan:
            yield f"SQL of each shard: {plan.delete.sql}"
            if plan.delete.timed is not None:
                yield _TIMED
            yield f"SQL of the shards of the new keys: {plan.finish}"
        case Split() as plan:
            yield f"rows: {len(plan.keys)}, by their key in keyspace {plan.keyspace}"
            yield f"SQL: {bound.plan.sql}"
            if plan.timed is not None:
                yield _TIMED
