"""What a server may store in place of what it is given, as far as its catalog tells. Pure: SQL text, and values.

The key of a row says where the row belongs, so a router may only place a row by a key that the server stores as it is.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

# A table and all that inherit from it: rows that are written through it meet the triggers of its partitions, too.
_FAMILY = """\
with recursive family (oid) as (
    select {table} union select i.inhrelid from pg_catalog.pg_inherits i join family f on f.oid = i.inhparent)"""

# The triggers that run on INSERT, UPDATE or DELETE, as JSON: name, for INSERT, for UPDATE, language, body, for DELETE,
# before the row is stored, for each row. The fence, which is on some shards only, changes nothing.
TRIGGERS = f"""({_FAMILY}
    select pg_catalog.json_agg(pg_catalog.json_build_array(
        t.tgname, (t.tgtype & 4) <> 0, (t.tgtype & 16) <> 0, l.lanname, p.prosrc, (t.tgtype & 8) <> 0,
        (t.tgtype & 3) = 3, (t.tgtype & 1) <> 0) order by t.tgname, t.oid)
    from pg_catalog.pg_trigger t join family f on f.oid = t.tgrelid join pg_catalog.pg_proc p on p.oid = t.tgfoid
    join pg_catalog.pg_language l on l.oid = p.prolang join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where not t.tgisinternal and t.tgparentid = 0 and t.tgenabled = any (array['O', 'A']::pg_catalog."char"[])
      and (t.tgtype & 28) <> 0 and n.nspname <> 'shardpool')"""

# The rules that rewrite writes, as JSON: name, and the statement that each rewrites.
RULES = """(
    select pg_catalog.json_agg(pg_catalog.json_build_array(
        r.rulename, case r.ev_type when '2' then 'UPDATE' when '3' then 'INSERT' else 'DELETE' end) order by r.rulename)
    from pg_catalog.pg_rewrite r
    where r.ev_class = {table} and r.ev_type <> '1' and r.ev_enabled <> 'D')"""

# The foreign keys that refer to the table, as JSON: the other table, what becomes of its rows on UPDATE and on DELETE
# (c: the same, n: NULL, d: the default, a or r: nothing), the columns that refer and those that they refer to,
# pairwise, and those that DELETE sets, null for all.
CASCADES = f"""({_FAMILY}
    select pg_catalog.json_agg(pg_catalog.json_build_array(
        n.nspname || '.' || c.relname, k.confupdtype, k.confdeltype,
        (select pg_catalog.json_agg(a.attname order by o.place)
         from pg_catalog.unnest(k.conkey) with ordinality o (attnum, place)
         join pg_catalog.pg_attribute a on a.attrelid = k.conrelid and a.attnum = o.attnum),
        (select pg_catalog.json_agg(a.attname order by o.place)
         from pg_catalog.unnest(k.confkey) with ordinality o (attnum, place)
         join pg_catalog.pg_attribute a on a.attrelid = k.confrelid and a.attnum = o.attnum),
        (select pg_catalog.json_agg(a.attname) from pg_catalog.pg_attribute a
         where a.attrelid = k.conrelid and pg_catalog.to_jsonb(k) -> 'confdelsetcols'
               operator(pg_catalog.@>) pg_catalog.to_jsonb(a.attnum))
        ) order by k.conname, k.oid)
    from (
        -- Found by their triggers, which have an index.
        select distinct t.tgconstraint as oid, t.tgrelid from pg_catalog.pg_trigger t join family f on f.oid = t.tgrelid
        where t.tgconstraint <> 0) g
    join pg_catalog.pg_constraint k on k.oid = g.oid and k.confrelid = g.tgrelid
    join pg_catalog.pg_class c on c.oid = coalesce(pg_catalog.pg_partition_root(k.conrelid)::pg_catalog.oid, k.conrelid)
    join pg_catalog.pg_namespace n on n.oid = c.relnamespace
    where k.contype = 'f' and k.conparentid = 0)"""

# What must be unique, as JSON: the name, the columns that are equal in rows that conflict, null for an expression, and
# whether it is an exclusion constraint.
# Of a partition only what is not a part of the whole table's.
UNIQUE = f"""({_FAMILY}
    select pg_catalog.json_agg(pg_catalog.json_build_array(x.relname, u.columns, u.excludes) order by x.relname)
    from (
        select i.indexrelid as oid, (
            select pg_catalog.json_agg(a.attname order by k.place)
            from pg_catalog.unnest(i.indkey) with ordinality k (attnum, place)
            left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum and a.attnum > 0
            where k.place <= i.indnkeyatts) as columns, false as excludes
        from pg_catalog.pg_index i join family f on f.oid = i.indrelid where i.indisunique
        union all
        select c.conindid, (
            select pg_catalog.json_agg(a.attname order by k.place)
            from pg_catalog.unnest(c.conkey) with ordinality k (attnum, place)
            join pg_catalog.pg_operator o on o.oid = c.conexclop[k.place] and o.oprname = '='
            left join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum and a.attnum > 0),
            true
        from pg_catalog.pg_constraint c join family f on f.oid = c.conrelid where c.contype = 'x') u
    join pg_catalog.pg_class x on x.oid = u.oid
    where not exists (select from pg_catalog.pg_inherits h where h.inhrelid = u.oid))"""

# Whether rows that belong to other shards are refused, whoever writes them: see `fence.fence_statement`.
ENFORCED = """exists (
    select from pg_catalog.pg_trigger e
    where e.tgrelid = {table} and e.tgname = 'shardpool_fence' and e.tgnargs > 1
      and e.tgenabled = any (array['O', 'A']::pg_catalog."char"[]))"""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A trigger, with the body of its function. `before`: for each row, before it is stored."""

    name: str
    on_insert: bool
    on_update: bool
    language: str
    body: str
    on_delete: bool = False
    before: bool = True
    each_row: bool = True

    def runs_on(self, verbs: Container[str]) -> bool:
        """Whether it runs on one of INSERT, UPDATE and DELETE."""
        by_verb = {"INSERT": self.on_insert, "UPDATE": self.on_update, "DELETE": self.on_delete}
        return any(runs and verb in verbs for verb, runs in by_verb.items())

    def may_set(self, columns: Iterable[str]) -> bool:
        """Whether it may change one of these columns: false only where its body shows that it does not."""
        if self.language == "internal" or not self.before:
            return False  # PostgreSQL's own: for full text search, and against updates that change nothing
        return self.language != "plpgsql" or _may_assign(self.body.lower(), columns)


