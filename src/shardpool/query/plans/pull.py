"""The floor under everything: the rows that a statement needs go to one shard, and the statement itself is run there.

Only columns whose names occur in the statement are brought, and only rows that conditions on one table alone leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...topology import Single, Topology
from ..analysis.analysis import Analysis
from ..analysis.catalog import Catalog, Table
from ..analysis.probed import probed
from ..analysis.purity import first_volatile
from ..analysis.scopes import Occurrence
from ..text.statement import deparse, expression, inner, kind, parse, quoted, strings, walk
from ..text.template import Template, at_one_time, template
from ..text.tree import put
from .plan import Transfer, Transferred
from .renaming import rename

TEMP = "_shardpool_{}"


def pull(sql: str, topology: Topology, catalog: Catalog) -> Transferred:
    """The plan that brings the rows of every table to one shard. Raises `UnsupportedQuery`."""
    tree = at_one_time(parse(sql)[0])
    analysis = Analysis(topology, catalog, mentions=[])
    analysis.statement(tree)
    nodes = analysis.tables
    wanted = _Wanted(tree)
    groups: dict[tuple[str, bool], list[int]] = {}
    for number, node in enumerate(nodes):
        groups.setdefault((node.table, node.relation.inh), []).append(number)
    transfers: list[Transfer] = []
    for (table, inherits), numbers in groups.items():
        uses = [nodes[number] for number in numbers]
        temp = TEMP.format(len(transfers) + 1)
        columns = wanted.columns(catalog.tables[table], uses)
        transfer = _transfer(temp, catalog.tables[table], inherits, columns, uses, tuple(numbers), catalog)
        transfers.append(replace(transfer, probed=probed(tree, uses, catalog)))
        for node in uses:
            node.relation.schemaname, node.relation.relname, node.relation.inh = "pg_temp", temp, True
    rename(tree, analysis)
    is_joined = len(nodes) + len(analysis.references) > 1
    filtered = any(transfer.filters for transfer in transfers)
    made = tuple(replace(transfer, is_joined=is_joined) for transfer in transfers)
    return Transferred("pull", made, deparse(tree), goes_further=filtered)


def without_filters(plan: Transferred) -> Transferred:
    """The plan with all rows of each table: nothing is evaluated but by the statement itself."""
    return replace(
        plan, transfers=tuple(replace(transfer, filters=()) for transfer in plan.transfers), goes_further=False
    )


class _Wanted:
    """The columns that a statement may look at, by their names alone: wherever a name occurs, it may be meant."""

    def __init__(self, tree: Any) -> None:
        self._names: set[str] = set()
        self._everything = False
        self._joined: set[str] = set()
        for part in walk(tree):
            match kind(part):
                case "ColumnRef":
                    self._names.update(strings(part.fields)[-1:])
                    self._everything |= any(field.WhichOneof("node") == "a_star" for field in part.fields)
                case "JoinExpr":
                    self._names.update(strings(part.using_clause))
                    self._everything |= part.is_natural or bool(part.alias.colnames)
                    self._joined.add(part.alias.aliasname)
                case "A_Indirection" | "ResTarget":
                    self._everything |= any(item.WhichOneof("node") == "a_star" for item in part.indirection)
        # The whole row of a join has all its columns.
        self._everything |= bool(self._joined & self._names - {""})

    def columns(self, table: Table, uses: Sequence[Occurrence]) -> list[str]:
        """The columns to bring; all when a whole row is meant, or its columns are named by their positions."""
        names = [column.name for column in table.columns]
        whole = any(node.alias in self._names or node.relation.alias.colnames for node in uses)
        if self._everything or whole:
            return names
        wanted = [name for name in names if name in self._names]
        return wanted or [next(iter(table.key), names[0])] if names else []


def _transfer(
    temp: str,
    table: Table,
    inherits: bool,
    columns: Sequence[str],
    uses: Sequence[Occurrence],
    numbers: tuple[int, ...],
    catalog: Catalog,
) -> Transfer:
    schema, name = table.name.split(".", 1)
    listed = ", ".join(map(quoted, columns))
    query = f"SELECT {listed} FROM {'' if inherits else 'ONLY '}{quoted(schema)}.{quoted(name)}"
    key = table.key if table.key and set(table.key) <= set(columns) else ()
    definition = _definition(table, columns) if isinstance(uses[0].placement, Single) else ""
    return Transfer(temp, table.name, Template((query,)), _filters(uses, catalog), numbers, key, definition=definition)


def _definition(table: Table, names: Sequence[str]) -> str:
    """The columns as CREATE TABLE defines them."""
    columns = []
    for column in table.columns:
        if column.name in names:
            collate = (
                f" COLLATE {quoted(column.collation)}" if column.collation and column.collation != "default" else ""
            )
            columns.append(f"{quoted(column.name)} {column.type}{collate}")
    return ", ".join(columns)


def _filters(uses: Sequence[Occurrence], catalog: Catalog) -> tuple[Template, ...]:
    """Conditions that every row that any of the uses needs fulfils."""
    by_use = [
        [condition for condition in node.filters if first_volatile(condition, catalog, timeless=False) is None]
        for node in uses
    ]
    if not all(by_use):
        return ()
    if len(by_use) == 1:
        return tuple(_condition(condition) for condition in by_use[0])
    arms = [" AND ".join(f"({_sql(condition)})" for condition in filters) for filters in by_use]
    return (_condition(inner(expression(" OR ".join(f"({arm})" for arm in arms)))),)


def _sql(condition: Any) -> str:
    return deparse(_selecting(condition)).removeprefix("SELECT ")


def _condition(condition: Any) -> Template:
    condition_text = template(_selecting(condition))
    first = condition_text.parts[0]
    assert isinstance(first, str)
    return Template((first.removeprefix("SELECT "), *condition_text.parts[1:]))


def _selecting(condition: Any) -> Any:
    """`SELECT condition`, as a tree."""
    select = parse("select 1")[0]
    put(select.target_list[0].res_target.val, condition)
    return select
