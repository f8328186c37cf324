"""What a server may store in place of what it is given, as far as its catalog tells. Pure: SQL text, and values.

The key of a row says where the row belongs, so a router may only place a row by a key that the server stores as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

# A table and all that inherit from it: rows that are written through it meet the triggers of its partitions, too.
_FAMILY = """\
with recursive family (oid) as (
    select {table} union select i.inhrelid from pg_catalog.pg_inherits i join family f on f.oid = i.inhparent)"""

# The row triggers that run before INSERT or UPDATE, as JSON: name, for INSERT, for UPDATE, language, body. The fence,
# which is on some shards only, changes nothing.
TRIGGERS = f"""({_FAMILY}
    select pg_catalog.json_agg(pg_catalog.json_build_array(
        t.tgname, (t.tgtype & 4) <> 0, (t.tgtype & 16) <> 0, l.lanname, p.prosrc) order by t.tgname, t.oid)
    from pg_catalog.pg_trigger t join family f on f.oid = t.tgrelid join pg_catalog.pg_proc p on p.oid = t.tgfoid
    join pg_catalog.pg_language l on l.oid = p.prolang join pg_catalog.pg_namespace n on n.oid = p.pronamespace
    where not t.tgisinternal and t.tgparentid = 0 and t.tgenabled = any (array['O', 'A']::pg_catalog."char"[])
      and (t.tgtype & 3) = 3 and (t.tgtype & 20) <> 0 and n.nspname <> 'shardpool')"""

# The names of the rules that rewrite INSERT or UPDATE, as JSON.
RULES = """(
    select pg_catalog.json_agg(r.rulename order by r.rulename) from pg_catalog.pg_rewrite r
    where r.ev_class = {table} and r.ev_type = any (array['2', '3']::pg_catalog."char"[]) and r.ev_enabled <> 'D')"""

# What must be unique, as JSON: the name, and the columns that are equal in rows that conflict; null for an expression.
# Of a partition only what is not a part of the whole table's.
UNIQUE = f"""({_FAMILY}
    select pg_catalog.json_agg(pg_catalog.json_build_array(x.relname, u.columns) order by x.relname)
    from (
        select i.indexrelid as oid, (
            select pg_catalog.json_agg(a.attname order by k.place)
            from pg_catalog.unnest(i.indkey) with ordinality k (attnum, place)
            left join pg_catalog.pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum and a.attnum > 0
            where k.place <= i.indnkeyatts) as columns
        from pg_catalog.pg_index i join family f on f.oid = i.indrelid where i.indisunique
        union all
        select c.conindid, (
            select pg_catalog.json_agg(a.attname order by k.place)
            from pg_catalog.unnest(c.conkey) with ordinality k (attnum, place)
            join pg_catalog.pg_operator o on o.oid = c.conexclop[k.place] and o.oprname = '='
            left join pg_catalog.pg_attribute a on a.attrelid = c.conrelid and a.attnum = k.attnum and a.attnum > 0)
        from pg_catalog.pg_constraint c join family f on f.oid = c.conrelid where c.contype = 'x') u
    join pg_catalog.pg_class x on x.oid = u.oid
    where not exists (select from pg_catalog.pg_inherits h where h.inhrelid = u.oid))"""

# Whether rows that belong to other shards are refused, whoever writes them: see `control.fence_statement`.
ENFORCED = """exists (
    select from pg_catalog.pg_trigger e
    where e.tgrelid = {table} and e.tgname = 'shardpool_fence' and e.tgnargs > 1
      and e.tgenabled = any (array['O', 'A']::pg_catalog."char"[]))"""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A row trigger that runs before rows are stored, with the body of its function."""

    name: str
    on_insert: bool
    on_update: bool
    language: str
    body: str

    def may_set(self, columns: Iterable[str]) -> bool:
        """Whether it may change one of these columns: false only where its body shows that it does not."""
        if self.language == "internal":
            return False  # PostgreSQL's own: for full text search, and against updates that change nothing
        return self.language != "plpgsql" or _may_assign(self.body.lower(), columns)


# The row as a whole, which could be assigned or given out under another name: but for `new.column` and `return new`.
_WHOLE_ROW = re.compile(r"(?<!\breturn )\bnew\b(?!\s*\.)|\breturn\s+(?!new\s*;|old\s*;|null\s*;)")


def _may_assign(body: str, columns: Iterable[str]) -> bool:
    body = re.sub(r"\breturn\s+", "return ", body)
    named = any(re.search(rf"(?<![\w$]){re.escape(column.lower())}(?![\w$])", body) for column in columns)
    return named or 'u&"' in body or _WHOLE_ROW.search(body) is not None


def triggers(told: Iterable[Sequence[object]] | None) -> tuple[Trigger, ...]:
    """What `TRIGGERS` tells."""
    return tuple(Trigger(*facts) for facts in told or ())  # type: ignore[arg-type]
