"""Lookups of the file → `Lookup` values, and the tables of their entries."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ..topology import Keyspace, Lookup, qualified
from . import _models as models
from ._fields import MAX_NAME
from ._nodes import YamlNode
from ._problems import Problems

# What names of the entries' own objects have behind the table's.
_LONGEST_ENDING = len("_filling")


def build_lookups(
    file: models.TopologyFile, root: YamlNode, keyspaces: dict[str, Keyspace], problems: Problems
) -> None:
    """Put the lookups, and the tables of their entries, into the keyspaces; what is wrong goes to the problems."""
    columns_by_table = {table: columns for keyspace in keyspaces.values() for table, columns in keyspace.tables.items()}
    declared = {*columns_by_table, *map(qualified, file.reference_tables), *map(qualified, file.single_tables)}
    seen: set[tuple[str, str]] = set()
    for name, fields in file.keyspaces.items():
        lookups = []
        for written in fields.lookup if name in keyspaces else ():
            place = root.fields["keyspaces"].fields[name].fields["lookup"].fields[written]
            lookup = _lookup(written, name)
            wrong = next(_problems(lookup, columns_by_table, fields, declared, seen), None)
            if wrong is not None:
                problems.add_at_key(place, *wrong)
                continue
            seen.add((lookup.table, lookup.column))
            declared.add(lookup.entries)
            lookups.append(lookup)
        if lookups:
            keyspace = keyspaces[name]
            tables = {**keyspace.tables, **{lookup.entries: (lookup.column,) for lookup in lookups}}
            keyspaces[name] = replace(keyspace, tables=tables, lookups=tuple(lookups))


def _lookup(written: str, keyspace: str) -> Lookup:
    table, _, column = written.rpartition(".")
    table = qualified(table)
    return Lookup(table, column, keyspace, f"{table}_{column}_lookup")


def _problems(
    lookup: Lookup,
    columns_by_table: dict[str, tuple[str, ...]],
    fields: models.KeyspaceFields,
    declared: set[str],
    seen: set[tuple[str, str]],
) -> Iterator[tuple[str, str]]:
    table, entries = (name.removeprefix("public.") for name in (lookup.table, lookup.entries))
    if lookup.table not in columns_by_table:
        yield f"{table} is no sharded table", "On one server a unique index keeps a column unique."
    elif lookup.column in columns_by_table[lookup.table]:
        yield f"{lookup.column} is the partition key, or a part of it", "A unique index keeps the whole key unique."
    if len(fields.key) != 1:
        yield "a lookup needs a keyspace with a key of one part", "Its key is the value of the column."
    if (lookup.table, lookup.column) in seen:
        yield f"{lookup.name} has a lookup already", "One keyspace has its entries."
    elif lookup.entries in declared:
        yield f"table {entries} is declared: the lookup would have its entries there", "Give the table another name."
    if len(lookup.entries.split(".", 1)[1].encode()) + _LONGEST_ENDING > MAX_NAME:
        longest = MAX_NAME - _LONGEST_ENDING
        yield f"{entries}, the table of its entries, has a name that is too long", f"At most {longest} bytes."
