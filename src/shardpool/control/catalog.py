"""What is asked of a shard for the catalog of its tables, functions and operators: see `query.analysis.catalog`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .own_sql import qualified
from .settings import SETTINGS
from .storing import CASCADES, RULES, TRIGGERS, UNIQUE

# Tables are found by `= any (array(…))`, which takes less time to be planned than a join, or `in`, would.
_NAMED = """\
with recursive named as materialized (
    select n.name, pg_catalog.to_regclass(
               pg_catalog.quote_ident(pg_catalog.split_part(n.name, '.', 1)) || '.' ||
               pg_catalog.quote_ident(pg_catalog.split_part(n.name, '.', 2)))::pg_catalog.oid as oid
    from pg_catalog.unnest(%s::pg_catalog.text[]) n (name)
),
family (oid) as (
    select oid from named union select h.inhrelid from pg_catalog.pg_inherits h join family f on f.oid = h.inhparent
)
"""

# A number that changes with each row of the system catalogs that is read for a catalog; not with ANALYZE or VACUUM.
_MARK = """\
select coalesce(pg_catalog.sum(pg_catalog.hashtextextended(r.facts, 0)), 0)::pg_catalog.text
from (
    select pg_catalog.concat('c ', c.oid, ' ', c.xmin) as facts
    from pg_catalog.pg_class c where c.oid = any (array(select oid from named))
    union all select pg_catalog.concat('a ', a.attrelid, ' ', a.attnum, ' ', a.xmin)
    from pg_catalog.pg_attribute a where a.attrelid = any (array(select oid from named))
    union all select pg_catalog.concat('d ', d.oid, ' ', d.xmin)
    from pg_catalog.pg_attrdef d where d.adrelid = any (array(select oid from named))
    union all select pg_catalog.concat('i ', i.indexrelid, ' ', i.xmin)
    from pg_catalog.pg_index i where i.indrelid = any (array(select oid from named))
    union all select pg_catalog.concat('t ', t.oid, ' ', t.xmin)
    from pg_catalog.pg_trigger t where t.tgrelid = any (array(select oid from family))
    union all select pg_catalog.concat('r ', r.oid, ' ', r.xmin)
    from pg_catalog.pg_rewrite r where r.ev_class = any (array(select oid from named))
    union all select pg_catalog.concat('h ', h.inhrelid, ' ', h.xmin)
    from pg_catalog.pg_inherits h where h.inhparent = any (array(select oid from family))
    union all select pg_catalog.concat('p ', p.oid, ' ', p.xmin) from pg_catalog.pg_proc p where p.oid >= 16384
    union all select pg_catalog.concat('o ', o.oid, ' ', o.xmin) from pg_catalog.pg_operator o where o.oid >= 16384
    union all select pg_catalog.concat('e ', e.oid, ' ', e.xmin) from pg_catalog.pg_enum e
    union all select pg_catalog.concat('t ', t.oid, ' ', t.xmin) from pg_catalog.pg_type t
    where t.oid >= 16384 and t.typrelid = 0 and t.typcategory <> 'A'
    union all select pg_catalog.concat('k ', k.oid, ' ', k.xmin) from pg_catalog.pg_cast k where k.oid >= 16384
    union all select pg_catalog.concat('n ', n.oid, ' ', n.xmin) from pg_catalog.pg_namespace n where n.oid >= 16384
) r
"""

# As much for sequences: it changes when one is made, altered or restarted, and not when it is drawn from.
_SEQUENCES_MARK = """\
select coalesce(pg_catalog.sum(pg_catalog.hashtextextended(
           pg_catalog.concat(q.seqrelid, ' ', q.xmin, ' ', c.relfilenode), 0)), 0)::pg_catalog.text
from pg_catalog.pg_sequence q join pg_catalog.pg_class c on c.oid = q.seqrelid
where c.relpersistence <> 't'
"""

_MARKS = f"pg_catalog.json_build_array(({_MARK}), ({_SEQUENCES_MARK}))"

# Two numbers, as JSON: of tables, functions and what they use, and of sequences.
MARK_QUERY = qualified(f"{_NAMED}select {_MARKS}::pg_catalog.text")

# Oids of what is not PostgreSQL's own begin at 16384 (FirstNormalObjectId): it is found without reading all the rest.
_NOT_BUILT_IN = "n.nspname <> all ('{pg_catalog,information_schema,shardpool}'::pg_catalog.name[])"
# The name of an argument's type; null for those that take several types.
_TYPE = """\
case when {type}.typtype <> all ('{{c,d,p}}'::pg_catalog."char"[]) and {type}.typcategory <> 'A'
     then pg_catalog.format_type({type}.oid, null) end"""
_OWN = "'pg_catalog'::pg_catalog.regnamespace"
# Functions and operators of others end with what tells them from one of PostgreSQL's own of that name: `true` when it
# has the same arguments, and hides them; else the types of the arguments; null when nothing does. By joins: what looks
# expensive, as a subquery for each would, is compiled by the server for seconds (jit, on by default).
_FUNCTIONS = f"""\
select distinct pg_catalog.jsonb_build_array(
           p.proname, p.prokind, p.provolatile, p.proretset, l.lanname,
           case when b.oid is not null then pg_catalog.to_json(true)
                when r.proname is not null and p.provariadic = 0 and p.pronargdefaults = 0
                then coalesce(y.types, '[]'::pg_catalog.json) end) as facts
