"""What a shard tells of its tables, and what of it is wrong for a partition-aware router. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..keys import column_problems
from ..report import Finding
from ..topology import Sharded, Single, Topology

# One row per column of each table that exists: its type, whether it may be NULL and has an equality of bytes; and the
# column sets of the table's unique indexes.
TABLE_FACTS = """
    select t.name, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
           coalesce((select l.collisdeterministic from pg_catalog.pg_collation l where l.oid = a.attcollation), true),
           coalesce((select pg_catalog.array_agg(
                         (select pg_catalog.string_agg(c.attname::text, ',')
                          from pg_catalog.unnest(i.indkey) k join pg_catalog.pg_attribute c
                               on c.attrelid = i.indrelid and c.attnum = k))
                     from pg_catalog.pg_index i
                     where i.indrelid = a.attrelid and i.indisunique and i.indpred is null), '{}')
    from pg_catalog.unnest(%s::text[]) t (name)
    join pg_catalog.pg_attribute a
         on a.attrelid = pg_catalog.to_regclass(
                pg_catalog.quote_ident(pg_catalog.split_part(t.name, '.', 1)) || '.' ||
                pg_catalog.quote_ident(pg_catalog.split_part(t.name, '.', 2)))
    where a.attnum > 0 and not a.attisdropped
    order by t.name, a.attnum
"""


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    name: str
    type: str
    not_null: bool
    deterministic: bool


@dataclass(frozen=True, slots=True)
class TableFacts:
    """One table on one shard: its columns in order, and the column sets of its unique indexes."""

    columns: tuple[ColumnFacts, ...]
    unique: tuple[frozenset[str], ...]


def table_facts(rows: Iterable[Sequence[Any]]) -> Mapping[str, TableFacts]:
    """The rows of `TABLE_FACTS` by table."""
    columns: dict[str, list[ColumnFacts]] = {}
    unique: dict[str, tuple[frozenset[str], ...]] = {}
    for table, name, type_, not_null, deterministic, indexes in rows:
        columns.setdefault(table, []).append(ColumnFacts(name, type_, not_null, deterministic))
        unique[table] = tuple(frozenset((index or "").split(",")) for index in indexes)
    return {table: TableFacts(tuple(own), unique[table]) for table, own in columns.items()}


def table_findings(topology: Topology, shard: str, facts: Mapping[str, TableFacts]) -> Iterator[Finding]:
    """What is wrong with the tables of one shard."""
    entries = {lookup.entries for lookups in topology.lookups.values() for lookup in lookups}
    for table, placement in topology.placements.items():
        if isinstance(placement, Single) and placement.shard != shard:
            continue
        short = table.removeprefix("public.")
        if table not in facts and table in entries:
            continue  # of which the finding on the lookup tells
        if table not in facts:
            yield Finding("error", f"{shard}/{short}", "the table does not exist here", "Create it on every shard.")
        elif isinstance(placement, Sharded):
            yield from _key_findings(topology, shard, short, placement, facts[table])


def _key_findings(
    topology: Topology, shard: str, table: str, placement: Sharded, facts: TableFacts
) -> Iterator[Finding]:
    subject = f"{shard}/{table}"
    columns = {column.name: column for column in facts.columns}
    for name, key_type in zip(placement.key_columns, topology.keyspaces[placement.keyspace].key_types, strict=True):
        column = columns.get(name)
        if column is None:
            yield Finding("error", subject, f'its key column "{name}" does not exist')
            continue
        for problem in column_problems(name, column.type, key_type, deterministic=column.deterministic):
            yield Finding("error", subject, problem)
        if not column.not_null:
            yield Finding("warning", subject, f"key column {name} may be NULL", "NULL has no bucket: make it NOT NULL.")
    if not any(index >= set(placement.key_columns) for index in facts.unique):
        yield Finding(
            "warning",
            subject,
            f"no primary key or unique index holds its key ({', '.join(placement.key_columns)})",
            "Uniqueness is kept per shard, so a unique index must hold the partition key; moves need one too.",
        )


def compare_tables(topology: Topology, facts_by_shard: Mapping[str, Mapping[str, TableFacts]]) -> Iterator[Finding]:
    """Tables that are not alike on every shard that has been reached: those that differ from what most have."""
    for table, placement in topology.placements.items():
        if isinstance(placement, Single):
            continue
        reached = [shard for shard in topology.shards if table in facts_by_shard.get(shard, {})]
        have = {shard: facts_by_shard[shard][table].columns for shard in reached}
        if not have:
            continue
        usual, _ = Counter(have.values()).most_common(1)[0]
        example = next(shard for shard, columns in have.items() if columns == usual)
        for shard, columns in have.items():
            if columns != usual:
                yield Finding(
                    "error",
                    f"{shard}/{table.removeprefix('public.')}",
                    f"its columns differ from those on {example}: {_difference(usual, columns)}",
                )


# Of each reference table on one shard: the number of its rows, and a digest of them.
Copies = Mapping[str, tuple[int, str]]


def compare_copies(topology: Topology, copies_by_shard: Mapping[str, Copies]) -> Iterator[Finding]:
    """Reference tables whose rows are not the same on every shard that has been reached."""
    for table in topology.reference_tables:
        copy_by_shard = {shard: copies[table] for shard, copies in copies_by_shard.items() if table in copies}
        if len(set(copy_by_shard.values())) > 1:
            usual, _ = Counter(copy_by_shard.values()).most_common(1)[0]
            example = next(shard for shard, copy in copy_by_shard.items() if copy == usual)
            for shard, copy in copy_by_shard.items():
                if copy != usual:
                    yield Finding(
                        "error",
                        f"{shard}/{table.removeprefix('public.')}",
                        f"its {copy[0]} rows are not the {usual[0]} rows of the copy on {example}",
                        "A reference table has the same rows on every shard: copy them from the right one.",
                    )


def _difference(one: Sequence[ColumnFacts], other: Sequence[ColumnFacts]) -> str:
    """The first columns that only one side has, as `+ name type` and `- name type`."""
    ours = {(column.name, column.type, column.not_null) for column in one}
    theirs = {(column.name, column.type, column.not_null) for column in other}
    signs = [f"- {name} {type_}" for name, type_, _ in sorted(ours - theirs)]
    signs += [f"+ {name} {type_}" for name, type_, _ in sorted(theirs - ours)]
    return ", ".join(signs[:6]) or "their order"
