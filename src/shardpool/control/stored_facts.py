"""What of a sharded table holds on each shard only and not over the fleet, and what may store another key. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any

from ..report import Finding
from ..topology import Sharded, Topology
from .own_sql import qualified
from .storing import ENFORCED, RULES, TRIGGERS, UNIQUE, Trigger, rules, triggers

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
                    a.attname, s.seqincrement, s.seqstart, s.seqmin, s.seqmax,
                    pg_catalog.quote_ident(v.nspname) || '.' || pg_catalog.quote_ident(z.relname)) order by a.attnum)
         from pg_catalog.pg_attribute a
         left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         left join pg_catalog.pg_sequence s on s.seqrelid = pg_catalog.to_regclass(
             pg_catalog.pg_get_serial_sequence(n.oid::pg_catalog.regclass::pg_catalog.text, a.attname::pg_catalog.text))
         left join pg_catalog.pg_class z on z.oid = s.seqrelid
         left join pg_catalog.pg_namespace v on v.oid = z.relnamespace
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
    """How a sequence numbers a column; all 0 where that is not known.

    `last` is where it is, and `highest` the highest number that a row has; None where nobody has looked.
    """

    column: str
    increment: int
    start: int
    lowest: int
    greatest: int
    sequence: str = ""
    last: Decimal | None = None
    highest: Decimal | None = None


@dataclass(frozen=True, slots=True)
class StoredFacts:
    """One sharded table on one shard."""

    unique: tuple[tuple[str, frozenset[str | None], bool], ...] = ()
    numbered: tuple[Numbering, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    rules: tuple[tuple[str, str], ...] = ()
    generated: frozenset[str] = frozenset()
    enforced: bool = False


def stored_facts(rows: Iterable[Sequence[Any]]) -> dict[str, StoredFacts]:
    """The rows of `STORED_FACTS` by table."""
    return {
        name: StoredFacts(
            tuple((index, frozenset(held or ()), excludes) for index, held, excludes in unique or ()),
            tuple(map(_numbering, numbered or ())),
            triggers(checks),
            rules(rewriting),
            frozenset(generated or ()),
            enforced,
        )
        for name, unique, numbered, checks, rewriting, generated, enforced in rows
    }


def _numbering(facts: Sequence[Any]) -> Numbering:
    column, increment, start, lowest, greatest, sequence = facts
    return Numbering(column, increment or 0, start or 0, lowest or 0, greatest or 0, sequence or "")


def stored_findings(topology: Topology, stored_by_shard: Mapping[str, Mapping[str, StoredFacts]]) -> Iterator[Finding]:
    """What is to be known of the sharded tables, told once for all shards that have been reached."""
    for table, placement in topology.placements.items():
        if isinstance(placement, Sharded):
            facts_by_shard = {shard: facts[table] for shard, facts in stored_by_shard.items() if table in facts}
            if facts_by_shard:
                looked = {lookup.column for lookup in topology.lookups.get(table, ())}
                short = table.removeprefix("public.")
                yield from _table_findings(short, placement.key_columns, facts_by_shard, looked)
                yield from _position_findings(table.removeprefix("public."), topology.numbering_shard, facts_by_shard)


def _table_findings(
    table: str, key: tuple[str, ...], facts_by_shard: Mapping[str, StoredFacts], looked: Set[str]
) -> Iterator[Finding]:
    """`looked` are the columns that are unique over the fleet: rows that have them in common are on no two shards."""
    first = next(iter(facts_by_shard.values()))
    for index, held, excludes in first.unique:
        if not held.issuperset(key) and not (looked & held and not excludes):
            columns = ", ".join(sorted(name or "an expression" for name in held)) or "none by ="
            what = "exclusion constraint" if excludes else "unique index"
            yield Finding(
                "warning",
                table,
                f"{what} {index} ({columns}) is without the key ({', '.join(key)}): unique on each shard only",
                "Rows of two shards can conflict: add the key to it, compared by =, or keep a column of it unique by a "
                "lookup: docs/howto/unique-values.md",
            )
    for number, numbering in enumerate(first.numbered):
        same = [stored.numbered[number] for stored in facts_by_shard.values() if len(stored.numbered) > number]
        if len(facts_by_shard) > 1 and not _are_apart(same):
            yield Finding(
                "warning",
                table,
                f"column {numbering.column} is numbered by each shard for itself where rows are inserted by key=…, on a"
                " shard or by psql: numbers come again",
                "execute() and copy_into() take the numbers of one shard. Or let each shard skip the others' "
                "numbers: ALTER SEQUENCE … INCREMENT BY 8 START 1.",
            )
    yield from _key_findings(table, key, facts_by_shard)


def _position_findings(table: str, owner: str, facts_by_shard: Mapping[str, StoredFacts]) -> Iterator[Finding]:
    """Sequences of the shard that numbers for all which would give numbers that rows have."""
    if owner not in facts_by_shard:
        return
    for number, numbering in enumerate(facts_by_shard[owner].numbered):
        others = {
            shard: stored.numbered[number] for shard, stored in facts_by_shard.items() if len(stored.numbered) > number
        }
        highest = {shard: other.highest for shard, other in others.items() if other.highest is not None}
        if abs(numbering.increment) != 1 or numbering.increment < 0 or not highest:
            continue
        shard = max(highest, key=lambda name: highest[name])
        if highest[shard] > (numbering.last or 0):
            yield Finding(
                "warning",
                table,
                f"{numbering.sequence} on shard {owner}, which numbers {numbering.column} for all shards, is at "
                f"{numbering.last or 'its start'}, and a row on {shard} has {highest[shard]}: numbers would come again",
                f"Run: shardpool query \"select setval('{numbering.sequence}', max({numbering.column})) from {table}\"",
            )


def _are_apart(numberings: Sequence[Numbering]) -> bool:
    """Whether no two shards give the same number: by their ranges, or by steps from different starts."""
    steps = {numbering.increment for numbering in numberings}
    step = abs(steps.pop()) if len(steps) == 1 else 0
    if step and len({numbering.start % step for numbering in numberings}) == len(numberings):
        return True
    ranges = sorted((numbering.lowest, numbering.greatest) for numbering in numberings)
    return all(below[1] < above[0] for below, above in pairwise(ranges))


def _key_findings(table: str, key: tuple[str, ...], facts_by_shard: Mapping[str, StoredFacts]) -> Iterator[Finding]:
    enforced = [shard for shard, stored in facts_by_shard.items() if stored.enforced]
    if enforced and len(enforced) < len(facts_by_shard):
        missing = ", ".join(shard for shard in facts_by_shard if shard not in enforced)
        hint = f"Run: shardpool topology enforce on {table}"
        yield Finding("warning", table, f"rows that belong to others are not refused on {missing}", hint)
        return
    first = next(iter(facts_by_shard.values()))
    why = [f"trigger {trigger.name} may change its key" for trigger in first.triggers if trigger.may_set(key)]
    why += [f"rule {rule} may write other rows" for rule, verb in first.rules if verb != "DELETE"]
    why += [f"its key column {name} is generated" for name in key if name in first.generated]
    if why and not enforced:
        yield Finding(
            "warning",
            table,
            f"{'; '.join(why)}: a row can come to a shard where nobody looks for it",
            f"Let the shards refuse rows that are not theirs: shardpool topology enforce on {table}",
        )
