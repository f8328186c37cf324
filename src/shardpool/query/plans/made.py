"""INSERT whose keys only a server can tell: one shard makes the rows, which are inserted then as finished VALUES.

Rows are made of expressions, defaults and what a SELECT makes of them and of reference tables. So each value is made
once, and where the row belongs is known before it is stored. Where the SELECT reads rows of shards it is run as any
other statement. See docs/adr/0045-keys-that-a-server-makes.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...control.settings import are_exact
from ...errors import UnsupportedQuery
from ..analysis.analysis import Analysis
from ..analysis.catalog import Column, Table
from ..analysis.purity import refuse_server_local
from ..analysis.timing import moments
from ..text.statement import deparse, expression, inner, kind, parse, quoted, walk
from ..text.template import template
from ..text.tree import copy
from .copies import uncut, written_as
from .finish import ROWS, Finish
from .numbered import drawn_columns, draws, numbered_rows, without_draws
from .plan import Made

_SYSTEM_VALUE = 3


def made(tree: Any, analysis: Analysis, reason: UnsupportedQuery) -> Made:
    """How the rows of an INSERT into a sharded table are made by one shard; raises `reason` where that is not right."""
    node, catalog = analysis.writes[0], analysis.catalog
    table = catalog.tables[node.table]
    if len(analysis.writes) > 1 or not are_exact(catalog.settings):
        raise reason
    reads = analysis.nodes != [node]
    select = inner(tree.select_stmt) if tree.HasField("select_stmt") else None
    given = _given(tree, select, table, analysis.inserted)
    if given is None:
        raise reason
    times = moments(table, catalog)
    numbers = numbered_rows(tree, table, node.key_columns, given)
    made_here = {*node.key_columns, *times}.difference(column.name for column in numbers)
    added = [column for column in table.columns if column.name not in given and column.name in made_here]
    if any(not column.default or column.generated for column in added):
        raise reason
    columns = [column for name in given if (column := table.column(name))] + added
    if len(columns) != len(given) + len(added) or _looks_up(tree):
        raise reason
    source = _source(tree, select, table, columns, len(given))
    refuse_server_local(without_draws(source), catalog)
    drawn = draws(source)
    if reads and drawn:
        raise reason
    columns += numbers
    finish = finished(tree, columns, table)
    sequences = tuple((column.name, column.sequence.name) for column in numbers if column.sequence is not None)
    return Made(deparse(source), finish, drawn, template(source) if reads else None, sequences)


def needs_numbers(tree: Any, analysis: Analysis) -> bool:
    """Whether the rows of an INSERT are numbered when it is known how many there are, or by the shard that numbers."""
    node = analysis.writes[0]
    table = analysis.catalog.tables[node.table]
    select = inner(tree.select_stmt) if tree.HasField("select_stmt") else None
    given = _given(tree, select, table, analysis.inserted)
    if given is None:
        # How many columns are given only a server knows.
        return bool(drawn_columns(table, node.key_columns)) and not tree.cols
    return bool(numbered_rows(tree, table, node.key_columns, given)) or draws(tree.select_stmt)


def _given(tree: Any, select: Any, table: Table, width: int | None) -> list[str] | None:
    """The columns that the statement gives values for; None where only a server knows."""
    if select is None:
        return []
    names = [column.res_target.name for column in tree.cols]
    if names:
        return names
    if select.values_lists:
        width = len(select.values_lists[0].list.items)
    return None if width is None else [column.name for column in table.columns][:width]


def _looks_up(tree: Any) -> bool:
    """Whether what becomes of conflicting rows, or is returned, hangs on other rows."""
    parts = [tree.on_conflict_clause, tree.returning_clause]
    return any(kind(found) == "SubLink" for part in parts for found in walk(part))


def _source(tree: Any, select: Any, table: Table, columns: Sequence[Column], given: int) -> Any:
    """The SELECT, or VALUES, that gives the rows with all of these columns as texts."""
    places = [place_of(column) for column in columns]
    defaults = [expression(default_of(table, column)) for column in columns]
    plain = select is None or (
        select.values_lists
        and not (select.HasField("with_clause") or select.HasField("limit_count") or select.HasField("limit_offset"))
        and not select.sort_clause
    )
    if plain:
        rows = [list(row.list.items) for row in select.values_lists] if select is not None else [[]]
        source = parse("values (1)")[0]
        del source.values_lists[:]
        for row in rows:
            cells = source.values_lists.add().list.items
            for number, default in enumerate(defaults):
                value = row[number] if number < given and number < len(row) else default
                cells.append(as_text(places[number], default if kind(inner(value)) == "SetToDefault" else value))
    else:
        names = [f"c{number}" for number in range(1, given + 1)]
        source = parse(f"select 1 from (select 1) as made ({', '.join(names)})")[0]
        source.from_clause[0].range_subselect.subquery.select_stmt.CopyFrom(select)
        del source.target_list[:]
        values = [expression(f"made.{name}") for name in names]
        for number, default in enumerate(defaults):
            if number < given and columns[number].of_domain:
                value = expression(written_as(columns[number], f"made.{names[number]}"))
            else:
                value = as_text(places[number], values[number] if number < given else default)
            source.target_list.add().res_target.val.CopyFrom(value)
    if tree.HasField("with_clause"):
        source.with_clause.CopyFrom(tree.with_clause)
    return source


def place_of(column: Column) -> Any:
    """`(NULL)::type::text`, with NULL in the place of a value; only the text of a domain, and where a cast cuts."""
    is_cut = column.type.startswith(("character(", "bit("))
    is_text = column.of_domain or is_cut
    return expression("null::pg_catalog.text" if is_text else written_as(column, f"null::{uncut(column.type)}"))


def as_text(place: Any, value: Any) -> Any:
    """The place with a value in it."""
    found = copy(place)
    inside = found
    while kind(inner(inside)) in ("TypeCast", "FuncCall"):
        inside = inside.type_cast.arg if kind(inner(inside)) == "TypeCast" else inside.func_call.args[0]
    inside.CopyFrom(value)
    return found


def default_of(table: Table, column: Column) -> str:
    """SQL of what a column gets that is given no value."""
    if column.default != "identity":
        return column.default or "null"
    name = ".".join(map(quoted, table.name.split(".", 1)))
    return f"pg_catalog.nextval(pg_catalog.pg_get_serial_sequence({_literal(name)}, {_literal(column.name)}))"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def finished(tree: Any, columns: Sequence[Column], table: Table) -> Finish:
    """An INSERT with one parameter in the place of its rows."""
    found = copy(tree)
    found.ClearField("with_clause")
    del found.cols[:]
    for column in columns:
        found.cols.add().res_target.name = column.name
    if any(column.default == "identity" for column in columns):
        found.override = _SYSTEM_VALUE
    found.select_stmt.CopyFrom(_statement_node(f"values (${ROWS})"))
    nothing = copy(found)
    nothing.select_stmt.CopyFrom(_statement_node(f"select {', '.join(['null'] * len(columns))} limit 0"))
    return Finish(template(found), template(nothing))


def _statement_node(sql: str) -> Any:
    found = parse(f"select 1 from ({sql}) s")[0]
    return found.from_clause[0].range_subselect.subquery
