"""The floor under everything: the rows that a statement needs go to one shard, and the statement itself is run there.

Only columns whose names occur in the statement are brought, and only rows that conditions on one table alone leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ..topology import Single, Topology
from .analysis import Analysis
from .catalog import Catalog, Table
from .plan import Ship, Shipped
from .probed import probed
from .purity import first_impurity
from .renaming import rename
from .scopes import Node
from .statement import deparse, expression, inner, kind, parse, quoted, strings, walk
from .template import Template, at_one_time, template

TEMP = "_shardpool_{}"


def pull(sql: str, topology: Topology, catalog: Catalog) -> Shipped:
    """The plan that brings the rows of every table to one shard. Raises `UnsupportedQuery`."""
    tree = at_one_time(parse(sql)[0])
    analysis = Analysis(topology, catalog, mentions=[])
    analysis.statement(tree)
    nodes = analysis.tables
    wanted = _Wanted(tree)
    groups: dict[tuple[str, bool], list[int]] = {}
    for number, node in enumerate(nodes):
        groups.setdefault((node.table, node.relation.inh), []).append(number)
    ships: list[Ship] = []
    for (table, inherits), numbers in groups.items():
        uses = [nodes[number] for number in numbers]
        temp = TEMP.format(len(ships) + 1)
        columns = wanted.columns(catalog.tables[table], uses)
        ship = _ship(temp, catalog.tables[table], inherits, columns, uses, tuple(numbers), catalog)
        ships.append(replace(ship, probed=probed(tree, uses, catalog)))
        for node in uses:
            node.relation.schemaname, node.relation.relname, node.relation.inh = "pg_temp", temp, True
    rename(tree, analysis)
    is_joined = len(nodes) + len(analysis.references) > 1
    filtered = any(ship.filters for ship in ships)
    made = tuple(replace(ship, is_joined=is_joined) for ship in ships)
    return Shipped("pull", made, deparse(tree), goes_further=filtered)


def without_filters(plan: Shipped) -> Shipped:
    """The plan with all rows of each table: nothing is evaluated but by the statement itself."""
    return replace(plan, ships=tuple(replace(ship, filters=()) for ship in plan.ships), goes_further=False)


class _Wanted:
    """The columns that a statement may look at, by their names alone: wherever a name occurs, it may be meant."""

    def __init__(self, tree: Any) -> None:
        self._names: set[str] = set()
        self._everything = False
        self._joined: set[str] = set()
        for found in walk(tree):
            match kind(found):
                case "ColumnRef":
                    self._names.update(strings(found.fields)[-1:])
                    self._everything |= any(field.WhichOneof("node") == "a_star" for field in found.fields)
                case "JoinExpr":
                    self._names.update(strings(found.using_clause))
                    self._everything |= found.is_natural or bool(found.alias.colnames)
                    self._joined.add(found.alias.aliasname)
                case "A_Indirection" | "ResTarget":
                    self._everything |= any(item.WhichOneof("node") == "a_star" for item in found.indirection)
        # The whole row of a join has all its columns.
        self._everything |= bool(self._joined & self._names - {""})

    def columns(self, table: Table, uses: Sequence[Node]) -> list[str]:
        """The columns to bring; all when a whole row is meant, or its columns are named by their positions."""
        names = [column.name for column in table.columns]
        whole = any(node.alias in self._names or node.relation.alias.colnames for node in uses)
        if self._everything or whole:
            return names
        found = [name for name in names if name in self._names]
        return found or [next(iter(table.key), names[0])] if names else []


def _ship(
    temp: str,
    table: Table,
    inherits: bool,
    columns: Sequence[str],
    uses: Sequence[Node],
    numbers: tuple[int, ...],
    catalog: Catalog,
) -> Ship:
    schema, name = table.name.split(".", 1)
    listed = ", ".join(map(quoted, columns))
    query = f"SELECT {listed} FROM {'' if inherits else 'ONLY '}{quoted(schema)}.{quoted(name)}"
    key = table.key if table.key and set(table.key) <= set(columns) else ()
    definition = _definition(table, columns) if isinstance(uses[0].placement, Single) else ""
    return Ship(temp, table.name, Template((query,)), _filters(uses, catalog), numbers, key, definition=definition)


def _definition(table: Table, names: Sequence[str]) -> str:
    """The columns as CREATE TABLE defines them."""
    found = []
    for column in table.columns:
        if column.name in names:
            collate = (
                f" COLLATE {quoted(column.collation)}" if column.collation and column.collation != "default" else ""
            )
            found.append(f"{quoted(column.name)} {column.type}{collate}")
    return ", ".join(found)


def _filters(uses: Sequence[Node], catalog: Catalog) -> tuple[Template, ...]:
    """Conditions that every row that any of the uses needs fulfils."""
    by_use = [
        [found for found in node.filters if first_impurity(found, catalog, timeless=False) is None] for node in uses
    ]
    if not all(by_use):
        return ()
    if len(by_use) == 1:
        return tuple(_condition(found) for found in by_use[0])
    arms = [" AND ".join(f"({_sql(found)})" for found in filters) for filters in by_use]
    return (_condition(inner(expression(" OR ".join(f"({arm})" for arm in arms)))),)


def _sql(condition: Any) -> str:
    return deparse(_selecting(condition)).removeprefix("SELECT ")


def _condition(condition: Any) -> Template:
    found = template(_selecting(condition))
    first = found.parts[0]
    assert isinstance(first, str)
    return Template((first.removeprefix("SELECT "), *found.parts[1:]))


def _selecting(condition: Any) -> Any:
    """`SELECT condition`, as a tree."""
    select = parse("select 1")[0]
    node = select.target_list[0].res_target.val
    for descriptor in node.DESCRIPTOR.fields:
        if descriptor.message_type is condition.DESCRIPTOR:
            getattr(node, descriptor.name).CopyFrom(condition)
    return select
