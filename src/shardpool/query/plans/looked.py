"""Statements of rows that a value leads to: `where email = …` of a column that is unique over the fleet. Pure.

A look-up of the value tells the partition key of its row. The statement is planned with that key as one more condition.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...control.lookups import is_ready
from ...quoting import quote_table
from ...topology import Lookup, Sharded, Topology
from ..analysis.catalog import Catalog
from ..analysis.conditions import conjuncts, constant
from ..analysis.pins import Const
from ..text.statement import expression, inner, kind, quoted, strings, walk
from ..text.template import untimed
from ..text.tree import copy

_AND = 1  # AND_EXPR
_STATEMENTS = ("SelectStmt", "UpdateStmt", "DeleteStmt")


@dataclass(frozen=True, slots=True)
class Looked:
    """`query` looks the `value` up, and has one parameter; `text` is the statement with the key that it gives.

    `places` are the parameters of the text: the number of one of the caller's, or below 0 that of a part of the key.
    """

    lookup: Lookup
    query: str
    value: Const
    text: str
    places: tuple[int, ...]

    def of(self, values: Sequence[Any]) -> Any:
        """The value that is looked up, of the caller's."""
        return values[self.value.param - 1] if self.value.param else self.value.value

    def params(self, values: Sequence[Any], key: Sequence[Any] | None) -> list[Any]:
        """The parameters of the text; a key of None is that of no row."""
        return [values[place - 1] if place > 0 else key and key[-place - 1] for place in self.places]


def looked(tree: Any, topology: Topology, catalog: Catalog, pinned: set[str]) -> Looked | None:
    """How a statement is routed by a value; None where none does. The rows of tables that are `pinned` have keys."""
    if not topology.lookups or kind(tree) not in _STATEMENTS:
        return None
    if kind(tree) == "SelectStmt" and (tree.HasField("larg") or tree.values_lists):
        return None
    if not tree.HasField("where_clause"):
        return None
    tables = list(_tables(tree))
    others = tree.using_clause if kind(tree) == "DeleteStmt" else tree.from_clause
    is_alone = len(others) == (1 if kind(tree) == "SelectStmt" else 0) and len(tables) == 1
    is_alone = is_alone and (not others or inner(others[0]) is tables[0])
    counts: dict[int, int] = {}
    for part in walk(tree):
        if kind(part) == "ParamRef":
            counts[part.number] = counts.get(part.number, 0) + 1
    for relation in tables:
        name = _resolved(tree, relation, catalog)
        placement = topology.placements.get(name)
        if not isinstance(placement, Sharded) or name in pinned:
            continue
        if len(topology.keyspaces[placement.keyspace].owning_shards) < 2:
            continue
        for lookup in topology.lookups.get(name, ()):
            entries = catalog.tables.get(lookup.entries)
            if entries is None or not is_ready(lookup, (index for index, _ in entries.unique)):
                continue
            value = _value(tree, relation, lookup.column, is_alone)
            if value is not None and counts.get(value.param, 0) <= 1:
                return _made(tree, relation, lookup, placement.key_columns, value, max(counts, default=0))
    return None


def _made(tree: Any, relation: Any, lookup: Lookup, keys: Sequence[str], value: Const, highest: int) -> Looked:
    alias = quoted(relation.alias.aliasname or relation.relname)
    whole = copy(tree)
    if kind(inner(tree.where_clause)) != "BoolExpr" or inner(tree.where_clause).boolop != _AND:
        whole.where_clause.CopyFrom(expression("true and true"))
        del whole.where_clause.bool_expr.args[1:]
        whole.where_clause.bool_expr.args[0].CopyFrom(tree.where_clause)
    for part, key in enumerate(keys, highest + 1):
        whole.where_clause.bool_expr.args.add().CopyFrom(expression(f"{alias}.{quoted(key)} = ${part}"))
    text, numbers = untimed(whole).for_psycopg()
    places = tuple(highest - number if number > highest else number for number in numbers)
    columns, cast = ", ".join(map(quoted, keys)), f"::{value.cast}" if value.cast else ""
    query = f"select {columns} from {quote_table(lookup.entries)} where {quoted(lookup.column)} = %s{cast}"
    return Looked(lookup, query, value, text, places)


def _tables(tree: Any) -> Iterator[Any]:
    """The tables of the statement itself, those that are joined too."""
    if kind(tree) != "SelectStmt":
        yield tree.relation
        return
    left = [inner(item) for item in tree.from_clause]
    while left:
        item = left.pop(0)
        if kind(item) == "RangeVar":
            yield item
        elif kind(item) == "JoinExpr" and not item.HasField("alias"):
            left += [inner(item.larg), inner(item.rarg)]


def _resolved(tree: Any, relation: Any, catalog: Catalog) -> str:
    """The qualified name of a table; empty for what is of a WITH clause."""
    ctes = [item.common_table_expr.ctename for item in tree.with_clause.ctes] if tree.HasField("with_clause") else []
    if not relation.schemaname and relation.relname in ctes:
        return ""
    return catalog.resolve(relation.schemaname, relation.relname) or ""


def _value(tree: Any, relation: Any, column: str, is_alone: bool) -> Const | None:
    """What the column of a table has to equal, by a condition that holds for all rows."""
    alias = relation.alias.aliasname or relation.relname
    for condition in conjuncts(inner(tree.where_clause)):
        if kind(condition) != "A_Expr" or condition.kind != 1 or strings(condition.name) != ["="]:
            continue
        sides = inner(condition.lexpr), inner(condition.rexpr)
        for one, other in (sides, sides[::-1]):
            if kind(one) != "ColumnRef" or len(strings(one.fields)) != len(one.fields):
                continue
            names = strings(one.fields)
            if names == [alias, column] or (is_alone and names == [column]):
                const = constant(other)
                if const is not None and (const.param or type(const.value) in (int, str)):
                    return const
    return None