from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
left join pg_catalog.pg_proc b on b.pronamespace = {_OWN} and b.proname = p.proname and b.proargtypes = p.proargtypes
left join (select distinct b.proname from pg_catalog.pg_proc b where b.pronamespace = {_OWN}) r
     on r.proname = p.proname
left join (select p.oid, pg_catalog.json_agg({_TYPE.format(type="t")} order by a.number) as types
           from pg_catalog.pg_proc p
           cross join lateral pg_catalog.unnest(p.proargtypes) with ordinality a (type, number)
           join pg_catalog.pg_type t on t.oid = a.type where p.oid >= 16384 group by p.oid) y on y.oid = p.oid
where p.oid >= 16384 and {_NOT_BUILT_IN}
union
select pg_catalog.jsonb_build_array(t.typname, 't', 'i', false, 'internal', null)
from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
where t.oid >= 16384 and {_NOT_BUILT_IN} and n.nspname !~ '^pg_t'
and t.typrelid = 0 and t.typtype <> 'p' and t.typcategory <> 'A'"""
_OPERATORS = f"""\
select distinct pg_catalog.jsonb_build_array(
           o.oprname, p.provolatile, l.lanname,
           case when b.oid is not null then pg_catalog.to_json(true)
                when r.oprname is null then null
                when x.oid is null then pg_catalog.json_build_array({_TYPE.format(type="y")})
                else pg_catalog.json_build_array({_TYPE.format(type="x")}, {_TYPE.format(type="y")}) end
       ) as facts
from pg_catalog.pg_operator o join pg_catalog.pg_proc p on p.oid = o.oprcode
join pg_catalog.pg_language l on l.oid = p.prolang
join pg_catalog.pg_namespace n on n.oid = o.oprnamespace
left join pg_catalog.pg_type x on x.oid = o.oprleft left join pg_catalog.pg_type y on y.oid = o.oprright
left join pg_catalog.pg_operator b on b.oprnamespace = {_OWN} and b.oprname = o.oprname
     and b.oprleft = o.oprleft and b.oprright = o.oprright
left join (select distinct b.oprname from pg_catalog.pg_operator b where b.oprnamespace = {_OWN}) r
     on r.oprname = o.oprname
where o.oid >= 16384 and n.nspname <> 'pg_catalog'"""

# One JSON text per server. Expanded by format_type() and the like, since oids differ from server to server. A default
# names no column: pg_get_expr() is told of no table, which it would lock to name its columns, and waits for nobody.
# Names are quoted only where they must be, and what the setting was comes back at the statement's end.
_SETTING = "(select pg_catalog.set_config('quote_all_identifiers', 'off', true) offset 0) s"
_COLUMNS = """\
select a.attrelid, pg_catalog.json_agg(pg_catalog.json_build_array(
           a.attnum, l.collversion, a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
           l.collname, coalesce(l.collisdeterministic, true),
           case when a.attidentity <> '' then 'identity'
                when a.attgenerated = '' then pg_catalog.pg_get_expr(d.adbin, 0) end,
           a.attgenerated <> '', t.typtype = 'd') order by a.attnum) as columns
from pg_catalog.pg_attribute a left join pg_catalog.pg_collation l on l.oid = a.attcollation
left join pg_catalog.pg_type t on t.oid = a.atttypid
left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = any (array(select oid from named)) and a.attnum > 0 and not a.attisdropped group by a.attrelid"""
_INDEXES = """\
select i.indrelid, pg_catalog.json_agg(pg_catalog.json_build_array(
           x.relname, i.indkey::pg_catalog.int2[], i.indnkeyatts, i.indisprimary, i.indisexclusion)
           order by x.relname) as indexes
