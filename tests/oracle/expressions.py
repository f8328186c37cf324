"""Random expressions over the columns of a FROM clause, by type.

Types are categories: `int` is any integer type, `num` numeric, `ts` timestamptz, `arr` text[], `span` interval, the
rest as in SQL. What is generated gives the same on every run: `canon` says that equal values have equal text (1.0 and
1.00 do not), which grouping, DISTINCT, min and max need; `exact` that the value does not hang on the order of rows.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from .fleet import AUTHORS, INT64_MAX, INT64_MIN, NAMES, TENANTS

NOT_CANON = {"num", "float", "real", "span"}
TYPES = "int num float text bool date ts grade uuid char arr json span".split()
COLLATIONS = ["C", "pg_unicode_fast", "POSIX", "C"]


@dataclass(frozen=True)
class E:
    """An expression. `small`: arithmetic on it does not overflow. `domain`: what its values are like."""

    sql: str
    type: str
    canon: bool = True
    exact: bool = True
    small: bool = False
    domain: str = ""


@dataclass
class Rel:
    """An entry of FROM: its columns, what orders its rows totally (None: nothing), its key, about how many rows."""

    alias: str
    columns: dict[str, E]
    total: list[str] | None
    key: str | None = None
    rows: int = 1000
    table: str = ""
    using: list[str] = field(default_factory=list)


# table: {column: type}; the columns of the primary key; the partition key; rows
TABLES: dict[str, tuple[dict[str, str], list[str], str | None, int]] = {
    "customers": (
        {
            "tenant_id": "int",
            "id": "int",
            "name": "text",
            "grade": "grade",
            "balance": "num",
            "score": "float",
            "tags": "arr",
            "born": "date",
            "seen": "ts",
            "flag": "bool",
            "code": "char",
            "uid": "uuid",
            "doc": "json",
            "span": "span",
        },
        ["tenant_id", "id"],
        "tenant_id",
        300,
    ),
    "orders": (
        {
            "tenant_id": "int",
            "id": "int",
            "customer_id": "int",
            "total": "num",
            "qty": "int",
            "small": "int",
            "note": "text",
            "placed": "ts",
        },
        ["tenant_id", "id"],
        "tenant_id",
        900,
    ),
    "items": (
        {"tenant_id": "int", "order_id": "int", "line": "int", "sku": "text", "price": "num", "amount": "real"},
        ["tenant_id", "order_id", "line"],
        "tenant_id",
        2000,
    ),
    "notes": ({"author": "text", "n": "int", "body": "text", "stars": "int"}, ["author", "n"], "author", 100),
    "events": ({"day": "date", "n": "int", "kind": "text", "value": "float"}, ["day", "n"], "day", 200),
    "countries": ({"code": "text", "name": "text", "continent": "text"}, ["code"], None, 8),
    "rates": ({"code": "text", "year": "int", "rate": "num"}, [], None, 9),
    "other.orders": ({"x": "int", "y": "text"}, [], None, 5),
    "audit": ({"id": "int", "what": "text"}, ["id"], None, 8),
}
_BIG = {"tenant_id", "qty", "small"}
_CANON_COLUMNS = {"balance"}
_DOMAINS = {
    **dict.fromkeys(("name", "note", "body", "what"), "name"),
    **dict.fromkeys(("tenant_id",), "tenant"),
    **dict.fromkeys(("line", "n", "stars", "qty", "x", "customer_id"), "few"),
    **{name: name for name in ("author", "sku", "kind", "code", "continent", "year", "order_id", "small", "y")},
}


def _domain(table: str, column: str) -> str:
    if column == "id":
        return "few" if table == "customers" else "order_id"
    return _DOMAINS.get(column, "")


def relation(table: str, alias: str) -> Rel:
    types, key, shard_key, rows = TABLES[table]
    columns = {
        name: E(
            f"{alias}.{name}",
            type,
            canon=type not in NOT_CANON or name in _CANON_COLUMNS,
            small=type == "int" and name not in _BIG and table != "audit",
            domain=_domain(table, name),
        )
        for name, type in types.items()
    }
    ordering = [columns[name] for name in key] or list(columns.values())
    return Rel(alias, columns, [by_text(e) for e in ordering], shard_key, rows, table)


def by_text(e: E) -> str:
    """What orders rows by an expression so that only equal texts tie."""
    return e.sql if e.canon else f"({e.sql})::text"


class Expressions(ABC):
    """Random expressions. Parameters are noted as they are made, by name."""

    def __init__(self, seed: int | str) -> None:
        self.rng = random.Random(seed)
        self.params: dict[str, Any] = {}
        self.may_use_params = True
        self.subquery_depth = 0

    # -- small tools ---------------

    def chance(self, share: float) -> bool:
        return self.rng.random() < share

    def pick(self, options: Sequence[Any]) -> Any:
        return self.rng.choice(options)

    def weighted(self, options: dict[Any, float]) -> Any:
        return self.rng.choices(list(options), list(options.values()))[0]

    def param(self, value: Any) -> str:
        name = f"p{len(self.params)}"
        self.params[name] = value
        return f"%({name})s"

    # -- values ---------------

    def value(self, type: str, domain: str = "") -> E:
        """A constant: a literal or a parameter, like those of a domain."""
        as_param = self.may_use_params and self.chance(0.4)
        plain = self.python_value(type, domain)
        if as_param and type in {"int", "num", "text", "date", "bool"}:
            sql = self.param(plain)
            if type == "text" and self.chance(0.3):
                sql += "::text"
            return E(sql, type, canon=type not in NOT_CANON, small=True)
        return E(self.literal(type, plain), type, canon=type not in NOT_CANON, small=True)

    def python_value(self, type: str, domain: str = "") -> Any:
        rng = self.rng
        if domain and self.chance(0.9):
            found = self._of_domain(domain)
            if found is not None and isinstance(found, int) == (type == "int"):
                return found
        match type:
            case "int":
                return rng.choice((0, 1, 2, 3, 5, 7, 10, 101, 103, 110, -1))
            case "num":
                return Decimal(rng.choice(("0", "1", "1.0", "10.10", "99.99", "100", "500", "-7", "0.5")))
            case "float" | "real":
                return rng.choice((0.0, 1.5, -2.25, 40.0, 0.125))
            case "text":
                return rng.choice([*NAMES, "sku-3", "sku-11", "click", "de", "fr", "us", "a", "m", "b"])
            case "bool":
                return rng.random() < 0.5
            case "date":
                return date(rng.choice((1953, 1957, 2024, 2025)), rng.randint(1, 12), rng.randint(1, 28))
            case "ts":
                return f"{rng.choice((2024, 2025))}-{rng.randint(1, 12):02}-15 12:00:00+00"
            case "grade":
                return rng.choice(("silver", "bronze", "void", "gold"))
            case "uuid":
                return f"0000000{rng.randrange(10)}-0000-4000-8000-00000000000{rng.randrange(10)}"
            case "char":
                return rng.choice(("de", "us", "DE", "", "d e", "abcd"))
            case "arr":
                return rng.choice(("{}", "{a}", "{a,NULL}", "{b,a}"))
            case "json":
                return rng.choice(("{}", "1", '{"a": 1}', '{"b": [1]}', "null"))
            case "span":
                return rng.choice(("1 day", "24:00:00", "30 days", "1 mon"))
        raise ValueError(type)

    def _of_domain(self, domain: str) -> Any:
        rng = self.rng
        match domain:
            case "tenant":
                return rng.choice([tenant for tenant in TENANTS if abs(tenant) < 10_000])
            case "few":
                return rng.randint(0, 9)
            case "order_id":
                return rng.randint(101, 125)
            case "small":
                return rng.choice((-32768, 0, 1, 2, 7))
            case "year":
                return rng.choice((2024, 2025))
            case "sku":
                return f"sku-{rng.randint(1, 25)}"
            case "author":
                return rng.choice(AUTHORS)
            case "kind":
                return rng.choice(("click", "Click", "view", ""))
            case "code":
                return rng.choice(("de", "fr", "us", "DE", "at"))
            case "continent":
                return rng.choice(("europe", "asia", "america"))
            case "name":
                return rng.choice(NAMES)
        return None

    def literal(self, type: str, value: Any) -> str:
        text = str(value).replace("'", "''").replace("%", "%%")
        match type:
            case "int" | "num":
                return f"({text})" if text.startswith("-") else text
            case "bool":
                return "true" if value else "false"
            case "text":
                return f"'{text}'"
            case "float" | "real":
                return f"'{text}'::float8"
        names = {"ts": "timestamptz", "char": "char(4)", "arr": "text[]", "json": "jsonb", "span": "interval"}
        return f"'{text}'::{names.get(type, type)}"

    def key_value(self, type: str) -> Any:
        if type == "int":
            return (
                424242
                if self.chance(0.02)
                else self.rng.choice([*TENANTS, 1, 2, 3, 4, 17, 0, -1, INT64_MIN, INT64_MAX])
            )
        if type == "text":
            return "nobody" if self.chance(0.02) else self.rng.choice(AUTHORS)
        return date(2024, 1, 1) + timedelta(8 * self.rng.randrange(100))

    def key_sql(self, type: str, value: Any) -> str:
        if self.may_use_params and self.chance(0.6):
            return self.param(value)
        if type == "date":
            return f"date '{value}'" if self.chance(0.5) else f"'{value}'"
        if value == INT64_MIN:
            return "'-9223372036854775808'::bigint"
        return self.literal(type, value)

    # -- columns ---------------

    def columns(self, rels: Sequence[Rel], type: str, *, exact: bool = True) -> list[E]:
        return [e for rel in rels for e in rel.columns.values() if e.type == type and (e.exact or not exact)]

    def column(self, rels: Sequence[Rel], type: str) -> E | None:
        found = self.columns(rels, type)
        return self.pick(found) if found else None

    def any_column(self, rels: Sequence[Rel], *, canon: bool = False) -> E:
        found = [e for rel in rels for e in rel.columns.values() if e.exact and (e.canon or not canon)]
        return self.pick(found) if found else E("1", "int", small=True)

    def made_canon(self, e: E) -> E:
        """The same, so that equal values have equal text."""
        if e.canon:
            return e
        match e.type:
            case "num":
                return replace(e, sql=f"round({e.sql}, {self.pick((0, 2, 2))})", canon=True)
            case "float":
                return replace(e, sql=f"({e.sql} + 0.0)", canon=True)
            case "real":
                return E(f"({e.sql}::float8 + 0.0)", "float", exact=e.exact)
            case "span":
                return E(f"extract(epoch from {e.sql})", "num", exact=e.exact)
        return E(f"({e.sql})::text", "text", exact=e.exact)

    def canonical(self, rels: Sequence[Rel], *, simple: float = 0.65) -> E:
        """Something to group or to order by, without parameters."""
        before, self.may_use_params = self.may_use_params, False
        try:
            if self.chance(simple):
                return self.made_canon(self.any_column(rels))
            type = self.weighted({"int": 4, "text": 3, "bool": 2, "grade": 1, "date": 1, "num": 1, "char": 0.5})
            return self.made_canon(self.expression(rels, type, 1))
        finally:
            self.may_use_params = before

    # -- expressions ---------------

    def expression(self, rels: Sequence[Rel], type: str, depth: int = 2) -> E:
        found = self.column(rels, type)
        if found is not None and (depth <= 0 or self.chance(0.35)):
            return found
        if depth <= 0:
            return self.value(type)
        made = getattr(self, f"_{type}", None)
        e: E = made(rels, depth - 1) if made else (found or self.value(type))
        return e

    def any_expression(self, rels: Sequence[Rel], depth: int = 2) -> E:
        weights = {"int": 6, "num": 4, "text": 6, "bool": 2, "date": 2, "ts": 1.5, "float": 2, "grade": 1, "arr": 0.7}
        return self.expression(
            rels, self.weighted({**weights, "json": 0.7, "char": 0.7, "uuid": 0.5, "span": 0.6}), depth
        )

    def operand(self, rels: Sequence[Rel], depth: int) -> str:
        """A small integer."""
        e = self.expression(rels, "int", depth)
        return e.sql if e.small else f"({e.sql} %% 97)"

    def choice(self, rels: Sequence[Rel], type: str, depth: int) -> E:
        """CASE, coalesce and the like, of any type."""
        one = self.expression(rels, type, depth)
        # A constant that is a parameter could be of another type than the column: the first one decides.
        two = self.expression(rels, type, 0) if self.columns(rels, type) else self.value(type)
        canon = one.canon and two.canon and type not in NOT_CANON
        small = one.small and two.small
        match self.rng.randrange(6):
            case 0:
                return E(f"coalesce({one.sql}, {two.sql})", type, canon, small=small)
            case 1:
                return E(f"nullif({one.sql}, {two.sql})", type, one.canon, small=small)
            case 2:
                sql = f"case when {self.predicate(rels, 0)} then {one.sql} else {two.sql} end"
                return E(sql, type, canon, small=small)
            case 3:
                return E(f"case when {self.predicate(rels, 0)} then {one.sql} end", type, one.canon, small=small)
            case 4 if type not in {"bool", "json"}:
                return E(f"{self.pick(('greatest', 'least'))}({one.sql}, {two.sql})", type, canon, small=small)
        return one

    def _int(self, rels: Sequence[Rel], depth: int) -> E:
        def sub(type: str) -> str:
            return self.expression(rels, type, min(depth, 1)).sql

        options: list[Callable[[], str]] = [
            lambda: f"{self.operand(rels, depth)} {self.pick('+-*')} {self.operand(rels, 0)}",
            lambda: f"({self.operand(rels, depth)} + {self.operand(rels, 0)})",
            lambda: f"({sub('int')} %% {self.pick((2, 3, 5, 10))})",
            lambda: f"length({sub('text')})",
            lambda: f"cardinality({sub('arr')})",
            lambda: f"abs({self.operand(rels, 0)})",
            lambda: f"strpos({sub('text')}, 'a')",
            lambda: f"ascii({sub('text')})",
            lambda: f"({sub('bool')})::int",
            lambda: f"({self.operand(rels, 0)} / {self.pick((2, 3))})",
            lambda: f"coalesce({self.operand(rels, 0)}, -1)",
            lambda: f"array_length({sub('arr')}, 1)",
            lambda: f"octet_length({sub('text')})",
            lambda: f"num_nulls({self.any_column(rels).sql}, {self.any_column(rels).sql})",
            lambda: f"({self.operand(rels, 0)} & 3)",
        ]
        if self.chance(0.2):
            return self.choice(rels, "int", depth)
        sql = self.pick(options)()
        return E(sql if sql.startswith("(") and "," not in sql and sql.count("(") == 1 else f"({sql})", "int")

    def _num(self, rels: Sequence[Rel], depth: int) -> E:
        def sub() -> str:
            return self.expression(rels, "num", min(depth, 1)).sql

        if self.chance(0.2):
            return self.choice(rels, "num", depth)
        if self.chance(0.3):
            return E(f"{self.pick(('round', 'trunc'))}({sub()}, {self.pick((0, 1, 2))})", "num", canon=True)
        options: list[Callable[[], str]] = [
            lambda: f"({sub()} {self.pick('+-*')} {sub()})",
            lambda: f"({sub()} * {self.operand(rels, 0)})",
            lambda: f"({sub()} / {self.pick((3, '7.5'))})",
            lambda: f"abs({sub()})",
            lambda: f"-({sub()})",
            lambda: f"({sub()} / nullif({self.operand(rels, 0)}, 0))",
            lambda: f"({self.operand(rels, 0)})::numeric",
            lambda: f"floor({sub()})",
            lambda: f"sign({sub()})",
            lambda: f"extract(year from {self.expression(rels, self.pick(('date', 'ts')), 0).sql})",
            lambda: f"({self.operand(rels, 0)})::numeric(20,3)",
        ]
        return E(self.pick(options)(), "num", canon=False)

    def _float(self, rels: Sequence[Rel], depth: int) -> E:
        def sub() -> str:
            return self.expression(rels, self.pick(("float", "real")), min(depth, 1)).sql

        options: list[Callable[[], str]] = [
            lambda: f"({sub()} {self.pick('+-*')} {sub()})",
            lambda: f"({sub()} / 3)",
            lambda: f"abs({sub()})",
            lambda: f"round(({sub()})::float8)",
            # Large ones would cancel out in a sum, which then hangs on the order of its terms.
            lambda: f"({self.expression(rels, 'num', 0).sql} %% 1000)::float8",
            lambda: f"sqrt(abs({sub()}))",
        ]
        return E(self.pick(options)(), "float", canon=False)

    def _real(self, rels: Sequence[Rel], depth: int) -> E:
        return E(f"({self.expression(rels, 'float', 0).sql})::real", "real", canon=False)

    def _text(self, rels: Sequence[Rel], depth: int) -> E:
        def sub(type: str = "text") -> str:
            return self.expression(rels, type, min(depth, 1)).sql

        def castable() -> str:
            return self.any_column(rels).sql

        options: list[Callable[[], str]] = [
            lambda: f"{self.pick(('upper', 'lower', 'initcap', 'md5', 'reverse', 'btrim', 'quote_literal'))}({sub()})",
            lambda: f'upper({sub()} collate "{self.pick(COLLATIONS)}")',
            lambda: f"({sub()} || '-' || {sub()})",
            lambda: f"({castable()})::text",
            lambda: f"concat_ws('/', {castable()}, {castable()})",
            lambda: f"concat({castable()}, '!')",
            lambda: f"substr({sub()}, {self.pick((1, 2))}, 2)",
            lambda: f"left({sub()}, {self.pick((1, -1, 3))})",
            lambda: f"replace({sub()}, 'a', 'Ä')",
            lambda: f"split_part({sub()}, '-', {self.pick((1, 2))})",
            lambda: f"lpad({sub()}, 5, '*')",
            lambda: f"array_to_string({sub('arr')}, ',', '?')",
            lambda: f"({sub('json')} ->> 'a')",
            lambda: f"to_char({sub('date')}, 'YYYY-MM')",
            lambda: f"to_char({self.operand(rels, 0)}, '000')",
            lambda: f"format('%%s:%%s', {castable()}, {castable()})",
            lambda: f"({sub('arr')})[1]",
            lambda: f"pg_typeof({castable()})::text",
            lambda: f"overlay({sub()} placing 'xx' from 2)",
            lambda: f"regexp_replace({sub()}, '[aeiou]', '_', 'g')",
        ]
        if self.chance(0.15):
            return self.choice(rels, "text", depth)
        return E(self.pick(options)(), "text")

    def _bool(self, rels: Sequence[Rel], depth: int) -> E:
        return E(f"({self.predicate(rels, min(depth, 1))})", "bool")

    def _date(self, rels: Sequence[Rel], depth: int) -> E:
        options: list[Callable[[], str]] = [
            lambda: f"({self.expression(rels, 'date', 0).sql} + {self.pick((1, 30, -7))})",
            lambda: f"({self.expression(rels, 'ts', 0).sql})::date",
            lambda: (
                f"(date_trunc('{self.pick(('month', 'year', 'week'))}', {self.expression(rels, 'date', 0).sql}))::date"
            ),
            lambda: f"(date '2024-02-28' + {self.operand(rels, 0)}::int)",
        ]
        return self.choice(rels, "date", depth) if self.chance(0.3) else E(self.pick(options)(), "date")

    def _ts(self, rels: Sequence[Rel], depth: int) -> E:
        def sub() -> str:
            return self.expression(rels, "ts", 0).sql

        options: list[Callable[[], str]] = [
            lambda: f"({sub()} + interval '{self.pick(('1 day', '1 month', '-2 hours'))}')",
            lambda: f"date_trunc('{self.pick(('day', 'hour', 'month'))}', {sub()})",
            lambda: f"({sub()} at time zone 'Europe/Berlin' at time zone 'UTC')",
            lambda: f"({self.expression(rels, 'date', 0).sql})::timestamptz",
        ]
        return self.choice(rels, "ts", depth) if self.chance(0.2) else E(self.pick(options)(), "ts")

    def _grade(self, rels: Sequence[Rel], depth: int) -> E:
        return self.choice(rels, "grade", 0)

    def _char(self, rels: Sequence[Rel], depth: int) -> E:
        return self.choice(rels, "char", 0)

    def _arr(self, rels: Sequence[Rel], depth: int) -> E:
        sub = self.expression(rels, "arr", 0).sql
        text = self.expression(rels, "text", 0)
        options = [
            f"({sub} || array['z'])",
            f"array_remove({sub}, 'a')",
            f"array[{text.sql}::text, 'k']",
            f"({sub})[1:2]",
        ]
        return E(self.pick(options), "arr")

    def _json(self, rels: Sequence[Rel], depth: int) -> E:
        sub = self.expression(rels, "json", 0).sql
        number, text = self.operand(rels, 0), self.expression(rels, "text", 0).sql
        options = [f"({sub} -> 'a')", f"to_jsonb({number})", f"jsonb_build_object('k', {number}, 't', {text}::text)"]
        return E(self.pick([*options, f"({sub} #> '{{a,b}}')", f"({sub} || '{{\"z\": 0}}')"]), "json")

    def _span(self, rels: Sequence[Rel], depth: int) -> E:
        sub = self.expression(rels, "span", 0).sql
        return E(
            self.pick((f"({sub} * 2)", f"({sub} + interval '1 day')", f"justify_hours({sub})")), "span", canon=False
        )

    # -- predicates ---------------

    def predicate(self, rels: Sequence[Rel], depth: int = 2) -> str:
        if depth > 0 and self.chance(0.4):
            match self.rng.randrange(5):
                case 0 | 1:
                    return f"({self.predicate(rels, depth - 1)} and {self.predicate(rels, depth - 1)})"
                case 2 | 3:
                    return f"({self.predicate(rels, depth - 1)} or {self.predicate(rels, depth - 1)})"
                case _:
                    return f"not ({self.predicate(rels, depth - 1)})"
        options: dict[Callable[[Sequence[Rel]], str], float] = {
            self._comparison: 5,
            self._null_test: 1.5,
            self._membership: 2,
            self._between: 1.2,
            self._pattern: 1.2,
            self._truth: 0.8,
            self._row_comparison: 0.7,
            self._containment: 0.8,
        }
        if any(rel.key for rel in rels):
            options[self.pin] = 1.5
        if depth > 0 and self.subquery_depth < 2:
            options[self.subquery_predicate] = 2.4
        chosen: Callable[[Sequence[Rel]], str] = self.weighted(options)
        return chosen(rels)

    @abstractmethod
    def subquery_predicate(self, rels: Sequence[Rel]) -> str:
        """A condition with a query in it."""

    def _type(self, rels: Sequence[Rel], among: Sequence[str] = TYPES) -> str:
        there = [e.type for rel in rels for e in rel.columns.values() if e.exact and e.type in among]
        return self.pick(there) if there else self.pick(["int", "text"])

    def _comparison(self, rels: Sequence[Rel]) -> str:
        type = self._type(rels, [*TYPES, "real"])
        left = self.expression(rels, type, 1 if self.chance(0.3) else 0)
        operator = self.pick(("=", "<>", "<", "<=", ">", ">=", "<>", "is distinct from", "is not distinct from"))
        right = self.expression(rels, type, 0) if self.chance(0.25) else self.value(type, left.domain)
        if type == "text" and self.chance(0.2):
            return f'{left.sql} collate "{self.pick(COLLATIONS)}" {operator} {right.sql}'
        return f"{left.sql} {operator} {right.sql}"

    def _null_test(self, rels: Sequence[Rel]) -> str:
        return f"{self.any_column(rels).sql} {self.pick(('is null', 'is not null', 'is not null'))}"

    def _membership(self, rels: Sequence[Rel]) -> str:
        type = self._type(rels, ["int", "text", "grade", "date", "num", "char"])
        found = self.expression(rels, type, 0)
        left = found.sql
        values = [self.python_value(type, found.domain) for _ in range(self.rng.randint(1, 5))]
        if self.may_use_params and type in {"int", "text"} and self.chance(0.4):
            given: list[Any] = [*values, None] if self.chance(0.15) else ([] if self.chance(0.1) else values)
            return f"{left} {self.pick(('= any', '= any', '<> all', '> any'))}({self.param(given)})"
        literals = [self.literal(type, value) for value in values]
        if self.chance(0.2):
            return f"{left} = any(array[{', '.join(literals)}])"
        if self.chance(0.12):
            literals.append("null")
        return f"{left} {self.pick(('in', 'in', 'not in'))} ({', '.join(literals)})"

    def _between(self, rels: Sequence[Rel]) -> str:
        type = self._type(rels, ["int", "text", "num", "date", "ts", "float", "grade"])
        how = self.pick(("between", "between", "not between", "between symmetric"))
        e = self.expression(rels, type, 0)
        low, high = self.value(type, e.domain), self.value(type, e.domain)
        return f"{e.sql} {how} {low.sql} and {high.sql}"

    def _pattern(self, rels: Sequence[Rel]) -> str:
        left = self.expression(rels, "text", 0).sql
        if self.chance(0.25):
            return f"{left} {self.pick(('~', '~*', '!~'))} '{self.pick(('^[aä]', 'o$', '[0-9]', 'ss|ß'))}'"
        if self.may_use_params and self.chance(0.3):
            return f"{left} like {self.param(self.pick(('a%', '%-1', '_b')))}"
        patterns = ("a%%", "%%a%%", "_", "", "%%ß%%", "sku-1%%", "A%%", "%%e")
        return f"{left} {self.pick(('like', 'ilike', 'not like', 'like'))} '{self.pick(patterns)}'"

    def _truth(self, rels: Sequence[Rel]) -> str:
        found = self.column(rels, "bool")
        if found is None:
            return f"({self._comparison(rels)}) is {self.pick(('true', 'not true', 'unknown', 'not false'))}"
        return f"{found.sql}{self.pick(('', ' is true', ' is not true', ' is null', ' is not false'))}"

    def _row_comparison(self, rels: Sequence[Rel]) -> str:
        types = [self._type(rels, ["int", "text", "date", "num"]) for _ in range(2)]
        fields = [self.expression(rels, type, 0) for type in types]
        left = ", ".join(e.sql for e in fields)

        def values() -> str:
            return ", ".join(self.value(e.type, e.domain).sql for e in fields)

        if self.chance(0.3):
            return f"({left}) in (({values()}), ({values()}))"
        return f"({left}) {self.pick(('=', '<', '<=', '>', '<>', '>=', '<>', '<'))} ({values()})"

    def _containment(self, rels: Sequence[Rel]) -> str:
        found = self.column(rels, "arr")
        document = self.column(rels, "json")
        if found is not None and self.chance(0.5):
            tests = (
                "'a' = any({})",
                "{} @> array['a']",
                "{} && array['b','x']",
                "cardinality({}) > 1",
                "{} <@ '{{a,b}}'",
            )
            return self.pick(tests).format(found.sql)
        if document is not None:
            tests = (
                "{} ? 'a'",
                "{} @> '{{\"a\": 1}}'",
                "{} ->> 'a' = '1'",
                "jsonb_typeof({}) = 'object'",
                "{} -> 'b' is not null",
            )
            return self.pick(tests).format(document.sql)
        return self._comparison(rels)

    def pin(self, rels: Sequence[Rel]) -> str:
        """A condition on a partition key, in one of the forms that people write."""
        rel = self.pick([rel for rel in rels if rel.key])
        key = rel.columns[rel.key]

        def one() -> str:
            return self.key_sql(key.type, self.key_value(key.type))

        several = [self.key_value(key.type) for _ in range(self.rng.randint(1, 4))]
        in_list = ", ".join(self.key_sql(key.type, value) for value in several)
        second = self.any_column([rel])
        forms: dict[str, Callable[[], str]] = {
            "equal": lambda: f"{key.sql} = {one()}",
            "turned": lambda: f"{one()} = {key.sql}",
            "in": lambda: f"{key.sql} in ({in_list})",
            "in null": lambda: f"{key.sql} in ({in_list}, null)",
            "or": lambda: f"({key.sql} = {one()} or {key.sql} = {one()})",
            "or other": lambda: f"({key.sql} = {one()} or {self._comparison([rel])})",
            "and": lambda: f"({key.sql} = {one()} and {self._comparison([rel])})",
            "row": lambda: f"({key.sql}, {second.sql}) = ({one()}, {self.value(second.type, second.domain).sql})",
            "rows": lambda: f"({key.sql}, {second.sql}) in (({one()}, {self.value(second.type, second.domain).sql}))",
            "not distinct": lambda: f"{key.sql} is not distinct from {one()}",
            "two": lambda: f"({key.sql} = {one()} and {key.sql} = {one()})",
            "between": lambda: f"{key.sql} between {one()} and {one()}",
            "less": lambda: f"{key.sql} {self.pick(('<', '>='))} {one()}",
        }
        if self.may_use_params and key.type in {"int", "text"}:
            forms["any"] = lambda: f"{key.sql} = any({self.param(several)})"
        weights = {"equal": 6.0, "in": 3, "any": 2.5, "or": 1.5, "row": 0.7}
        return forms[self.weighted({name: weights.get(name, 0.5) for name in forms})]()
