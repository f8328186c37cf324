"""What the shards know that SQL text does not tell: columns, keys, collations, functions. Values, and SQL for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from ..own_sql import qualified
from ..settings import TOLD
from ..storing import RULES, TRIGGERS, UNIQUE, Trigger, triggers
from ..topology import Topology

_NAMED = """\
with recursive named as (
    select n.name, pg_catalog.to_regclass(
               pg_catalog.quote_ident(pg_catalog.split_part(n.name, '.', 1)) || '.' ||
               pg_catalog.quote_ident(pg_catalog.split_part(n.name, '.', 2))) as oid
    from pg_catalog.unnest(%s::pg_catalog.text[]) n (name)
),
family (oid) as (
    select oid from named union select h.inhrelid from pg_catalog.pg_inherits h join family f on f.oid = h.inhparent
)
"""

# A number that changes with each row of the system catalogs that is read for a catalog; not with ANALYZE or VACUUM.
_MARK = """\
select pg_catalog.to_json(coalesce(pg_catalog.sum(pg_catalog.hashtextextended(r.facts, 0)), 0)::pg_catalog.text)
from (
    select pg_catalog.concat('c ', c.oid, ' ', c.xmin) as facts
    from pg_catalog.pg_class c where c.oid = any (select oid from named)
    union all select pg_catalog.concat('a ', a.attrelid, ' ', a.attnum, ' ', a.xmin)
    from pg_catalog.pg_attribute a where a.attrelid = any (select oid from named)
    union all select pg_catalog.concat('d ', d.oid, ' ', d.xmin)
    from pg_catalog.pg_attrdef d where d.adrelid = any (select oid from named)
    union all select pg_catalog.concat('i ', i.indexrelid, ' ', i.xmin)
    from pg_catalog.pg_index i where i.indrelid = any (select oid from named)
    union all select pg_catalog.concat('t ', t.oid, ' ', t.xmin)
    from pg_catalog.pg_trigger t where t.tgrelid = any (select oid from family)
    union all select pg_catalog.concat('r ', r.oid, ' ', r.xmin)
    from pg_catalog.pg_rewrite r where r.ev_class = any (select oid from named)
    union all select pg_catalog.concat('h ', h.inhrelid, ' ', h.xmin)
    from pg_catalog.pg_inherits h where h.inhparent = any (select oid from family)
    union all select pg_catalog.concat('p ', p.oid, ' ', p.xmin) from pg_catalog.pg_proc p where p.oid >= 16384
    union all select pg_catalog.concat('o ', o.oid, ' ', o.xmin) from pg_catalog.pg_operator o where o.oid >= 16384
    union all select pg_catalog.concat('e ', e.oid, ' ', e.xmin) from pg_catalog.pg_enum e
    union all select pg_catalog.concat('t ', t.oid, ' ', t.xmin) from pg_catalog.pg_type t
    where t.oid >= 16384 and t.typrelid = 0 and t.typcategory <> 'A'
    union all select pg_catalog.concat('k ', k.oid, ' ', k.xmin) from pg_catalog.pg_cast k where k.oid >= 16384
    union all select pg_catalog.concat('n ', n.oid, ' ', n.xmin) from pg_catalog.pg_namespace n where n.oid >= 16384
) r
"""

MARK_QUERY = qualified(f"{_NAMED}select ({_MARK})::pg_catalog.text")

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
where {_NOT_BUILT_IN}
union
select pg_catalog.jsonb_build_array(t.typname, 't', 'i', false, 'internal', null)
from pg_catalog.pg_type t join pg_catalog.pg_namespace n on n.oid = t.typnamespace
where {_NOT_BUILT_IN} and n.nspname !~ '^pg_t'
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
where n.nspname <> 'pg_catalog'"""