# The row as a whole, which could be assigned or given out under another name: but for `new.column` and `return new`.
_WHOLE_ROW = re.compile(r"(?<!\breturn )\bnew\b(?!\s*\.)|\breturn\s+(?!new\s*;|old\s*;|null\s*;)")


def _may_assign(body: str, columns: Iterable[str]) -> bool:
    body = re.sub(r"\breturn\s+", "return ", body)
    named = any(re.search(rf"(?<![\w$]){re.escape(column.lower())}(?![\w$])", body) for column in columns)
    return named or 'u&"' in body or _WHOLE_ROW.search(body) is not None


@dataclass(frozen=True, slots=True)
class Cascade:
    """A foreign key of another `table`: what a change of the one that it refers to does to rows of that table.

    `on_update` and `on_delete` say it: c the same, n to NULL, d to the default; anything else is nothing. `columns`
    refer to the columns `referred`, pairwise; `deleted` are those that DELETE sets, None for all.
    """

    table: str
    on_update: str
    on_delete: str
    columns: tuple[str, ...]
    referred: tuple[str, ...]
    deleted: tuple[str, ...] | None


def cascades(rows: Iterable[Sequence[Any]] | None) -> tuple[Cascade, ...]:
    """What `CASCADES` tells."""
    return tuple(
        Cascade(table, on_update, on_delete, tuple(columns), tuple(referred), deleted and tuple(deleted))
        for table, on_update, on_delete, columns, referred, deleted in rows or ()
    )


def rules(rows: Iterable[Sequence[str]] | None) -> tuple[tuple[str, str], ...]:
    """What `RULES` tells."""
    return tuple((name, verb) for name, verb in rows or ())


def triggers(rows: Iterable[Sequence[Any]] | None) -> tuple[Trigger, ...]:
    """What `TRIGGERS` tells."""
    return tuple(Trigger(*facts) for facts in rows or ())
