"""Random SELECT statements whose answer is one answer, up to the order of the rows.

What keeps them so: LIMIT, DISTINCT ON, window functions and aggregates that keep an order have a total order; what is
grouped, counted as distinct or compared by a set operation has one text per value; floats that were added up are only
given out, never tested.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .expressions import NOT_CANON, TABLES, TYPES, E, Expressions, Rel, by_text, relation

TENANT_TABLES = ("customers", "orders", "items")
SMALL = ("countries", "rates", "other.orders", "audit")
# What belongs together beside the tenant.
RELATED = {
    ("customers", "orders"): ("id", "customer_id"),
    ("orders", "customers"): ("customer_id", "id"),
    ("orders", "items"): ("id", "order_id"),
    ("items", "orders"): ("order_id", "id"),
}
TOO_MANY_ROWS = 15_000


@dataclass(frozen=True)
class Case:
    """A statement; see `compare` for what `ordered` and `inexact` are."""

    sql: str
    params: Any
    ordered: tuple[int, ...] | None
    inexact: frozenset[int]
    kind: str


@dataclass
class Query:
    """A SELECT that was made: its columns by name (names are only told apart when it is derived)."""

    sql: str
    outs: list[E]
    names: list[str]
    ordered: list[int] | None = None
    rows: int = 100
    key: str | None = None
    kind: str = "plain"

    def inexact(self) -> frozenset[int]:
        return frozenset(position for position, e in enumerate(self.outs) if not e.exact)


@dataclass
class Source:
    """A FROM clause."""

    sql: str
    rels: list[Rel]
    rows: int
    merged: int = 0
    comma: bool = False
    conditions: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)

    def total(self) -> list[str] | None:
        parts = [rel.total for rel in self.rels]
        return None if any(part is None for part in parts) else [sql for part in parts for sql in part or ()]


class Statements(Expressions):
    """An endless iterator of cases; the same for the same seed."""

    def __init__(self, seed: int | str) -> None:
        super().__init__(seed)
        self.ctes: dict[str, Query] = {}
        self.counter = 0

    def __iter__(self) -> Iterator[Case]:
        while True:
            yield next(self)

    def __next__(self) -> Case:
        self.params = {}
        self.ctes = {}
        self.counter = self.subquery_depth = 0
        self.may_use_params = self.chance(0.75)
        kinds = {"select": 76, "setop": 8, "cte": 10, "recursive": 2, "values": 2, "raising": 0.5, "small": 3}
        query: Query = getattr(self, f"top_{self.weighted(kinds)}")()
        sql, params = self._final(query.sql)
        ordered = None if query.ordered is None else tuple(query.ordered)
        return Case(sql, params, ordered, query.inexact(), query.kind)

    def _final(self, sql: str) -> tuple[str, Any]:
        """By place, by name, or without parameters."""
        names = re.findall(r"%\((p\d+)\)s", sql)
        if not names:
            return sql.replace("%%", "%"), None
        if self.chance(0.2):
            return sql, {name: self.params[name] for name in dict.fromkeys(names)}
        return re.sub(r"%\(p\d+\)s", "%s", sql), [self.params[name] for name in names]

    # -- whole statements ---------------

    def top_select(self) -> Query:
        return self.select(2)

    def top_small(self) -> Query:
        """Tables of one kind only: reference, single."""
        return self.select(0, tables=SMALL)

    def top_setop(self) -> Query:
        return self.setop(1)

    def top_values(self) -> Query:
        rows = [(self.rng.randrange(100), self.pick(("a", "b", "ä", "it''s"))) for _ in range(self.rng.randint(1, 4))]
        sql = "values " + ", ".join(f"({number}, '{text}')" for number, text in rows)
        outs = [E("column1", "int"), E("column2", "text")]
        if self.chance(0.3):
            return Query(f"{sql} order by 1 desc, 2", outs, ["column1", "column2"], [0, 1], kind="values")
        if self.chance(0.3):
            return Query(sql, outs, ["column1", "column2"], kind="values")
        rel = Rel("v", {"a": E("v.a", "int", small=True), "b": E("v.b", "text")}, ["v.a", "v.b"], rows=4)
        query = self.select(0, given=rel, given_sql=f"({sql}) as v(a, b)")
        query.kind = "values"
        return query

    def top_raising(self) -> Query:
        sqls = [
            "select 1 / (qty - qty) from orders where qty is not null",
            "select note::int from orders where note = 'anna'",
            "select name::date from customers where name = 'zoe'",
            "select (select id from customers where tenant_id = orders.tenant_id) from orders",
            "select sqrt(-1 - abs(line)) from items",
            "select tenant_id + 9223372036854775807 from customers where tenant_id > 0",
            "select count(*) from events where 1 / (n * 0) > 0",
            "select nosuch from customers",
            "select * from customers where name = 1",
            "select tenant_id, sum(qty) from orders",
            "select id from customers, orders",
        ]
        return Query(self.pick(sqls), [], [], kind="raising")

    def top_cte(self) -> Query:
        clauses = []
        for number in range(self.pick((1, 1, 2))):
            swap = self.chance(0.2)
            name = self.pick(("customers", "orders", "items", "notes", "events")) if swap else f"w{number}"
            if name in self.ctes:
                name = f"w{number}"
            made = self.setop(0, derived=True) if self.chance(0.15) else self.select(0, derived=True)
            how = self.weighted({"": 6, "materialized ": 1, "not materialized ": 1})
            clauses.append(f"{name} as {how}({made.sql})")
            self.ctes[name] = made
        used = self.pick(list(self.ctes))
        alias = self.alias(used) if self.chance(0.7) else used
        rel = self._derived(self.ctes[used], alias)
        main = self.select(1, given=rel, given_sql=used if alias == used else f"{used} {alias}")
        main.sql = f"with {', '.join(clauses)} {main.sql}"
        main.kind = "cte"
        return main

    def top_recursive(self) -> Query:
        if self.chance(0.5):
            name, rel = "r", Rel("r", {"n": E("r.n", "int", small=True)}, ["r.n"], rows=5)
            body = "select 1 union all select n + 1 from r where n < 5"
            head = "with recursive r(n) as"
        else:
            tenant = self.key_sql("int", self.key_value("int"))
            body = (
                f"select o.tenant_id, o.id, 1 from orders o where o.tenant_id = {tenant} and o.id = 101 union all "
                "select o.tenant_id, o.id, c.step + 1 from orders o join chain c "
                "on o.tenant_id = c.tenant_id and o.id = c.id + 1 where c.step < 20"
            )
            head, name = "with recursive chain(tenant_id, id, step) as", "chain"
            columns = {"tenant_id": E("chain.tenant_id", "int"), "id": E("chain.id", "int", small=True)}
            rel = Rel("chain", {**columns, "step": E("chain.step", "int", small=True)}, ["chain.id"], rows=20)
        main = self.select(0, given=rel, given_sql=name)
        main.sql = f"{head} ({body}) {main.sql}"
        main.kind = "recursive"
        return main

    # -- FROM ---------------

    def alias(self, table: str) -> str:
        self.counter += 1
        return f"{table.split('.')[-1][0]}{self.counter}"

    def table_name(self, among: Sequence[str] | None = None) -> str:
        weights = {"customers": 5, "orders": 6, "items": 3, "notes": 2, "events": 2, "countries": 1}
        weights |= {"rates": 0.6, "other.orders": 0.4, "audit": 0.4}
        free = {name: weight for name, weight in weights.items() if name not in self.ctes}
        return str(self.weighted({name: weight for name, weight in free.items() if among is None or name in among}))

    def table(self, table: str, taken: set[str]) -> tuple[str, Rel]:
        """A table as it stands in FROM."""
        bare = table.split(".")[-1]
        if bare not in taken and self.chance(0.35):
            return table, relation(table, bare)
        swapped = self.pick(("orders", "customers", "items"))
        alias = swapped if self.chance(0.04) and swapped not in taken else self.alias(table)
        found = relation(table, alias)
        word = self.pick(("", "", "as "))
        if self.chance(0.05):
            return self._renamed(table, word, found)
        return f"{table} {word}{alias}", found

    def _renamed(self, table: str, word: str, rel: Rel) -> tuple[str, Rel]:
        """`customers c(id, tenant_id)`: other names for the first columns, perhaps those of one another."""
        names = list(rel.columns)
        first = names[:2][::-1] if self.chance(0.5) else [f"k{number}" for number in range(2)]
        new = dict(zip(names, [*first, *names[2:]], strict=True))
        columns = {new[name]: replace(e, sql=f"{rel.alias}.{new[name]}") for name, e in rel.columns.items()}
        key = TABLES[table][1] or names
        total = [by_text(columns[new[name]]) for name in key]
        shard_key = None if rel.key is None else new[rel.key]
        renamed = replace(rel, columns=columns, total=total, key=shard_key, table="")
        return f"{table} {word}{rel.alias}({', '.join(first)})", renamed

    def _derived(self, query: Query, alias: str) -> Rel:
        columns = {name: replace(e, sql=f"{alias}.{name}") for name, e in zip(query.names, query.outs, strict=True)}
        exact = all(e.exact for e in columns.values())
        total = [by_text(e) for e in columns.values()] if exact else None
        return Rel(alias, columns, total, query.key, query.rows)

    def source(self, depth: int, tables: Sequence[str] | None = None, outer: Sequence[Rel] = ()) -> Source:
        taken = {rel.alias for rel in outer} | set(self.ctes)
        sql, rel = self._entry(depth, taken, tables)
        source = Source(sql, [rel], rel.rows, names={*taken, rel.alias})
        for _ in range(self.weighted({0: 52, 1: 34, 2: 14})):
            self._join(source, depth, tables)
        return source

    def _entry(self, depth: int, taken: set[str], tables: Sequence[str] | None) -> tuple[str, Rel]:
        if depth > 0 and self.chance(0.14):
            made = self.setop(0, derived=True) if self.chance(0.15) else self.select(depth - 1, derived=True)
            alias = self.alias("derived")
            return f"({made.sql}) {alias}", self._derived(made, alias)
        return self.table(self.table_name(tables), taken)

    def _join(self, source: Source, depth: int, tables: Sequence[str] | None) -> None:
        if depth > 0 and self.chance(0.07) and source.rows <= 1000:
            return self._join_lateral(source)
        big = source.rows > 2500
        left = [rel for rel in source.rels if rel.table in TENANT_TABLES]
        if left and self.chance(0.6) and tables is None:
            among = [name for name in TENANT_TABLES if name not in self.ctes]
            if among:
                return self._join_colocated(source, self.pick(left), self.pick(among))
        sql, new = self._entry(depth, source.names, SMALL if big else tables)
        cross = source.rows * new.rows <= 5000 and self.chance(0.3)
        if cross and self.chance(0.7):
            source.comma = source.comma or self.chance(0.5)
            source.sql += f", {sql}" if source.comma else f" cross join {sql}"
            source.rows *= new.rows
        else:
            condition = self._equality(source.rels, new)
            if condition is None:
                return None
            if self.chance(0.25):
                condition += f" and {self.predicate([*source.rels, new] if self.chance(0.5) else [new], 0)}"
            self._add(source, sql, condition)
            source.rows = max(source.rows * new.rows // 12, source.rows, new.rows)
        source.rels.append(new)
        source.names.add(new.alias)
        return None

    def _add(self, source: Source, sql: str, condition: str, comma: bool = False) -> None:
        """One more entry: by JOIN, or by a comma, after which JOIN would not see what stands before it."""
        if source.comma or (comma and " join " not in source.sql):
            source.comma = True
            source.sql += f", {sql}"
            source.conditions.append(condition)
            return
        may_be_full = " or " not in condition and " = " in condition
        kinds = {"join": 5, "inner join": 1, "left join": 4, "right join": 1.2, "full join": 0.8 if may_be_full else 0}
        source.sql += f" {self.weighted(kinds)} {sql} on {condition}"

    def _equality(self, rels: Sequence[Rel], new: Rel) -> str | None:
        """Something that a column of the new relation is equal to, which need not be a key."""
        pairs = [
            (ours, theirs)
            for rel in rels
            for ours in rel.columns.values()
            for theirs in new.columns.values()
            if ours.type == theirs.type
            and ours.type in {"int", "text", "char", "uuid"}
            and ours.small == theirs.small
            and ours.exact
            and theirs.exact
        ]
        if not pairs:
            return None
        alike = [pair for pair in pairs if pair[0].domain and pair[0].domain == pair[1].domain]
        ours, theirs = self.pick(alike if alike and self.chance(0.85) else pairs)
        return f"{ours.sql} = {theirs.sql}" if self.chance(0.6) else f"{theirs.sql} = {ours.sql}"

    def _join_colocated(self, source: Source, left: Rel, table: str) -> None:
        sql, new = self.table(table, source.names)
        related = RELATED.get((left.table, new.table))
        tenants = [f"{left.alias}.tenant_id = {new.alias}.{new.key}"]
        rest = [f"{left.alias}.{related[0]} = {new.alias}.{related[1]}"] if related else []
        if not related and new.table == left.table:
            rest = [f"{left.columns[name].sql} = {new.columns[name].sql}" for name in TABLES[table][1][1:2]]
        style = self.weighted({"full": 6, "key only": 0.8, "off key": 1.2, "where": 0.8, "using": 1.5})
        factor = 3
        per_key = new.rows // 40
        if style == "key only" and source.rows * per_key <= TOO_MANY_ROWS:
            rest, factor = [], per_key
        elif style == "off key" and rest and source.rows <= 2500:
            tenants, factor = [], 25
        if not rest:
            factor = per_key
            if source.rows * factor > TOO_MANY_ROWS:
                return
        conditions = tenants + rest
        if self.chance(0.15):
            conditions.append(self.predicate([left, new] if self.chance(0.5) else [self.pick((left, new))], 0))
        only = sum("tenant_id" in rel.columns for rel in source.rels) == 1
        if (
            style == "using"
            and not source.comma
            and only
            and new.key == "tenant_id"
            and source.merged == 0
            and factor == 3
            and not related
        ):
            kind = self.pick(("join", "left join", "full join", "right join"))
            keys = ["tenant_id", *TABLES[table][1][1:2]] if new.table == left.table else ["tenant_id"]
            source.sql += f" {kind} {sql} using ({', '.join(keys)})"
            source.merged = len(keys)
            factor = 3 if len(keys) == 2 else per_key
        else:
            self._add(source, sql, " and ".join(conditions), comma=style == "where")
        source.rows *= factor
        source.rels.append(new)
        source.names.add(new.alias)

    def _join_lateral(self, source: Source) -> None:
        outer = self.pick(source.rels)
        alias = self.alias("lateral")
        inner_sql, inner, condition = self._inner(source.rels, outer)
        outs = [self.expression([inner], self._type([inner]), 1) for _ in range(2)]
        columns = {f"c{n}": replace(e, sql=f"{alias}.c{n}") for n, e in enumerate(outs)}
        made = ", ".join(f"{e.sql} as c{n}" for n, e in enumerate(outs))
        if self.chance(0.4):
            made, columns = "count(*) as c0", {"c0": E(f"{alias}.c0", "int", small=True)}
            tail = ""
        else:
            tail = f" order by {', '.join(inner.total or [])} limit {self.pick((1, 2, 3))}"
        sub = f"lateral (select {made} from {inner_sql} where {condition}{tail}) {alias}"
        source.sql += f", {sub}" if source.comma else self.pick((f" cross join {sub}", f" left join {sub} on true"))
        source.rels.append(Rel(alias, columns, [by_text(e) for e in columns.values()], rows=3))
        source.names.add(alias)
        source.rows *= 2

    # -- subqueries ---------------

    def _inner(self, rels: Sequence[Rel], outer: Rel | None = None, correlated: bool = True) -> tuple[str, Rel, str]:
        """A table of a subquery, and a condition that ties it to the outer ones."""
        taken = {rel.alias for rel in rels} | set(self.ctes)
        tenant = [rel for rel in rels if rel.table in TENANT_TABLES]
        if outer is not None:
            tenant = [rel for rel in tenant if rel is outer]
        among = [name for name in TENANT_TABLES if name not in self.ctes]
        self.subquery_depth += 1
        try:
            if tenant and among and correlated and self.chance(0.75):
                left = self.pick(tenant)
                sql, inner = self.table(self.pick(among), taken)
                conditions = [f"{inner.alias}.{inner.key} = {left.alias}.tenant_id"]
                related = RELATED.get((left.table, inner.table))
                if related and self.chance(0.8):
                    conditions.append(f"{inner.alias}.{related[1]} = {left.alias}.{related[0]}")
            else:
                small = correlated and sum(rel.rows for rel in rels) > 0 and max(rel.rows for rel in rels) > 250
                sql, inner = self.table(self.table_name(SMALL if small else None), taken)
                tie = self._equality(rels, inner) if correlated else None
                conditions = [tie] if tie else []
            if not conditions or self.chance(0.4):
                conditions.append(self.predicate([inner], 1))
            return sql, inner, " and ".join(conditions)
        finally:
            self.subquery_depth -= 1

    def subquery_predicate(self, rels: Sequence[Rel]) -> str:
        form = self.weighted({"exists": 4, "in": 3, "not in": 1, "scalar": 2, "any": 1, "in query": 1})
        if form == "exists":
            sql, _, condition = self._inner(rels)
            what = self.pick(("1", "*", ""))
            return f"{self.pick(('', '', 'not '))}exists (select {what} from {sql} where {condition})"
        if form == "scalar":
            number = self.scalar(rels)
            return f"{number.sql} {self.pick(('>', '=', '<>', '<='))} {self.value(number.type).sql}"
        sql, inner, condition = self._inner(rels, correlated=self.chance(0.3))
        type = self._type(rels, ["int", "text", "date", "grade", "uuid"])
        theirs = self.column([inner], type)
        if theirs is None:
            theirs, type = self.columns([inner], "int")[0] if self.columns([inner], "int") else None, "int"
        if theirs is None:
            return f"exists (select from {sql} where {condition})"
        ours = self.expression(rels, type, 0)
        if form == "in query" and self.subquery_depth < 1:
            self.subquery_depth += 1
            made = self.select(0, want=[type], derived=True)
            self.subquery_depth -= 1
            return f"{ours.sql} in ({made.sql})"
        operator = {"in": "in", "in query": "in", "not in": "not in"}.get(form) or self.pick(
            ("= any", "< all", ">= any")
        )
        return f"{ours.sql} {operator} (select {theirs.sql} from {sql} where {condition})"

    def scalar(self, rels: Sequence[Rel]) -> E:
        """A subquery of one value."""
        sql, inner, condition = self._inner(rels, correlated=self.chance(0.75))
        if self.chance(0.15) and inner.total:
            out = self.any_column([inner])
            order = ", ".join(inner.total)
            return replace(
                out, sql=f"(select {out.sql} from {sql} where {condition} order by {order} limit 1)", small=False
            )
        aggregate = self.aggregate([inner], inner.total, exact=True, plain=True)
        return replace(aggregate, sql=f"(select {aggregate.sql} from {sql} where {condition})")

    # -- aggregates and windows ---------------

    def aggregate(self, rels: Sequence[Rel], total: list[str] | None, *, exact: bool = False, plain: bool = False) -> E:
        """A call of an aggregate. `plain`: one that gives int or num."""
        names = {"count(*)": 5, "count": 3, "count distinct": 2.5, "sum": 5, "avg": 3, "minmax": 5}
        if not plain:
            names |= {"bool": 1, "spread": 1.5, "string_agg": 1.2, "array_agg": 1.2, "json_agg": 0.5, "percentile": 0.8}
            names |= {"mode": 0.4, "bit": 0.5, "regr": 0.0 if exact else 0.4, "float": 0.0 if exact else 2}
        name = self.weighted(names)
        call = self._call(name, rels, total, plain)
        if self.chance(0.15) and not plain:
            call = replace(call, sql=f"{call.sql} filter (where {self.predicate(rels, 0)})")
        return call

    def _call(self, name: str, rels: Sequence[Rel], total: list[str] | None, plain: bool) -> E:
        rng = self.rng
        numeric = self.expression(rels, self._type(rels, ["int", "num"]), rng.randrange(2))
        if numeric.type not in {"int", "num"}:
            numeric = E("1", "int", small=True)
        canon = self.canonical(rels)
        match name:
            case "count(*)":
                return E("count(*)", "int", small=True)
            case "count":
                return E(f"count({self.any_expression(rels, 1).sql})", "int", small=True)
            case "count distinct":
                return E(f"count(distinct {canon.sql})", "int", small=True)
            case "sum":
                distinct = "distinct " if numeric.canon and self.chance(0.1) else ""
                return E(f"sum({distinct}{numeric.sql})", "num", canon=numeric.type == "int")
            case "avg":
                return E(f"avg({numeric.sql})", "num", canon=False)
            case "minmax":
                if plain:
                    canon = numeric if numeric.canon else self.made_canon(numeric)
                if canon.type in {"bool", "uuid", "json"}:
                    canon = E(f"({canon.sql})::text", "text")
                return replace(canon, sql=f"{self.pick(('min', 'max'))}({canon.sql})")
            case "bool":
                return E(f"{self.pick(('bool_and', 'bool_or', 'every'))}({self.predicate(rels, 0)})", "bool")
            case "spread":
                function = self.pick(("stddev", "variance", "stddev_pop", "var_samp", "var_pop", "stddev_samp"))
                return E(f"{function}({numeric.sql})", "num", canon=False)
            case "string_agg":
                if total is not None and self.chance(0.5):
                    text = self.expression(rels, "text", 1)
                    return E(f"string_agg({text.sql}, ',' order by {', '.join(total)})", "text")
                way = self.pick(("distinct ", ""))
                return E(f"string_agg({way}({canon.sql})::text, ',' order by ({canon.sql})::text)", "text")
            case "array_agg":
                if total is not None and self.chance(0.5):
                    direction = self.pick((" desc", " nulls first", ""))
                    keys = ", ".join(f"{key}{direction}" for key in total)
                    return E(f"array_agg({self.any_expression(rels, 1).sql} order by {keys})", "list", canon=False)
                if canon.type == "arr":
                    canon = E(f"cardinality({canon.sql})", "int")
                way = self.pick(("distinct ", ""))
                return E(
                    f"array_agg({way}{canon.sql} order by {canon.sql}{self.pick(('', ' desc'))})", "list", canon=False
                )
            case "json_agg":
                return E(
                    f"{self.pick(('jsonb_agg', 'json_agg'))}({canon.sql} order by {canon.sql})", "list", canon=False
                )
            case "percentile":
                if self.chance(0.5):
                    where = self.pick(("0.5", "0.25", "array[0.1, 0.9]"))
                    kind = "list" if "array" in where else canon.type
                    made = f"percentile_disc({where}) within group (order by {canon.sql})"
                    return E(made, kind, canon=kind != "list")
                made = f"percentile_cont(0.5) within group (order by ({self.made_canon(numeric).sql})::float8)"
                return E(made, "float", canon=False)
            case "mode":
                return replace(canon, sql=f"mode() within group (order by {canon.sql})", small=False)
            case "bit":
                return E(f"{self.pick(('bit_or', 'bit_and'))}(({self.operand(rels, 0)})::int)", "int")
            case "regr":
                one, two = self.expression(rels, "float", 0).sql, self.operand(rels, 0)
                return E(
                    f"{self.pick(('covar_pop', 'regr_count', 'regr_avgx'))}({one}, {two})", "float", False, exact=False
                )
        found = self.expression(rels, self._type(rels, ["float", "real", "float"]), 0)
        found = found if found.type in {"float", "real"} else E(f"(({numeric.sql}) %% 97)::float8", "float", False)
        return E(f"{self.pick(('sum', 'avg', 'stddev'))}({found.sql})", found.type, canon=False, exact=False)

    def window(self, rels: Sequence[Rel], total: list[str]) -> E:
        order = ", ".join(key + self.pick(("", "", " desc", " nulls first")) for key in total)
        lead = self.canonical(rels)
        if self.chance(0.4):
            order = f"{lead.sql} {self.pick(('desc', 'asc', 'nulls first'))}, {order}"
        partition = f"partition by {self.canonical(rels).sql} " if self.chance(0.7) else ""
        keyed = [rel.columns[rel.key].sql for rel in rels if rel.key]
        if keyed and self.chance(0.3):
            partition = f"partition by {self.pick(keyed)} "
        over = f"over ({partition}order by {order})"
        frame = self.pick(("rows between 1 preceding and current row", "rows unbounded preceding"))
        frame = self.pick((frame, "rows between unbounded preceding and unbounded following"))
        framed = f"over ({partition}order by {order} {frame})"
        canon = self.canonical(rels)
        out = self.any_column(rels)
        numeric = self.expression(rels, self._type(rels, ["int", "num"]), 0)
        numeric = numeric if numeric.type in {"int", "num"} else E("2", "int")
        options = [
            E(f"{self.pick(('row_number()', 'ntile(3)', 'rank()', 'dense_rank()'))} {over}", "int", small=True),
            E(f"{self.pick(('rank()', 'dense_rank()'))} over ({partition}order by {canon.sql})", "int", small=True),
            E(f"{self.pick(('percent_rank()', 'cume_dist()'))} over ({partition}order by {canon.sql})", "float", False),
            replace(out, sql=f"{self.pick(('lag', 'lead'))}({out.sql}) {over}"),
            replace(out, sql=f"{self.pick(('first_value', 'last_value'))}({out.sql}) {framed}"),
            replace(out, sql=f"nth_value({out.sql}, 2) {framed}"),
            E(f"count(*) over ({partition.strip()})", "int", small=True),
            E(f"{self.pick(('sum', 'avg'))}({numeric.sql}) {framed}", "num", canon=False),
            E(f"sum({numeric.sql}) over ({partition.strip()})", "num", canon=False),
            E(f"count({out.sql}) {framed}", "int", small=True),
        ]
        return self.pick(options)  # type: ignore[no-any-return]

    # -- SELECT ---------------

    def select(
        self,
        depth: int,
        *,
        derived: bool = False,
        want: list[str] | None = None,
        dedup: bool = False,
        tables: Sequence[str] | None = None,
        given: Rel | None = None,
        given_sql: str = "",
    ) -> Query:
        """`derived`: its columns need names of their own. `want`: the types of its columns."""
        if given is not None:
            source = Source(given_sql, [given], given.rows, names={given.alias, *self.ctes})
            for _ in range(self.pick((0, 0, 1))):
                self._join(source, 0, tables)
        else:
            source = self.source(depth, tables)
        where = self._where(source, depth)
        if want is not None:
            kind = "plain" if self.chance(0.7) else "distinct"
        else:
            kind = self.weighted({"plain": 38, "group": 26, "agg": 9, "distinct": 9, "distinct_on": 5, "window": 12})
            if kind in {"distinct_on", "window"} and source.total() is None:
                kind = "plain"
        if source.rows > TOO_MANY_ROWS and kind in {"plain", "distinct_on", "window"}:
            kind = "agg"
            if want is not None:
                kind = "distinct"
        if want is not None:
            outs = [self.expression(source.rels, type, 1) for type in want]
            if dedup or kind == "distinct":
                outs = [e if e.canon else self.made_canon(e) for e in outs]
            return self._plain(source, where, outs, derived, distinct=kind == "distinct", limit=self.chance(0.15))
        made: Query = getattr(self, f"_kind_{kind}")(source, where, derived)
        made.kind = kind
        return made if derived else self._unqualified(made, source)

    def _unqualified(self, made: Query, source: Source) -> Query:
        """Columns by their bare names, where that is the same."""
        alone = len(source.rels) == 1 and made.sql.count("select") == 1
        if alone and not set(made.names) & set(source.rels[0].columns) and self.chance(0.4):
            made.sql = re.sub(rf"\b{source.rels[0].alias}\.", "", made.sql)
        return made

    def _where(self, source: Source, depth: int) -> str:
        conditions = list(source.conditions)
        if any(rel.key for rel in source.rels) and self.chance(0.26):
            conditions.append(self.pin(source.rels))
            source.rows = source.rows // 4 + 1
        if self.chance(0.5):
            conditions.append(self.predicate(source.rels, min(depth, 2)))
        return f" where {' and '.join(conditions)}" if conditions else ""

    def _named(self, outs: Sequence[E], derived: bool) -> tuple[str, list[str]]:
        """The list of the SELECT, and the names by which ORDER BY may call the outputs ("" for none)."""
        parts, names = [], []
        for number, e in enumerate(outs):
            if derived:
                name = f"c{number}"
            else:
                name = self.weighted({"": 6, f"c{number}": 3, self.pick(("id", "name", "total", "n")): 0.6})
            name = "" if name in names else name
            parts.append(
                f"{e.sql}{self.pick((' as ', ' as ', ' ')) if name.startswith('c') else ' as '}{name}"
                if name
                else e.sql
            )
            names.append(name)
        return ", ".join(parts), names

    def _kind_plain(self, source: Source, where: str, derived: bool) -> Query:
        if not derived and self.chance(0.1):
            return self._star(source, where)
        outs = []
        for _ in range(self.rng.randint(1, 4)):
            if self.chance(0.5):
                outs.append(self.any_column(source.rels))
            elif self.chance(0.12) and source.rows < 2500:
                outs.append(self.scalar(source.rels))
            else:
                outs.append(self.any_expression(source.rels, 2))
        return self._plain(source, where, outs, derived, limit=self.chance(0.25))

    def _kind_window(self, source: Source, where: str, derived: bool) -> Query:
        total = source.total() or []
        outs = [self.any_column(source.rels) for _ in range(self.rng.randint(0, 2))]
        outs += [self.window(source.rels, total) for _ in range(self.rng.randint(1, 2))]
        return self._plain(source, where, outs, derived, limit=self.chance(0.2))

    def _kind_distinct(self, source: Source, where: str, derived: bool) -> Query:
        outs = [self.canonical(source.rels, simple=0.8) for _ in range(self.rng.randint(1, 3))]
        return self._plain(source, where, outs, derived, distinct=True, limit=self.chance(0.3))

    def _plain(
        self, source: Source, where: str, outs: list[E], derived: bool, *, distinct: bool = False, limit: bool = False
    ) -> Query:
        listed, names = self._named(outs, derived)
        sql = f"select {'distinct ' if distinct else ''}{listed} from {source.sql}{where}"
        total = [str(number + 1) for number in range(len(outs))] if distinct else source.total()
        rows = min(source.rows, 300) if distinct else source.rows
        key = None
        keys = {rel.columns[rel.key].sql for rel in source.rels if rel.key}
        if derived and not distinct:
            key = next((name for name, e in zip(names, outs, strict=True) if e.sql in keys), None)
        if total is not None and limit:
            tail, rows = self._limit(total if distinct else self._lead(outs, names) + total), min(rows, 20)
            return Query(sql + tail, outs, names, list(range(len(outs))), rows, key, "limit")
        if not derived and self.chance(0.4):
            tail, ordered = self._order(outs, names, [] if distinct else source.rels)
            return Query(sql + tail, outs, names, ordered, rows, key)
        return Query(sql, outs, names, None, rows, key)

    def _star(self, source: Source, where: str) -> Query:
        """`*` and `t.*`."""
        exact = all(e.exact for rel in source.rels for e in rel.columns.values())
        one = self.pick(source.rels)
        columns = [e for rel in source.rels for e in rel.columns.values()][source.merged :]
        listed = "*"
        if not exact or self.chance(0.5):
            columns, listed = list(one.columns.values()), f"{one.alias}.*"
            if self.chance(0.3):
                extra = self.any_expression(source.rels, 1)
                columns, listed = [*columns, extra], f"{listed}, {extra.sql} as extra"
        total = source.total()
        sql = f"select {listed} from {source.sql}{where}"
        if total is None or self.chance(0.4):
            return Query(sql, columns, [])
        return Query(f"{sql} order by {', '.join(total)}", columns, [], list(range(len(columns))), kind="star")

    def _kind_distinct_on(self, source: Source, where: str, derived: bool) -> Query:
        lead = [self._with_column(self.canonical(source.rels), source.rels) for _ in range(self.pick((1, 1, 2)))]
        outs = [self.any_expression(source.rels, 1) for _ in range(self.rng.randint(1, 3))]
        listed, names = self._named(outs, True)  # an output that is named like a column would catch ORDER BY
        keys = ", ".join(e.sql for e in lead)
        order = ", ".join([e.sql + self.pick(("", " desc")) for e in lead] + (source.total() or []))
        sql = f"select distinct on ({keys}) {listed} from {source.sql}{where} order by {order}"
        return Query(sql, outs, names, list(range(len(outs))), min(source.rows, 200))

    def _with_column(self, e: E, rels: Sequence[Rel]) -> E:
        """Not a constant, which ORDER BY and GROUP BY read as a position."""
        if any(column.sql in e.sql for rel in rels for column in rel.columns.values()):
            return e
        return self.made_canon(self.any_column(rels, canon=True))

    def _kind_agg(self, source: Source, where: str, derived: bool) -> Query:
        outs = [self.aggregate(source.rels, source.total()) for _ in range(self.rng.randint(1, 4))]
        outs = [self._plainer(e) if derived else e for e in outs]
        listed, names = self._named(outs, derived)
        having = f" having {self._having(source)}" if self.chance(0.08) else ""
        return Query(f"select {listed} from {source.sql}{where}{having}", outs, names, rows=1)

    def _plainer(self, e: E) -> E:
        """Of the type that it says, for those who go on with it."""
        if e.type == "num":
            return replace(e, sql=f"({e.sql})::numeric")
        return E(f"({e.sql})::text", "text") if e.type == "list" else e

    def _having(self, source: Source) -> str:
        found = self.aggregate(source.rels, None, exact=True, plain=True)
        type = found.type if found.type in {"int", "num"} else "text"
        left = found.sql if type == found.type else f"({found.sql})::text"
        return f"{left} {self.pick(('>', '>=', '<>', '<', '='))} {self.value(type).sql}"

    def _kind_group(self, source: Source, where: str, derived: bool) -> Query:
        keys: list[E] = []
        for _ in range(self.weighted({1: 6, 2: 3, 3: 1})):
            key = self._with_column(self.canonical(source.rels, simple=0.7), source.rels)
            if key.sql not in [e.sql for e in keys]:
                keys.append(key)
        shard_keys = [rel.columns[rel.key] for rel in source.rels if rel.key]
        if shard_keys and self.chance(0.25):
            found = self.pick(shard_keys)
            keys = [found, *(e for e in keys if e.sql != found.sql)]
        shown = [e for e in keys if self.chance(0.85)]
        whole = [rel for rel in source.rels if rel.table and TABLES[rel.table][1]]
        by_key = bool(whole) and self.chance(0.1)
        if by_key:  # the other columns hang on the primary key
            found_rel = self.pick(whole)
            keys = [found_rel.columns[name] for name in TABLES[found_rel.table][1]]
            shown = [self.any_column([found_rel]) for _ in range(2)]
        calls = [self.aggregate(source.rels, source.total()) for _ in range(self.rng.randint(0 if shown else 1, 3))]
        calls = [self._plainer(e) if derived else e for e in calls]
        sets = "" if by_key or self.chance(0.82) else self.pick(("rollup", "cube", "sets"))
        total = [e.sql for e in keys]
        extra: list[E] = []
        if sets:
            extra.append(E(f"grouping({', '.join(total)})", "int", small=True))
        elif self.chance(0.08) and not derived:
            extra.append(E(f"{self.pick(('rank()', 'dense_rank()'))} over (order by count(*) desc)", "int", small=True))
            extra.append(E("sum(count(*)) over ()", "num"))
        outs = [*shown, *calls, *extra]
        if not sets and self.chance(0.25):
            self.rng.shuffle(outs)
        listed, names = self._named(outs, derived)
        columns = {name for rel in source.rels for name in rel.columns}
        having = f" having {self._having(source)}" if self.chance(0.22) else ""
        group = self._grouping(sets, keys, outs, [name if name not in columns else "" for name in names])
        sql = f"select {listed} from {source.sql}{where} group by {group}{having}"
        rows = min(source.rows, 300)
        if sets:
            total.append(extra[0].sql)
        # An output of the same name would be meant in ORDER BY, but only by a bare name: these are all qualified.
        if all(e.exact for e in outs) and self.chance(0.22):
            lead = self._lead([*calls], []) if self.chance(0.5) else []
            return Query(sql + self._limit(lead + total), outs, names, list(range(len(outs))), rows)
        if not derived and self.chance(0.4):
            tail, ordered = self._order(outs, names, [])
            return Query(sql + tail, outs, names, ordered, rows)
        return Query(sql, outs, names, None, rows)

    def _grouping(self, sets: str, keys: list[E], outs: list[E], names: list[str]) -> str:
        if sets in {"rollup", "cube"}:
            return f"{sets} ({', '.join(e.sql for e in keys)})"
        if sets == "sets":
            every = ", ".join(e.sql for e in keys)
            return f"grouping sets (({every}), ({keys[0].sql}){self.pick(('', ', ()'))})"
        listed = []
        for key in keys:
            place = next((number for number, e in enumerate(outs) if e.sql == key.sql), None)
            how = self.weighted({"sql": 6, "ordinal": 2, "name": 2})
            if place is not None and how == "ordinal":
                listed.append(str(place + 1))
            elif place is not None and how == "name" and names[place]:
                listed.append(names[place])
            else:
                listed.append(key.sql)
        return ", ".join(listed)

    # -- ORDER BY, LIMIT ---------------

    def _direction(self) -> str:
        return str(
            self.pick(("", "", "", " asc", " desc", " desc", " nulls first", " desc nulls last", " asc nulls first"))
        )

    def _order(self, outs: Sequence[E], names: Sequence[str], rels: Sequence[Rel]) -> tuple[str, list[int] | None]:
        """ORDER BY outputs and, where `rels` are given, other things: the tail and the positions that it fixes."""
        items, ordered = [], []
        for _ in range(self.rng.randint(1, 3)):
            if rels and self.chance(0.25):
                e = self._with_column(self.canonical(rels), rels)
                if e.type in {"list"}:
                    continue
                collate = f' collate "{self.pick(COLLATIONS)}"' if e.type == "text" and self.chance(0.3) else ""
                items.append(f"{e.sql}{collate}{self._direction()}")
                continue
            place = self.rng.randrange(len(outs))
            e = outs[place]
            if e.type == "list" or not e.exact:
                continue
            name = names[place] if self.chance(0.5) else ""
            name = "" if any(out.sql.endswith(f".{name}") for out in outs) else name
            # An output name that hides a column is still the output: ORDER BY looks there first.
            items.append(f"{name or place + 1}{self._direction()}")
            if e.canon:
                ordered.append(place)
        if not items:
            return "", None
        return f" order by {', '.join(items)}", ordered or None

    def _lead(self, outs: Sequence[E], names: Sequence[str]) -> list[str]:
        """What to order by before the total order."""
        usable = [
            e
            for e in outs
            if e.exact and e.type != "list" and re.search(r"[a-z]\w*\.[a-z]|\(", e.sql) and "%(" not in e.sql
        ]
        if not usable or self.chance(0.4):
            return []
        e = self.pick(usable)
        collate = f' collate "{self.pick(COLLATIONS)}"' if e.type == "text" and self.chance(0.3) else ""
        return [f"({e.sql}){collate}{self._direction()}"]

    def _limit(self, total: Sequence[str]) -> str:
        order = ", ".join(
            key + ("" if " " in key and not key.endswith(")") else self.pick(("", "", " desc"))) for key in total
        )
        number, offset = self.pick((1, 3, 5, 10, 20, 50)), self.pick((1, 2, 3, 7) * 3 + (40,))
        number = 0 if self.chance(0.03) else number

        def given(value: int) -> str:
            return self.param(value) if self.may_use_params and self.chance(0.5) else str(value)

        match self.rng.randrange(9):
            case 0:
                return f" order by {order} offset {given(offset)}"
            case 1 | 2:
                return f" order by {order} limit {given(number)} offset {given(offset)}"
            case 3:
                return f" order by {order} fetch first {number} rows only"
            case 4:
                return f" order by {order} fetch first {number} rows with ties"
            case 5:
                return f" order by {order} limit all"
        return f" order by {order} limit {given(number)}"

    # -- UNION and the like ---------------

    def setop(self, depth: int, derived: bool = False) -> Query:
        count = self.weighted({2: 8, 3: 2})
        operators = [
            self.pick(("union", "union all", "union all", "intersect", "except", "except all", "intersect all"))
        ]
        operators += [self.pick(("union all", "union", "except"))] if count == 3 else []
        dedup = any(operator != "union all" for operator in operators)
        allowed = [type for type in TYPES if type not in {"json", "span", "real", *(NOT_CANON if dedup else ())}]
        want = [self.pick([*allowed, "int", "text", "int"]) for _ in range(self.pick((1, 2, 2, 3)))]
        arms = [self.select(depth, derived=True, want=want, dedup=dedup) for _ in range(count)]
        sql = f"({arms[0].sql})" if arms[0].ordered is not None or self.chance(0.3) else arms[0].sql
        for operator, arm in zip(operators, arms[1:], strict=True):
            closed = arm.ordered is not None or operators[0] != operators[-1] or self.chance(0.3)
            sql = f"{sql} {operator} {f'({arm.sql})' if closed else arm.sql}"
        outs = [
            replace(first, canon=all(arm.outs[n].canon for arm in arms) and first.type not in NOT_CANON, small=False)
            for n, first in enumerate(arms[0].outs)
        ]
        names, rows = arms[0].names, sum(arm.rows for arm in arms)
        if dedup and self.chance(0.25):
            total = [str(number + 1) for number in range(len(outs))]
            return Query(sql + self._limit(total), outs, names, list(range(len(outs))), 20, kind="setop")
        if not derived and self.chance(0.35):
            tail, ordered = self._order(outs, names, [])
            return Query(sql + tail, outs, names, ordered, rows, kind="setop")
        return Query(sql, outs, names, None, rows, kind="setop")


COLLATIONS = ["C", "pg_unicode_fast", "POSIX"]