# One JSON text per server. Expanded by format_type() and the like, since oids differ from server to server. A default
# names no column: pg_get_expr() is told of no table, which it would lock to name its columns, and waits for nobody.
# Names are quoted only where they must be, and what the setting was comes back at the statement's end.
CATALOG_QUERY = qualified(f"""
{_NAMED}select pg_catalog.json_build_object(
    'mark', ({_MARK}),
    'tables', (select pg_catalog.json_object_agg(n.name, pg_catalog.json_build_object(
            'kind', c.relkind, 'rls', c.relrowsecurity, 'triggered', exists (
                select from pg_catalog.pg_trigger t join pg_catalog.pg_proc p on p.oid = t.tgfoid
                where t.tgrelid = c.oid and not t.tgisinternal and t.tgenabled <> 'D'
                  and p.pronamespace <> coalesce(pg_catalog.to_regnamespace('shardpool')::pg_catalog.oid, 0)),
            'visible', coalesce(
                pg_catalog.to_regclass(pg_catalog.quote_ident(c.relname))::pg_catalog.oid = c.oid, false),
            'columns', (select pg_catalog.json_agg(pg_catalog.json_build_array(
                            a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), a.attnotnull,
                            l.collname, coalesce(l.collisdeterministic, true),
                            case when a.attidentity <> '' then 'identity'
                                 when a.attgenerated = '' then pg_catalog.pg_get_expr(d.adbin, 0) end,
                            a.attgenerated <> '',
                            (select t.typtype = 'd' from pg_catalog.pg_type t where t.oid = a.atttypid))
                            order by a.attnum)
                        from pg_catalog.pg_attribute a left join pg_catalog.pg_collation l on l.oid = a.attcollation
                        left join pg_catalog.pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
            'key', (select pg_catalog.json_agg(a.attname order by k.number)
                    from pg_catalog.pg_index i
                    cross join lateral pg_catalog.unnest(i.indkey) with ordinality k (attnum, number)
                    join pg_catalog.pg_attribute a on a.attrelid = c.oid and a.attnum = k.attnum
                    where i.indrelid = c.oid and i.indisprimary),
            'unique', {UNIQUE.format(table="c.oid")},
            'triggers', {TRIGGERS.format(table="c.oid")},
            'rules', {RULES.format(table="c.oid")}))
        from named n join pg_catalog.pg_class c on c.oid = n.oid),
    'functions', (select pg_catalog.json_agg(f.facts order by f.facts::pg_catalog.text) from ({_FUNCTIONS}) f),
    'operators', (select pg_catalog.json_agg(f.facts order by f.facts::pg_catalog.text) from ({_OPERATORS}) f),
    'casts', (select pg_catalog.json_agg(pg_catalog.json_build_array(
                  pg_catalog.format_type(k.castsource, null), pg_catalog.format_type(k.casttarget, null)))
              from pg_catalog.pg_cast k where k.castcontext = 'i'),
    'settings', {TOLD}::pg_catalog.json,
    'database', (select pg_catalog.json_build_object(
                     'datcollate', d.datcollate, 'datctype', d.datctype,
                     'datlocprovider', pg_catalog.to_jsonb(d) ->> 'datlocprovider',
                     'datlocale', coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale',
                                           pg_catalog.to_jsonb(d) ->> 'daticulocale'),
                     'datcollversion', pg_catalog.to_jsonb(d) ->> 'datcollversion')
                 from pg_catalog.pg_database d where d.datname = pg_catalog.current_database()),
    'enums', (select pg_catalog.json_object_agg(e.name, e.labels) from (
        select pg_catalog.format_type(t.oid, null) as name,
               (select pg_catalog.string_agg(l.enumlabel, ', ' order by l.enumsortorder)
                from pg_catalog.pg_enum l where l.enumtypid = t.oid) as labels
        from pg_catalog.pg_type t
        where t.typtype = 'e' and exists (
            select from pg_catalog.pg_attribute a join named n on a.attrelid = n.oid
            where (a.atttypid = t.oid) or (a.atttypid = t.typarray))) e),
    'collations', (select pg_catalog.json_object_agg(l.collname, l.collversion)
                   from pg_catalog.pg_collation l
                   where l.collversion is not null and exists (
                       select from pg_catalog.pg_attribute a join named n on a.attrelid = n.oid
                       where a.attcollation = l.oid))
)::pg_catalog.text
from (select pg_catalog.set_config('quote_all_identifiers', 'off', true) offset 0) s
""")

BUILT_IN_QUERY = qualified("""
select pg_catalog.json_agg(f.facts)::pg_catalog.text from (
    select distinct pg_catalog.jsonb_build_array(p.proname, p.prokind, p.provolatile, p.proretset) as facts
    from pg_catalog.pg_proc p where p.pronamespace = 'pg_catalog'::pg_catalog.regnamespace
    union
    select pg_catalog.jsonb_build_array(t.typname, 't', 'i', false)
    from pg_catalog.pg_type t
    where t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
    and t.typrelid = 0 and t.typtype <> 'p' and t.typcategory <> 'A') f
""")


