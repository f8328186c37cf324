"""Writes: what INSERT, UPDATE, DELETE and MERGE do with which rows, and what they store as keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ...keys import varchar_length
from ...topology import Reference
from ..text.statement import assigned, inner, kind, strings
from .catalog import Catalog
from .conditions import constant
from .facts import Ctes, Descent
from .levels import Level
from .listed import Listed
from .pins import AssignedKeys, Const, Holder, In, KeyAssignment
from .placing import doubts_of, refuse_conflicts_elsewhere
from .scopes import Item, Occurrence, Scope

_CMD_INSERT = 4
_NOT_MATCHED_BY_SOURCE = 2
_MATCHED = 1


def analyse_write(analysis: Descent, tree: Any, parent: Scope | None, ctes: Ctes) -> Level:
    """A write of a statement, or in its WITH clause; the first in `analysis.writes` is the statement's own."""
    node, item = analysis.table(tree.relation)
    analysis.writes.append(node)
    analysis.doubts += doubts_of(tree, node, analysis.catalog)
    if isinstance(node.placement, Reference):
        analysis.references.append(node)
    else:
        analysis.add(node)
    ctes, own = analysis.with_clause(tree, parent, ctes)
    scope = Scope(parent)
    match kind(tree):
        case "InsertStmt":
            _analyse_insert(analysis, tree, node, item, scope, ctes)
        case "MergeStmt":
            _analyse_merge(analysis, tree, node, item, scope, ctes)
        case _:
            _analyse_change(analysis, tree, node, item, scope, ctes)
    if tree.HasField("returning_clause"):
        analysis.visit(tree.returning_clause, scope, ctes)
    analysis.unused(own)
    return Level([], True, False, [], None)


def _analyse_change(analysis: Descent, tree: Any, node: Occurrence, item: Item, scope: Scope, ctes: Ctes) -> None:
    """UPDATE and DELETE."""
    scope.items.append(item)
    scope.anchors = [] if isinstance(node.placement, Reference) else [node]
    for source in tree.from_clause if kind(tree) == "UpdateStmt" else tree.using_clause:
        scope.anchors = scope.anchors + analysis.from_item(inner(source), scope, ctes)
    if tree.HasField("where_clause"):
        analysis.condition(inner(tree.where_clause), scope, ctes, lambda node: True, scope.anchors)
    if kind(tree) == "UpdateStmt":
        analysis.visit_all(tree.target_list, scope, ctes)
        analysis.key_assignments += _check_assigned(tree.target_list, node, may_be_kept=True)


def _check_assigned(
    targets: Sequence[Any], node: Occurrence, *, excluded: bool = False, may_be_kept: bool = False
) -> list[KeyAssignment]:
    """The partition key may only be set to what it is already; gives those that change it, or may.

    Raises `UnsupportedQuery` unless it `may_be_kept`: only what the rows are then can tell.
    """
    assignments = []
    # What a subquery gives to several columns at once is told of none.
    value_by_column = {name: inner(value) for name, value in assigned(targets)}
    for name in [target.res_target.name for target in targets]:
        value = value_by_column.get(name)
        if name not in node.key_columns:
            continue
        part = node.key_columns.index(name)
        const = constant(value)
        same = const is not None and any(
            isinstance(pin, In | AssignedKeys)
            and len(pin.consts) == 1
            and replace(pin.consts[0], holder=const.holder) == const
            for pin in node.pins[part]
        )
        if value is not None and kind(value) == "ColumnRef":
            itself = [[node.alias, name], ["excluded", name]] if excluded else [[node.alias, name], [name]]
            same |= strings(value.fields) in itself
        if same:
            continue
        pinned = [pin.consts[0] for pin in node.pins[part] if isinstance(pin, In) and len(pin.consts) == 1]
        assignment = KeyAssignment(node.table, node.keyspace, part, name, const, tuple(pinned))
        if not may_be_kept:
            raise assignment.refusal()
        assignments.append(assignment)
    return assignments


def _analyse_insert(analysis: Descent, tree: Any, node: Occurrence, item: Item, scope: Scope, ctes: Ctes) -> None:
    columns = _insert_columns(tree, item)
    select = inner(tree.select_stmt) if tree.HasField("select_stmt") else None
    if select is not None:
        level = analysis.query(select, scope.parent, ctes)
        analysis.inserted = len(level.columns) if level.is_counted else None
        holders = holders_of(node, analysis.catalog)
        analysis.doubts += _tie_inserted(select, level, node, columns, holders, analysis.listed)
    scope.items.append(item)
    if tree.HasField("on_conflict_clause"):
        _analyse_conflict(analysis, tree.on_conflict_clause, node, item, scope, ctes, columns)


def _insert_columns(tree: Any, item: Item) -> list[str]:
    return [column.res_target.name for column in tree.cols] or [name for name, _ in item.columns]


