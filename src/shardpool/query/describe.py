"""A bound plan as text for people, and as data for machines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .bound import Bound
from .plan import Gathered, Shipped, Split
from .remembered import LONG

_MEANING = {
    "one": "one shard runs the statement as it stands",
    "concatenate": "every shard answers for itself; the rows follow one another",
    "merge": "every shard answers in order; the rows are merged by their keys",
    "add": "every shard answers with one row; their values are added",
    "combine": "every shard makes a partial result; one shard puts them together",
    "pull": "the rows that the statement needs go to one shard, which runs it",
    "write": "one transaction on each shard, all committed when all have done their part; not one over all of them",
    "split": "the rows are divided by their keys; one transaction on each shard, not one over all of them",
}


_TIMED = "time of the transaction: told to all by one shard"


def describe(bound: Bound) -> str:
    """The plan, one fact on each line."""
    return "\n".join(_lines(bound))


def _lines(bound: Bound) -> Iterator[str]:
    yield f"strategy: {bound.strategy} ({_MEANING[bound.strategy]})"
    yield f"shards: {', '.join(bound.shards) or 'any one'}"
    for use, shards in zip(bound.plan.uses, bound.shards_by_use, strict=False):
        yield f"table {use} → {', '.join(sorted(shards)) or 'no shard: no row can match'}"
    if bound.strategy != "one":
        for reason in bound.plan.reasons:
            yield f"not faster because: {reason}"
    lost = _lost_order(bound)
    if lost:
        yield f"order of the rows: none, as that of a sorted subquery ends at {lost}; ORDER BY outside gives them one"
    if len(bound.plan.sql) >= LONG:
        yield f"planned beside the event loop: the text has {len(bound.plan.sql):,} characters"
    yield from _steps(bound)


def _lost_order(bound: Bound) -> str:
    return bound.scattered.lost_order if isinstance(bound.scattered, Gathered | Shipped) else ""


def _steps(bound: Bound) -> Iterator[str]:
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
        case Shipped() as plan:
            for ship in plan.ships:
                where = "".join(f" AND ({found})" for found in ship.filters).replace(" AND", " WHERE", 1)
                subject = ship.subject.removeprefix("public.")
                yield f"SQL of each shard, for {subject} → {ship.temp}: {ship.query}{where}"
            yield f"SQL of the one shard: {plan.final}"
        case Split() as plan:
            yield f"rows: {len(plan.keys)}, by their key in keyspace {plan.keyspace}"
            yield f"SQL: {bound.plan.sql}"
            if plan.timed is not None:
                yield _TIMED


def as_dict(bound: Bound) -> dict[str, Any]:
    """The plan as JSON-ready data."""
    found: dict[str, Any] = {
        "strategy": bound.strategy,
        "verb": bound.plan.verb,
        "writes": bound.plan.writes,
        "shards": list(bound.shards),
        "tables": [
            {"table": use.table, "keyspace": use.keyspace or None, "pins": str(use), "shards": sorted(shards)}
            for use, shards in zip(bound.plan.uses, bound.shards_by_use, strict=False)
        ],
        "reasons": list(bound.plan.reasons) if bound.strategy != "one" else [],
        "sql": bound.plan.sql,
        "planned_aside": len(bound.plan.sql) >= LONG,
    }
    if lost := _lost_order(bound):
        found["order_lost_by"] = lost
    match bound.scattered:
        case Gathered() as plan:
            found["shard_sql"] = plan.sql
        case Shipped() as plan:
            found["ships"] = [
                {"temp": ship.temp, "of": ship.subject, "sql": str(ship.query), "filters": list(map(str, ship.filters))}
                for ship in plan.ships
            ]
            found["final_sql"] = plan.final
    return found