@dataclass(frozen=True, slots=True)
class Column:
    """`type` as format_type() spells it; `collation` is None for types that have none.

    `default` is SQL, `identity`, or None.
    """

    name: str
    type: str
    not_null: bool
    collation: str | None
    deterministic: bool
    default: str | None
    generated: bool = False
    of_domain: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """One table, alike on all shards. `key` is its primary key, empty when it has none.

    `unique` are the names of its unique indexes and exclusion constraints, each with the columns that are equal in rows
    that conflict; None stands for an expression. `rules` are those that rewrite INSERT or UPDATE. `triggers` are those
    that may change a row that is stored, `has_triggers` tells of any.
    """

    name: str
    kind: str
    row_security: bool
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    unique: tuple[tuple[str, frozenset[str | None]], ...] = ()
    triggers: tuple[Trigger, ...] = ()
    rules: tuple[str, ...] = ()
    has_triggers: bool = False

    def column(self, name: str) -> Column | None:
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class Function:
    """All functions of one name together: `kinds` of pg_proc.prokind, the worst volatility, whether any gives a set.

    A type is one of kind `t`: where no function takes the argument, `type(x)` is a cast.
    """

    kinds: frozenset[str]
    volatility: str
    gives_set: bool
    built_in: bool = True

    @property
    def is_aggregate(self) -> bool:
        return "a" in self.kinds


# What a function takes: for each argument the types of what may be given for it, implicit casts included; None is any.
Takes = Sequence[Set[str] | None]


@dataclass(frozen=True)
class Catalog:
    """What all shards that were compared agree on. `visible` maps a table's bare name to its qualified one.

    `functions` and `operators` are by name all that there are. Where others have one of the name of PostgreSQL's own,
    and what they take is known, `other_functions` and `other_operators` tell it, and `own` is PostgreSQL's.
    """

    tables: Mapping[str, Table]
    visible: Mapping[str, str]
    functions: Mapping[str, Function]
    operators: Mapping[str, str]
    own: Mapping[str, Function] = field(default_factory=dict)
    other_functions: Mapping[str, Sequence[Takes]] = field(default_factory=dict)
    other_operators: Mapping[str, Sequence[Takes]] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    collation: str = ""
    # The shards whose single tables are among the tables.
    told_by: frozenset[str] = frozenset()

    def resolve(self, schema: str, name: str) -> str | None:
        """The qualified name of a table as the servers' search_path finds it; None when they find nothing known."""
        if schema:
            return f"{schema}.{name}"
        return self.visible.get(name)

    def function(self, names: Sequence[str]) -> Function | None:
        """What a call of this name, perhaps with its schema, may mean."""
        own = self.own.get(names[-1]) if names[:-1] == ["pg_catalog"] else None
        return own or self.functions.get(names[-1])

    def volatility(self, operator: Sequence[str]) -> str:
        """The worst that an operator of this name, perhaps with its schema, may be; PostgreSQL's own are IMMUTABLE."""
        return "i" if operator[:-1] == ["pg_catalog"] or not operator else self.operators.get(operator[-1], "i")

    def has_function(self, name: str) -> bool:
        """Whether there is a function of that name, not a type alone."""
        function = self.functions.get(name)
        return function is not None and function.kinds != {"t"}

    def sorts_by_bytes(self, collation: str | None) -> bool:
        """Whether text of this collation is ordered by its UTF-8 bytes."""
        name = self.collation if collation == "default" else collation
        encodings = {self.settings.get("server_encoding"), self.settings.get("client_encoding")}
        return name in ("C", "POSIX", "ucs_basic") and encodings == {"UTF8"}


class NeedsShard(Exception):
    """A single table of this shard is meant, and the shard has not been asked yet."""

    def __init__(self, shard: str) -> None:
        super().__init__(shard)
        self.shard = shard