from pg_catalog.pg_index i join pg_catalog.pg_class x on x.oid = i.indexrelid
where i.indrelid = any (array(select oid from named)) and (i.indisunique or i.indisexclusion) group by i.indrelid"""
# Whether there is anything that `OTHERS_QUERY` would tell.
_HAS_OTHERS = " or ".join(
    f"""exists (select from pg_catalog.{catalog} o where o.oid >= 16384 {more} and o.{namespace} <> all (array[
        'pg_catalog'::pg_catalog.regnamespace, 'information_schema'::pg_catalog.regnamespace,
        coalesce(pg_catalog.to_regnamespace('shardpool'), 'pg_catalog'::pg_catalog.regnamespace)]::pg_catalog.oid[]))"""
    for catalog, namespace, more in (
        ("pg_proc", "pronamespace", ""),
        ("pg_operator", "oprnamespace", ""),
        ("pg_type", "typnamespace", "and o.typrelid = 0 and o.typcategory <> 'A'"),
    )
)

CATALOG_QUERY = qualified(f"""
{_NAMED}select pg_catalog.json_build_object(
    'mark', {_MARKS},
    'tables', (select pg_catalog.json_object_agg(n.name, pg_catalog.json_build_object(
            'kind', c.relkind, 'rls', c.relrowsecurity,
            'more', c.relhastriggers or c.relhasrules or c.relhassubclass or c.relispartition,
            'visible', coalesce(
                pg_catalog.to_regclass(pg_catalog.quote_ident(c.relname))::pg_catalog.oid = c.oid, false),
            'columns', a.columns, 'indexes', i.indexes))
        from named n join pg_catalog.pg_class c on c.oid = n.oid
        left join ({_COLUMNS}) a on a.attrelid = c.oid
        left join ({_INDEXES}) i on i.indrelid = c.oid),
    'others', ({_HAS_OTHERS}),
    'settings', {SETTINGS}::pg_catalog.json,
    'database', (select pg_catalog.to_jsonb(d) from pg_catalog.pg_database d
                 where d.datname = pg_catalog.current_database())
)::pg_catalog.text
from {_SETTING}
""")
"""The first question, of all tables. `further` has the others, and `facts` joins what was told.

What most tables and databases do not have is asked only of those that have it: a server takes longer to plan such
queries than to run them. The first has the mark: what changes after it is noticed by that.
"""

WRITES_QUERY = qualified(f"""
{_NAMED}select pg_catalog.json_object_agg(n.name, pg_catalog.json_build_object(
    'triggered', exists (
        select from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
        where t.tgrelid = n.oid and not t.tgisinternal and t.tgenabled <> 'D'
          and p.pronamespace <> coalesce(pg_catalog.to_regnamespace('shardpool')::pg_catalog.oid, 0)),
    'unique', {UNIQUE.format(table="n.oid")},
    'triggers', {TRIGGERS.format(table="n.oid")},
    'rules', {RULES.format(table="n.oid")},
    'cascades', {CASCADES.format(table="n.oid")}))::pg_catalog.text
from named n where n.oid is not null
""")
"""What writes of these tables set off."""

SEQUENCES_QUERY = qualified(f"""
{_NAMED}select pg_catalog.json_object_agg(x.name, x.columns)::pg_catalog.text from (
    select n.name, pg_catalog.json_object_agg(a.attname, pg_catalog.json_build_array(
               pg_catalog.quote_ident(v.nspname) || '.' || pg_catalog.quote_ident(s.relname), q.seqincrement,
               a.attidentity = 'a')) as columns
    from named n
    join pg_catalog.pg_attribute a on a.attrelid = n.oid and a.attnum > 0 and not a.attisdropped
    left join pg_catalog.pg_attrdef f on f.adrelid = a.attrelid and f.adnum = a.attnum
    join pg_catalog.pg_depend d on
         (a.attidentity <> '' and d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
          and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.refobjid = a.attrelid
          and d.refobjsubid = a.attnum and d.deptype = 'i')
         or (d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass and d.objid = f.oid
             and d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass and d.deptype = 'n')
    join pg_catalog.pg_sequence q on q.seqrelid = case when a.attidentity <> '' then d.objid else d.refobjid end
    join pg_catalog.pg_class s on s.oid = q.seqrelid join pg_catalog.pg_namespace v on v.oid = s.relnamespace
    group by n.name) x
""")
"""By table and column the sequences that number it: name, step, and whether nobody else may (GENERATED ALWAYS)."""

OTHERS_QUERY = qualified(f"""
{_NAMED}select pg_catalog.json_build_object(
    'functions', (select pg_catalog.json_agg(f.facts order by f.facts::pg_catalog.text) from ({_FUNCTIONS}) f),
    'operators', (select pg_catalog.json_agg(f.facts order by f.facts::pg_catalog.text) from ({_OPERATORS}) f),
    'casts', (select pg_catalog.json_agg(pg_catalog.json_build_array(
                  pg_catalog.format_type(k.castsource, null), pg_catalog.format_type(k.casttarget, null)))
              from pg_catalog.pg_cast k where k.castcontext = 'i'),
    'enums', (select pg_catalog.json_object_agg(e.name, e.labels) from (
        select pg_catalog.format_type(t.oid, null) as name,
               (select pg_catalog.string_agg(l.enumlabel, ', ' order by l.enumsortorder)
                from pg_catalog.pg_enum l where l.enumtypid = t.oid) as labels
        from pg_catalog.pg_type t
        where t.typtype = 'e' and t.oid >= 16384 and exists (
            select from pg_catalog.pg_attribute a
            where a.attrelid = any (array(select oid from named))
              and (a.atttypid = t.oid or a.atttypid = t.typarray))) e)
)::pg_catalog.text
from {_SETTING}
""")
"""The functions and operators that are not PostgreSQL's own, casts, and the enums of these tables."""