def _tie_inserted(
    select: Any,
    level: Level,
    node: Occurrence,
    columns: Sequence[str],
    holders: dict[str, Holder],
    listed: Listed | None,
) -> list[str]:
    """What the SELECT of an INSERT says about the keys of the new rows; gives what may change them on the way."""
    if select.values_lists:
        for part, name in enumerate(node.key_columns):
            consts = consts_of(select, columns.index(name), holders[name], listed) if name in columns else []
            if consts and all(const is not None for const in consts):
                node.pins[part].append(AssignedKeys(tuple(const for const in consts if const is not None)))
        return []
    doubts = []
    for part, name in enumerate(node.key_columns):
        if name not in columns or not level.is_counted or columns.index(name) >= len(level.columns):
            continue
        origin = level.columns[columns.index(name)][1]
        if origin is not None and origin.part == part:
            origin.node.tie(node, part)
            node.tie(origin.node, part)
            if holders[name].length and not 0 < varchar_length(origin.type) <= holders[name].length:
                doubts.append(f"{name} is a varchar({holders[name].length}), and cuts off spaces behind that")
        const = _selected_constant(select, columns.index(name))
        if const is not None:
            holder = replace(holders[name], nullable=holders[name].nullable and not _gives_no_row(select))
            node.pins[part].append(AssignedKeys((replace(const, holder=holder),)))
    return doubts


def _gives_no_row(select: Any) -> bool:
    limit = constant(inner(select.limit_count)) if select.HasField("limit_count") else None
    return limit is not None and not limit.param and limit.value == 0


def _selected_constant(select: Any, number: int) -> Const | None:
    """The constant that every row of a plain SELECT has in a column."""
    if len(select.target_list) <= number or select.HasField("larg"):
        return None
    values = [inner(target.res_target.val) for target in select.target_list[: number + 1]]
    if any(kind(value) == "ColumnRef" and len(strings(value.fields)) != len(value.fields) for value in values):
        return None
    return constant(values[number])


def _analyse_conflict(
    analysis: Descent, clause: Any, node: Occurrence, item: Item, scope: Scope, ctes: Ctes, given: Sequence[str]
) -> None:
    inside = Scope(scope.parent, [item, Item("excluded", [(name, None) for name, _ in item.columns])])
    analysis.visit(clause, inside, ctes)
    refuse_conflicts_elsewhere(clause, node, analysis.catalog, set(given) - analysis.new)
    _check_assigned(clause.target_list, node, excluded=True)


def _analyse_merge(analysis: Descent, tree: Any, node: Occurrence, item: Item, scope: Scope, ctes: Ctes) -> None:
    scope.items.append(item)
    analysis.from_item(inner(tree.source_relation), scope, ctes)
    # Where only rows that match are written, ON leaves out rows of both. Else a row of the source that matches none may
    # be inserted; and where rows of the target that match none are written, ON leaves out none.
    clauses = [clause.merge_when_clause for clause in tree.merge_when_clauses]
    everything = any(when.match_kind == _NOT_MATCHED_BY_SOURCE for when in clauses)
    both = is_matched_only(tree)
    analysis.condition(
        inner(tree.join_condition), scope, ctes, lambda found: both or (found is node and not everything), []
    )
    for clause in tree.merge_when_clauses:
        when = clause.merge_when_clause
        analysis.visit(when, scope, ctes)
        names = [target.res_target.name for target in when.target_list]
        if when.command_type == _CMD_INSERT:
            node_ = _inserted(when, node, names, item, holders_of(node, analysis.catalog))
            analysis.nodes.append(node_)
        else:
            _check_assigned(when.target_list, node)


def is_matched_only(tree: Any) -> bool:
    """Whether a MERGE writes rows only that match: like an UPDATE … FROM, or a DELETE … USING."""
    return all(clause.merge_when_clause.match_kind == _MATCHED for clause in tree.merge_when_clauses)


def _inserted(when: Any, node: Occurrence, names: Sequence[str], item: Item, holders: dict[str, Holder]) -> Occurrence:
    """A use for the rows that MERGE inserts, pinned by the constants of their key."""
    columns = list(names) or [name for name, _ in item.columns]
    target = Occurrence(node.table, node.placement, node.relation, node.alias, node.keyspace, node.key_columns)
    target.pins = [[] for _ in node.key_columns]
    for part, name in enumerate(node.key_columns):
        if name in columns and columns.index(name) < len(when.values):
            const = _stored(inner(when.values[columns.index(name)]), holders[name])
            if const is not None:
                target.pins[part].append(AssignedKeys((const,)))
    return target


def holders_of(node: Occurrence, catalog: Catalog) -> dict[str, Holder]:
    """By the name of the key column, what becomes of a value that is stored there."""
    holder_by_name = {}
    for name in node.key_columns:
        column = catalog.tables[node.table].column(name)
        assert column is not None
        holder_by_name[name] = Holder(varchar_length(column.type), not column.not_null)
    return holder_by_name


def consts_of(select: Any, number: int, holder: Holder, listed: Listed | None) -> list[Const | None]:
    """What is stored in one column by each row of VALUES; None for an expression, and where the row is too short."""
    if listed is not None:
        cells = listed.column(number)
    else:
        rows = [row.list.items for row in select.values_lists]
        cells = [row[number] if number < len(row) else None for row in rows]
    return [None if cell is None else _stored(inner(cell), holder) for cell in cells]


def _stored(expression: Any, holder: Holder) -> Const | None:
    const = constant(expression)
    return const if const is None or const.holder == holder else replace(const, holder=holder)
