"""Rows that are on their way to another shard lie on both: of the two, the one that does not own them leaves them out.

The text of a statement stays the same for all shards: a condition asks the shard for its name first, so that the others
do not compute buckets. Whoever knows the key asks its owner alone, and needs none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any

import psycopg

from ...control.buckets import bucket_of
from ...control.guard import multirange
from ...errors import RoutingError, UnsupportedQuery, first_line
from ...quoting import quote_ident, quote_literal, quote_table
from ...topology import Keyspace, Sharded, Topology
from ..analysis.analysis import Analysis
from ..analysis.catalog import Catalog
from ..text.statement import deparse, enum_name, expression, inner, kind, parse, walk
from ..text.template import Template, template
from ..text.tree import copy
from .plan import Gathered, Plan, Rekeyed, Transferred

# The number of the parameter that stands for the time of a template while its text is a statement; none is as high.
_TIME = 65536

_COUNTED = ("SelectStmt", "UpdateStmt", "DeleteStmt", "MergeStmt")

# Adds a condition where it has the effect of the rows not being there.
_Add = Callable[[Any], None]


def exclude(plan: Plan, topology: Topology, catalog: Catalog) -> Plan:
    """The plan in which no shard counts rows that are copied to it, or that it has given away.

    `topology` says which rows move, and who owns them. Raises `UnsupportedQuery` where a statement cannot say it.
    """
    moving = {use.keyspace for use in plan.uses if use.keyspace and topology.keyspaces[use.keyspace].moves}
    if not moving:
        return plan
    exclusion = _Exclusion(topology, catalog)
    if isinstance(plan.rekeyed, Rekeyed):
        plan = replace(plan, rekeyed=replace(plan.rekeyed, delete=exclusion.of_gathered(plan.rekeyed.delete)))
    match plan.scattered:
        case Gathered() as gathered if gathered.copies is None:
            return replace(plan, scattered=exclusion.of_gathered(gathered))
        case Transferred() as transferred:
            transfers = tuple(
                replace(transfer, query=exclusion.of_template(transfer.query, is_filtered=bool(transfer.filters)))
                for transfer in transferred.transfers
            )
            return replace(plan, scattered=replace(transferred, transfers=transfers))
    return plan


def without_copies(sql: str, topology: Topology, catalog: Catalog) -> str:
    """One statement that every shard is sent, of which none counts rows that it does not own; others as they stand.

    Raises `UnsupportedQuery` for one of moving tables of which this cannot be said.
    """
    moving = {
        table.split(".")[-1]
        for table, placement in topology.placements.items()
        if isinstance(placement, Sharded) and topology.keyspaces[placement.keyspace].moves
    }
    try:
        trees = parse(sql)
    except psycopg.Error:
        return sql  # the servers tell better what is wrong
    named = {part.relname for tree in trees for part in walk(tree) if kind(part) == "RangeVar"}
    if not named & moving or all(kind(tree) not in _COUNTED for tree in trees):
        return sql
    try:
        if len(trees) > 1:
            raise UnsupportedQuery("it is several statements at once")
        return _Exclusion(topology, catalog).of_sql(sql)
    except (UnsupportedQuery, RoutingError) as reason:
        raise UnsupportedQuery(
            f"rows of {', '.join(sorted(named & moving))} are on their way to another shard, and would count twice",
            detail=f"They cannot be left out: {first_line(reason)}",
            hint="Ask the fleet as a whole, and no shards by name; or look when the move ends: shardpool move status",
        ) from reason


@dataclass(frozen=True, slots=True)
class _Exclusion:
    topology: Topology
    catalog: Catalog

    def of_gathered(self, made: Gathered) -> Gathered:
        timed = made.timed and self.of_template(made.timed)
        return replace(made, sql=self.of_sql(made.sql), timed=timed)

    def of_sql(self, sql: str) -> str:
        """The SQL of a statement with `$n`."""
        tree = parse(sql)[0]
        return deparse(tree) if self._change(tree) else sql

    def of_template(self, made: Template, *, is_filtered: bool = False) -> Template:
        """The template; one that `is_filtered` gets a WHERE behind it, and may have none of its own."""
        tree = parse(made.numbered(_TIME))[0]
        if not self._change(tree, in_place=not is_filtered):
            return made
        parts = template(tree).parts
        return Template(tuple(0 if part == _TIME else part for part in parts))

    def _change(self, tree: Any, *, in_place: bool = True) -> bool:
        """Exclude in a tree; whether there was anything to be excluded."""
        analysis = Analysis(self.topology, self.catalog, mentions=[])
        analysis.query(tree, None, {})
        tables = {node.relation.location: node.table for node in analysis.tables}
        rows = {
            mention.node.relation.location
            for mention in analysis.mentions or ()
            if mention.is_row and not _is_star(mention.reference)
        }
        places = _Places(tables, self._conditions(), rows, in_place)
        for level in [part for part in walk(tree) if kind(part) in ("SelectStmt", "UpdateStmt", "DeleteStmt")]:
            places.level(level)
        if any(kind(part) == "MergeStmt" for part in walk(tree)) and places.knows(tables.values()):
            raise UnsupportedQuery(
                "MERGE on several shards waits until the rows that are on their way to another shard have arrived",
                hint="Bind it to one partition key; or look when the move ends: shardpool move status",
            )
        return places.changed

    def _conditions(self) -> dict[str, Callable[[str], str]]:
        """By table, the condition for its rows under an alias."""
        condition_by_table = {}
        for table, placement in self.topology.placements.items():
            if isinstance(placement, Sharded) and self.topology.keyspaces[placement.keyspace].moves:
                condition_by_table[table] = _condition(
                    self.topology.keyspaces[placement.keyspace], placement.key_columns
                )
        return condition_by_table


def _condition(space: Keyspace, key_columns: tuple[str, ...]) -> Callable[[str], str]:
    left_out: dict[str, list[tuple[int, int]]] = {}
    for move in space.moves:
        owner = space.shard_by_bucket[move.buckets[0][0]]
        left_out.setdefault(move.target if owner == move.source else move.source, []).extend(move.buckets)

    def of(alias: str) -> str:
        bucket = bucket_of(space, key_columns, f"{alias}.")
        return " AND ".join(
            f"((SELECT shard FROM shardpool.self) OPERATOR(pg_catalog.<>) {quote_literal(shard)} "
            f"OR ({bucket} OPERATOR(pg_catalog.<@) {multirange(ranges)}) IS NOT TRUE)"
            for shard, ranges in left_out.items()
        )

    return of


class _Places:
    """Puts the conditions of tables where they take rows away and do nothing else: in WHERE, in ON, in a subquery."""

    def __init__(
        self, tables: Mapping[int, str], conditions: Mapping[str, Callable[[str], str]], rows: Set[int], in_place: bool
    ) -> None:
        self._tables = tables
        self._rows = rows
        self._conditions = conditions
        self._in_place = in_place
        self.changed = False

    def knows(self, tables: Any) -> bool:
        """Whether any of the tables has a condition."""
        return any(table in self._conditions for table in tables)

    def level(self, tree: Any) -> None:
        """One level of a statement: what is in its FROM, and for UPDATE and DELETE what it writes."""

        def where(condition: Any) -> None:
            _and(tree.where_clause, condition)

        if kind(tree) != "SelectStmt":
            self._table(tree.relation, where, None, set())
        items = {"SelectStmt": "from_clause", "UpdateStmt": "from_clause", "DeleteStmt": "using_clause"}[kind(tree)]
        sources = getattr(tree, items)
        names = [name for source in sources for name in _names(inner(source))]
        twice = {name for name in names if names.count(name) > 1}
        for source in sources:
            self._item(source, where if self._in_place else None, twice)

    def _item(self, node: Any, add: _Add | None, twice: Set[str]) -> None:
        """What stands in FROM; without `add` a condition would act on more than the rows of the table."""
        item = inner(node)
        match kind(item):
            case "RangeVar":
                self._table(item, None if item.alias.colnames else add, node, twice)
            case "RangeTableSample" if self._condition(inner(item.relation)) is not None:
                raise UnsupportedQuery(
                    "TABLESAMPLE of rows that are on their way to another shard would count some twice",
                    hint="Look when the move ends: shardpool move status",
                )
            case "JoinExpr":
                self._join(item, add, twice)

    def _join(self, join: Any, add: _Add | None, twice: Set[str]) -> None:
        """An outer join keeps the rows of one side, so that a condition on the other belongs to ON."""

        def on(condition: Any) -> None:
            _and(join.quals, condition)

        inside = on if join.HasField("quals") and self._in_place else None
        # The alias of a join hides the names of its tables from all but its own ON.
        kept = None if join.HasField("alias") else add
        left, right = {
            "JOIN_INNER": (kept or inside, kept or inside),
            "JOIN_LEFT": (kept, inside),
            "JOIN_RIGHT": (inside, kept),
        }.get(enum_name(join, "jointype"), (None, None))
        self._item(join.larg, left, twice)
        self._item(join.rarg, right, twice)

    def _condition(self, relation: Any) -> Callable[[str], str] | None:
        table = self._tables.get(relation.location) if kind(relation) == "RangeVar" else None
        return self._conditions.get(table) if table is not None else None

    def _table(self, relation: Any, add: _Add | None, node: Any, twice: Set[str]) -> None:
        condition = self._condition(relation)
        if condition is None:
            return
        self.changed = True
        alias = relation.alias.aliasname or relation.relname
        # Tables of two schemas may have one name in FROM, and are told apart by their schemas.
        is_bare = alias in twice and not relation.alias.aliasname
        if add is not None:
            add(expression(condition(quote_table(self._tables[relation.location]) if is_bare else quote_ident(alias))))
            return
        if is_bare:
            raise UnsupportedQuery(
                f"{alias} has the name of another table, and rows of it are on their way to another shard",
                hint=f"Give it an alias: {alias} AS a.",
            )
        if relation.location in self._rows:
            raise UnsupportedQuery(
                f"whole rows of {alias} cannot be told while some of them are on their way to another shard",
                detail="Around this join its copies are left out by a subquery, whose rows have another type.",
                hint="Select its columns one by one; or look when the move ends: shardpool move status",
            )
        only = "" if relation.inh else "ONLY "
        name = quote_table(self._tables[relation.location])
        around = parse(f"select * from (select * from {only}{name} as t where {condition('t')}) as x")[0]
        made = copy(around.from_clause[0])
        made.range_subselect.alias.CopyFrom(relation.alias)
        made.range_subselect.alias.aliasname = alias
        node.CopyFrom(made)


def _is_star(reference: Any) -> bool:
    return bool(reference.fields[-1].WhichOneof("node") == "a_star")


def _names(item: Any) -> Iterator[str]:
    """The names by which FROM gives out its tables."""
    if kind(item) == "JoinExpr":
        yield from _names(inner(item.larg))
        yield from _names(inner(item.rarg))
    elif kind(item) == "RangeVar":
        yield item.alias.aliasname or item.relname


def _and(place: Any, condition: Any) -> None:
    """Let a Node, empty or not, hold the condition as well."""
    if inner(place) is None:
        place.CopyFrom(condition)
        return
    arms = [arm for node in (place, condition) for arm in _arms(node)]
    both = expression("true and true")
    del both.bool_expr.args[:]
    both.bool_expr.args.extend(arms)
    place.CopyFrom(both)


def _arms(condition: Any) -> list[Any]:
    """What an AND holds: the parser has no AND right below another."""
    message = inner(condition)
    is_and = kind(message) == "BoolExpr" and enum_name(message, "boolop") == "AND_EXPR"
    return [arm for part in message.args for arm in _arms(part)] if is_and else [copy(condition)]