BUILT_IN_QUERY = qualified("""
select pg_catalog.json_agg(pg_catalog.json_build_array(f.name, f.kind, f.volatility, f.gives_set))::pg_catalog.text
from (
    select p.proname as name, p.prokind as kind, p.provolatile as volatility, p.proretset as gives_set
    from pg_catalog.pg_proc p where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
    group by p.proname, p.prokind, p.provolatile, p.proretset
    union all
    select t.typname, 't', 'i', false
    from pg_catalog.pg_type t
    where t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
    and t.typrelid = 0 and t.typtype <> 'p' and t.typcategory <> 'A') f
""")


# The functions of these names that are not PostgreSQL's own nor IMMUTABLE: name, language, body, volatility.
BODIES_QUERY = qualified(f"""
select pg_catalog.json_agg(pg_catalog.json_build_array(
           p.proname, l.lanname, coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc), p.provolatile)
       order by p.oid)::pg_catalog.text
from pg_catalog.pg_proc p join pg_catalog.pg_language l on l.oid = p.prolang
join pg_catalog.pg_namespace n on n.oid = p.pronamespace
where p.proname = any (%s::pg_catalog.name[]) and p.provolatile <> 'i' and {_NOT_BUILT_IN}
""")


def further(catalog: Mapping[str, Any], tables: Sequence[str]) -> dict[str, tuple[str, list[Any]]]:
    """What else a shard has to be asked for `facts` of these tables, by name; its answer to `CATALOG_QUERY` says so."""
    known = (catalog["tables"] or {}).items()
    more = [name for name, facts in known if facts["more"] or any(index[-1] for index in facts["indexes"] or ())]
    asked: dict[str, tuple[str, list[Any]]] = {}
    if more:
        asked["writes"] = (WRITES_QUERY, [more])
    if numbered := [name for name, facts in known if any(map(_is_numbered, facts["columns"] or ()))]:
        asked["sequences"] = (SEQUENCES_QUERY, [numbered])
    if catalog["others"]:
        asked["others"] = (OTHERS_QUERY, [list(tables)])
    return asked


def _is_numbered(column: Sequence[Any]) -> bool:
    default = column[7]
    return default is not None and (default == "identity" or "nextval(" in default)


_NOTHING_OTHER = dict.fromkeys(("functions", "operators", "casts", "enums"))
_NOTHING_WRITTEN = {"triggered": False, **dict.fromkeys(("triggers", "rules", "cascades"))}


def facts(catalog: Mapping[str, Any], answers: Mapping[str, Any]) -> dict[str, Any]:
    """What a shard says of its tables: the answer to `CATALOG_QUERY`, and those to `further` by name."""
    tables, writes = catalog["tables"] or {}, answers.get("writes") or {}
    columns = [column for table in tables.values() for column in table["columns"] or ()]
    database = catalog["database"]
    return {
        "mark": catalog["mark"],
        "tables": {name: {**_table(table), **writes.get(name, {})} for name, table in tables.items()},
        "sequences": answers.get("sequences") or {},
        **(answers.get("others") or _NOTHING_OTHER),
        "settings": catalog["settings"],
        "database": {
            **{name: database.get(name) for name in ("datcollate", "datctype", "datlocprovider", "datcollversion")},
            "datlocale": database.get("datlocale") or database.get("daticulocale"),
        },
        "collations": {column[5]: column[1] for column in columns if column[1] is not None},
    }


def _table(table: Mapping[str, Any]) -> dict[str, Any]:
    columns = table["columns"] or ()
    names = {number: name for number, _, name, *_ in columns}
    indexes = table["indexes"] or ()
    unique = [[index, [names.get(number) for number in held[:count]], False] for index, held, count, _, _ in indexes]
    key = next(([names[number] for number in held] for _, held, _, is_primary, _ in indexes if is_primary), None)
    return {
        **{name: table[name] for name in ("kind", "rls", "visible")},
        "columns": [column[2:] for column in columns],
        "key": key,
        "unique": unique or None,
        **_NOTHING_WRITTEN,
    }
