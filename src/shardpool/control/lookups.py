"""The SQL by which columns are unique over the fleet: tables of entries, and the triggers that collect what changes.

A transaction of a router that keeps the entries says so, and the triggers collect its changes for it. Whoever says
nothing is refused. See docs/adr/0059-values-that-are-unique-over-the-fleet.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.resources import files
from typing import Any

from ..quoting import quote_ident, quote_literal, quote_table
from ..report import Finding, Level
from ..topology import Lookup, Topology
from .own_sql import qualified

KEEP = b"set local shardpool.lookups = 'kept'"
"""What a transaction begins with whose router keeps the entries."""

TAKE = (
    b"select pg_catalog.current_setting('shardpool.lookup_changes', true),"
    b" pg_catalog.set_config('shardpool.lookup_changes', '', true)"
)
"""What has changed since it was asked last, a line of JSON for each change: lookup, entries gone, and new ones."""

PASS = "set shardpool.lookups = 'off'"
"""What a session says that writes past the entries, and has them mended afterwards."""


def function() -> str:
    """The function of the triggers, of `lookups.sql`."""
    return files(__package__).joinpath("lookups.sql").read_text()


TABLE_QUERY = qualified("""
select c.relkind::text, a.attname::text, pg_catalog.format_type(a.atttypid, a.atttypmod),
       coalesce(l.collisdeterministic, true),
       pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.collname)
from pg_catalog.pg_class c join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_catalog.pg_collation l on l.oid = a.attcollation
left join pg_catalog.pg_namespace n on n.oid = l.collnamespace
where c.oid = pg_catalog.to_regclass(%s)
""")
"""Of a table: its kind, and for each column its name, type, and its collation and whether that is deterministic."""

STATE_QUERY = qualified("""
select (select k.conname::text from pg_catalog.pg_constraint k
        where k.conrelid = pg_catalog.to_regclass(%s) and k.contype = 'p'),
       (select pg_catalog.count(*) from pg_catalog.pg_trigger t
        where t.tgrelid = pg_catalog.to_regclass(%s) and t.tgname = any (%s::pg_catalog.name[]) and t.tgenabled <> 'D')
""")
"""Of a lookup on a shard: the primary key of its entries, and how many of its triggers are there."""

GRANTS_QUERY = qualified("""
select case when g.grantee = 0 then 'public' else pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(g.grantee)) end,
       pg_catalog.bool_or(g.privilege_type = any ('{INSERT,UPDATE,DELETE}'::text[]))
from pg_catalog.pg_class c cross join lateral pg_catalog.aclexplode(c.relacl) g
where c.oid = pg_catalog.to_regclass(%s) and g.grantee <> c.relowner
  and g.privilege_type = any ('{SELECT,INSERT,UPDATE,DELETE}'::text[])
