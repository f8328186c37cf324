"""What of a sharded table holds on each shard only and not over the fleet, and what may store another key. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from .own_sql import qualified
from .report import Finding
from .storing import ENFORCED, RULES, TRIGGERS, UNIQUE, Trigger, triggers
from .topology import Sharded, Topology

# By table: what is unique, the columns that a sequence numbers and how, triggers, rules, generated columns, and whether
# the shard refuses rows that are not its own.
STORED_FACTS = qualified(f"""
    with named as (
        select t.name, pg_catalog.to_regclass(
                   pg_catalog.quote_ident(pg_catalog.split_part(t.name, '.', 1)) || '.' ||
                   pg_catalog.quote_ident(pg_catalog.split_part(t.name, '.', 2))) as oid
        from pg_catalog.unnest(%s::pg_catalog.text[]) t (name)
    )
    select n.name, {UNIQUE.format(table="n.oid")},
        (select pg_catalog.json_agg(pg_catalog.json_build_array(
                    a.attname, s.seqincrement, s.seqstart, s.seqmin, s.seqmax) order by a.attnum)
         from pg_catalog.pg_attribute a
         left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         left join pg_catalog.pg_sequence s on s.seqrelid = pg_catalog.to_regclass(
             pg_catalog.pg_get_serial_sequence(n.oid::pg_catalog.regclass::pg_catalog.text, a.attname::pg_catalog.text))
         where a.attrelid = n.oid and a.attnum > 0 and not a.attisdropped
           and (a.attidentity <> '' or case when a.attgenerated = '' then
                    pg_catalog.starts_with(pg_catalog.pg_get_expr(d.adbin, 0), 'nextval(') end)),
        {TRIGGERS.format(table="n.oid")}, {RULES.format(table="n.oid")},
        (select pg_catalog.json_agg(a.attname) from pg_catalog.pg_attribute a
         where a.attrelid = n.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated <> ''),
        {ENFORCED.format(table="n.oid")}
    from named n where n.oid is not null
""")


@dataclass(frozen=True, slots=True)
class Numbering:
    """How a sequence numbers a column; all 0 where that is not known."""

    column: str
    increment: int
    start: int
    lowest: int
    highest: int


@dataclass(frozen=True, slots=True)
class Stored:
    """One sharded table on one shard."""

    unique: tuple[tuple[str, frozenset[str | None]], ...] = ()
    numbered: tuple[Numbering, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    rules: tuple[str, ...] = ()
    generated: frozenset[str] = frozenset()
    enforced: bool = False


def stored_facts(rows: Iterable[Sequence[Any]]) -> dict[str, Stored]:
    """The rows of `STORED_FACTS` by table."""
    return {
        name: Stored(
            tuple((index, frozenset(held or ())) for index, held in unique or ()),
            tuple(Numbering(column, *(number or 0 for number in numbers)) for column, *numbers in numbered or ()),
            triggers(told),
            tuple(rules or ()),
            frozenset(generated or ()),
            enforced,
        )
        for name, unique, numbered, told, rules, generated, enforced in rows
    }


def stored_findings(topology: Topology, stored_by_shard: Mapping[str, Mapping[str, Stored]]) -> Iterator[Finding]:
    """What is to be known of the sharded tables, told once for all shards that have been reached."""
    for table, placement in topology.placements.items():
        if isinstance(placement, Sharded):
            found = {shard: facts[table] for shard, facts in stored_by_shard.items() if table in facts}
            if found:
                yield from _table_findings(table.removeprefix("public."), placement.key_columns, found)


def _table_findings(table: str, key: tuple[str, ...], found: Mapping[str, Stored]) -> Iterator[Finding]:
    first = next(iter(found.values()))
    for index, held in first.unique:
        if not held.issuperset(key):
            columns = ", ".join(sorted(name or "an expression" for name in held))
            yield Finding(
                "warning",
                table,
                f"unique index {index} ({columns}) is without the key ({', '.join(key)}): unique on each shard only",
                "Rows of two shards can have the same values: add the key to the index, or see to it elsewhere.",
            )
    for number, numbering in enumerate(first.numbered):
        same = [stored.numbered[number] for stored in found.values() if len(stored.numbered) > number]
        if len(found) > 1 and not _are_apart(same):
            yield Finding(
                "warning",
                table,
                f"column {numbering.column} is numbered by each shard for itself: numbers come again on other shards",
                "Use uuids; or let each shard skip the others' numbers: ALTER SEQUENCE … INCREMENT BY 8 START 1.",
            )
    yield from _key_findings(table, key, found)


def _are_apart(numberings: Sequence[Numbering]) -> bool:
    """Whether no two shards give the same number: by their ranges, or by steps from different starts."""
    steps = {numbering.increment for numbering in numberings}
    step = abs(steps.pop()) if len(steps) == 1 else 0
    if step and len({numbering.start % step for numbering in numberings}) == len(numberings):
        return True
    ranges = sorted((numbering.lowest, numbering.highest) for numbering in numberings)
    return all(below[1] < above[0] for below, above in pairwise(ranges))


def _key_findings(table: str, key: tuple[str, ...], found: Mapping[str, Stored]) -> Iterator[Finding]:
    enforced = [shard for shard, stored in found.items() if stored.enforced]
    if enforced and len(enforced) < len(found):
        missing = ", ".join(shard for shard in found if shard not in enforced)
        hint = f"Run: shardpool topology enforce on {table}"
        yield Finding("warning", table, f"rows that belong to others are not refused on {missing}", hint)
        return
    first = next(iter(found.values()))
    why = [f"trigger {trigger.name} may change its key" for trigger in first.triggers if trigger.may_set(key)]
    why += [f"rule {rule} may write other rows" for rule in first.rules]
    why += [f"its key column {name} is generated" for name in key if name in first.generated]
    if why and not enforced:
        yield Finding(
            "warning",
            table,
            f"{'; '.join(why)}: a row can come to a shard where nobody looks for it",
            f"Let the shards refuse rows that are not theirs: shardpool topology enforce on {table}",
        )