def make_catalog(shard: str, told: Mapping[str, Any], built_in: list[Any], topology: Topology) -> Catalog:
    """The catalog of one shard's answer to `CATALOG_QUERY` (as JSON), with PostgreSQL's own functions."""
    tables, visible = _tables(shard, told, topology)
    own = _functions(built_in, built_in=True)
    functions = dict(own)
    for name, function in _functions(told["functions"] or [], built_in=False).items():
        functions[name] = _worse(functions[name], function) if name in functions else function
    operators: dict[str, str] = {}
    for name, volatility, language, *_ in told["operators"] or []:
        operators[name] = max(operators.get(name, "i"), _believed(volatility, language), key="isv".index)
    database = told["database"]
    collation = database["datcollate"] if database["datlocprovider"] in (None, "c") else database["datlocale"]
    known = Catalog(tables, visible, functions, operators, settings=told["settings"], collation=collation or "")
    if "pg_catalog" in told["settings"].get("search_path", ""):
        # PostgreSQL's own may not be looked for first.
        return replace(known, told_by=frozenset((shard,)))
    casts: dict[str, set[str]] = {}
    for source, target in told["casts"] or []:
        casts.setdefault(target, set()).add(source)
    apart = {key: _told_apart(told[key] or [], casts) for key in ("functions", "operators")}
    return replace(
        known,
        own={name: own[name] for name in apart["functions"]},
        other_functions=apart["functions"],
        other_operators=apart["operators"],
        told_by=frozenset((shard,)),
    )


def _told_apart(rows: list[Any], casts: Mapping[str, Set[str]]) -> dict[str, list[Takes]]:
    """What those take that are not PostgreSQL's own, of names of which all that have them can be told from those."""
    found: dict[str, list[Any]] = {}
    for name, *_, types in rows:
        found.setdefault(name, []).append(types)
    return {
        name: [_takes(types, casts) for types in every if types is not True]
        for name, every in found.items()
        if None not in every
    }


def _takes(types: list[str | None], casts: Mapping[str, Set[str]]) -> Takes:
    return [None if type_ is None else {type_, *casts.get(type_, ())} for type_ in types]


def with_singles(catalog: Catalog, shard: str, told: Mapping[str, Any], topology: Topology) -> Catalog:
    """The catalog with the single tables of one more shard."""
    tables, visible = _tables(shard, told, topology)
    return replace(
        catalog,
        tables={**tables, **catalog.tables},
        visible={**visible, **catalog.visible},
        told_by=catalog.told_by | {shard},
    )


_ON_WRITES = ("unique", "triggers", "rules")


def shapes(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a shard has told of its tables, but for what says what becomes of writes only: it may differ for a time."""
    tables = (told["tables"] or {}).items()
    return {name: {key: fact for key, fact in facts.items() if key not in _ON_WRITES} for name, facts in tables}


def _tables(shard: str, told: Mapping[str, Any], topology: Topology) -> tuple[dict[str, Table], dict[str, str]]:
    """The tables of one shard's answer, single tables only where they live, and the names that stand for them."""
    found = {
        name: facts
        for name, facts in (told["tables"] or {}).items()
        if topology.single_tables.get(name, shard) == shard
    }
    visible = {name.split(".", 1)[1]: name for name, facts in found.items() if facts["visible"]}
    return {name: _table(name, facts) for name, facts in found.items()}, visible


def _table(name: str, facts: Mapping[str, Any]) -> Table:
    columns = tuple(Column(*column) for column in facts["columns"] or [])
    unique = tuple((index, frozenset(held or ())) for index, held in facts.get("unique") or ())
    stored = triggers(facts.get("triggers"))
    rules, key = tuple(facts.get("rules") or ()), tuple(facts["key"] or ())
    return Table(name, facts["kind"], facts["rls"], columns, key, unique, stored, rules, facts.get("triggered", False))


def _functions(rows: list[Any], *, built_in: bool) -> dict[str, Function]:
    found: dict[str, Function] = {}
    for name, kind, volatility, gives_set, *others in rows:
        believed = _believed(volatility, others[0]) if others else volatility
        function = Function(frozenset(kind), believed, gives_set, built_in)
        known = found.get(name)
        found[name] = function if known is None else _worse(known, function)
    return found


def _believed(volatility: str, language: str) -> str:
    """A function that is not IMMUTABLE may read tables, whatever its language: only IMMUTABLE is taken at its word."""
    return "i" if volatility == "i" else "v"


def _worse(one: Function, other: Function) -> Function:
    return Function(
        one.kinds | other.kinds,
        max(one.volatility, other.volatility, key="isv".index),
        one.gives_set or other.gives_set,
        one.built_in and other.built_in,
    )