group by g.grantee
""")
"""Who may use a table beside its owner, and whether to write."""


@dataclass(frozen=True, slots=True)
class LookupState:
    """A lookup on one shard: whether its entries are there and complete, and whether its triggers are."""

    has_entries: bool
    is_ready: bool
    has_triggers: bool

    def __str__(self) -> str:
        if not self.has_entries:
            return "not created"
        if not self.has_triggers:
            return "its triggers are missing"
        return "ready" if self.is_ready else "to be filled"


def state_params(lookup: Lookup) -> list[Any]:
    """The parameters of `STATE_QUERY`."""
    return [quote_table(lookup.entries), quote_table(lookup.table), trigger_names(lookup)]


def state_of(lookup: Lookup, row: Sequence[Any]) -> LookupState:
    """What `STATE_QUERY` tells."""
    constraint, triggers = row
    ready = constraint is not None and is_ready(lookup, [constraint])
    return LookupState(constraint is not None, ready, triggers == len(trigger_names(lookup)))


def lookup_finding(lookup: Lookup, state: LookupState, shard: str) -> Iterator[Finding]:
    """What is to be told of a lookup on a shard."""
    table = lookup.table.removeprefix("public.")
    if not state.has_entries or not state.has_triggers:
        what = f"{lookup.column} is not kept unique over the fleet: the lookup is {state}"
        level: Level = "error" if state.is_ready else "warning"
        yield Finding(level, f"{shard}/{table}", what, f"Run: shardpool lookup create {lookup.name}")
    elif not state.is_ready:
        what = f"{lookup.column} is not looked up yet, and rows of before the lookup may have one value"
        yield Finding("warning", table, what, f"Run: shardpool lookup backfill {lookup.name}")


def is_ready(lookup: Lookup, unique: Iterable[str]) -> bool:
    """Whether the entries with these unique indexes are complete: their primary key has its last name then."""
    return _constraint(lookup, "pkey") in unique


def trigger_names(lookup: Lookup) -> list[str]:
    """The triggers of a lookup on its table."""
    return [f"lookup_{lookup.column}_{event}" for event in ("insert", "update", "delete", "truncate")]


def table_statement(lookup: Lookup, types: Sequence[str], keys: Sequence[str]) -> str:
    """The table of the entries; `types` are those of the column and of the `keys`, with their collations."""
    names = [lookup.column, *keys]
    columns = ", ".join(f"{quote_ident(name)} {type_} not null" for name, type_ in zip(names, types, strict=True))
    constraint = quote_ident(_constraint(lookup, "filling"))
    return (
        f"create table if not exists {quote_table(lookup.entries)} ({columns}, "
        f"constraint {constraint} primary key ({quote_ident(lookup.column)}))"
    )


def ready_statement(lookup: Lookup, *, ready: bool = True) -> str:
    """What says that the entries are complete, or are not any more."""
    before, after = (quote_ident(_constraint(lookup, ending)) for ending in ("filling", "pkey"))
    before, after = (before, after) if ready else (after, before)
    table = quote_table(lookup.entries)
    # That a constraint has another name is not seen in what routers verify; that the table was set up anew is.
    anew = f"alter table {table} set (fillfactor = {100 if ready else 99})"
    return f"alter table {table} rename constraint {before} to {after};\n{anew}"


def grant_statements(lookup: Lookup, grants: Iterable[tuple[str, bool]]) -> list[str]:
    """What lets those keep the entries who may use the table."""
    return [
        f"grant select{', insert, delete' if writes else ''} on {quote_table(lookup.entries)} to {role}"
        for role, writes in grants
    ]


def trigger_statements(lookup: Lookup, keys: Sequence[str], *, partitioned: bool) -> str:
    """The triggers that collect what changes, or refuse it."""
    columns = [quote_ident(name) for name in (lookup.column, *keys)]
    arguments = ", ".join(map(quote_literal, (lookup.name, lookup.column, *keys)))
    changed = " or ".join(f"new.{name} is distinct from old.{name}" for name in columns)
    row = ("update", f"for each row when ({changed})")
    statement = ("update", "referencing old table as gone new table as come for each statement")
    how = [
        ("after", "insert", "referencing new table as come for each statement"),
        ("after", *(statement if partitioned else row)),
        ("after", "delete", "referencing old table as gone for each statement"),
        ("before", "truncate", "for each statement"),
    ]
    return ";\n".join(
        f"create or replace trigger {quote_ident(name)} {when} {event} on {quote_table(lookup.table)} {each} "
        f"execute function shardpool.keep_lookup({arguments})"
        for name, (when, event, each) in zip(trigger_names(lookup), how, strict=True)
    )


def drop_statements(lookup: Lookup) -> str:
    """What takes a lookup away."""
    triggers = [
        f"drop trigger if exists {quote_ident(name)} on {quote_table(lookup.table)}" for name in trigger_names(lookup)
    ]
    return ";\n".join([*triggers, f"drop table if exists {quote_table(lookup.entries)}"])


Entry = tuple[str, ...]
"""A value, and the parts of the key of its row, as texts that the server reads back."""


def change_statement(lookup: Lookup, keys: Sequence[str], gone: Sequence[Entry], new: Sequence[Entry]) -> str:
    """What takes entries away and adds others."""
    columns = ", ".join(map(quote_ident, (lookup.column, *keys)))
    table = quote_table(lookup.entries)
    statements = [f"delete from {table} where ({columns}) in ({_rows(part)})" for part in _parts(gone)]
    statements += [f"insert into {table} ({columns}) values {_rows(part)}" for part in _parts(new)]
    return "; ".join(statements)


_MOST_ROWS = 500


def _parts(entries: Sequence[Entry]) -> Iterable[Sequence[Entry]]:
    return (entries[first : first + _MOST_ROWS] for first in range(0, len(entries), _MOST_ROWS))


def _rows(entries: Iterable[Entry]) -> str:
    return ", ".join(f"({', '.join(map(quote_literal, entry))})" for entry in entries)


def _constraint(lookup: Lookup, ending: str) -> str:
    return f"{lookup.entries.split('.', 1)[1]}_{ending}"


def owner_of(topology: Topology, lookup: Lookup, value: Any) -> str:
    """The shard of a value's entry; `value` as the server writes it."""
    keyspace = topology.keyspaces[lookup.keyspace]
    return keyspace.shard_by_bucket[keyspace.partitioning.bucket(key_of(value, keyspace.key_types[0]))]


def key_of(value: Any, key_type: str) -> Any:
    """A value as JSON has it, as a key."""
    if key_type == "bytea":
        return bytes.fromhex(value.removeprefix("\\x"))
    return datetime.fromisoformat(value) if key_type == "timestamptz" else value
