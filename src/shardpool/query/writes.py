"""INSERT, UPDATE, DELETE and MERGE: where they go.

A write whose keys are known goes to one shard as it stands. UPDATE and DELETE of rows on several shards, and an INSERT
that reads the rows of the same keys, run on each shard for its own rows. The rows of VALUES are divided by their keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import psycopg

from ..errors import UnsupportedQuery
from ..keys import COLUMN_TYPES, varchar_length
from ..topology import Reference, Sharded, Topology
from .analysis import Analysis, Ctes
from .catalog import Catalog, Column
from .conditions import constant
from .copies import plan_copies
from .levels import Level
from .listed import Listed
from .pins import Const, Holder, In, Kept, Stored
from .placing import check_of, doubts_of, refuse_conflicts_elsewhere, unseen
from .plan import Gathered, Plan, Split, loose_params, uses_of
from .purity import first_impurity, refuse_server_bound
from .scopes import Item, Node, Scope, anchor
from .statement import inner, kind, parse, strings, verb, walk
from .timing import moments, timed, told, with_defaults

_CMD_INSERT = 4
_NOT_MATCHED_BY_SOURCE = 2
_MATCHED = 1


def plan_write(sql: str, tree: Any, topology: Topology, catalog: Catalog, listed: Listed | None = None) -> Plan:
    """The plan of a write; where its rows are `listed`, the tree has a sample of them.

    Raises `UnsupportedQuery`, `UnknownTable`.
    """
    analysis = Analysis(topology, catalog)
    analysis.listed = listed
    analysis.query(tree, None, {})
    target = analysis.writes[0]
    if listed is not None and not (
        isinstance(target.placement, Sharded) and _is_divisible(tree) and not _has_strange_default(target, catalog)
    ):
        return plan_write(sql, parse(sql)[0], topology, catalog)
    uses = uses_of(analysis.nodes)
    if any(isinstance(node.placement, Reference) for node in analysis.writes[1:]):
        raise writing_with(analysis)
    if isinstance(target.placement, Reference):
        return plan_copies(sql, tree, analysis, uses)
    if analysis.writes[1:] and analysis.doubts:
        raise unseen(tree, target, analysis.doubts)
    check = check_of(sql, tree, target, analysis.doubts, topology)
    refusal = None
    if kind(tree) == "InsertStmt" and isinstance(target.placement, Sharded):
        keys = _keys_of_values(tree, target, catalog, listed)
        if keys is not None and _is_divisible(tree):
            split = _split(sql, tree, target, keys, catalog, listed)
            refusal = _split_refusal(tree, analysis, catalog)
            loose = _loose_keys(sql, tree, target, catalog, listed)
            return Plan(sql, "INSERT", uses, True, split, refusal, loose=loose, check=check)
        refusal = _insert_refusal(tree, target, analysis, keys is not None)
    refusal = refusal or _refusal(tree, target, analysis, catalog)
    scattered = None
    if refusal is None:
        scattered = Gathered("write", sql, timed=timed(_with_defaults(tree, target, analysis)))
    loose, kept = loose_params(tree, analysis.key_columns), tuple(analysis.kept)
    return Plan(sql, verb(tree), uses, True, scattered, refusal, root=0, loose=loose, kept=kept, check=check)


def _split(
    sql: str, tree: Any, target: Node, keys: tuple[tuple[Const, ...], ...], catalog: Catalog, listed: Listed | None
) -> Split:
    """The rows of VALUES divided, with the defaults that are the same moment for all of them."""
    table = catalog.tables[target.table]
    defaults = moments(table, catalog)
    names = [column.name for column in table.columns]
    columns = [column.res_target.name for column in tree.cols]
    columns = columns or names[: len(inner(tree.select_stmt).values_lists[0].list.items)]
    time = timed(with_defaults(tree, defaults, columns))
    if time is None:
        return Split(target.keyspace, keys, sql if listed is None else listed.sample, None, listed)
    highest = max((found.number for found in walk(tree) if kind(found) == "ParamRef"), default=0)
    number = 1 + max(highest, listed.highest_param if listed is not None else 0)
    if listed is not None:
        order = [*columns, *(name for name in defaults if name not in columns)]
        listed = listed.with_defaults({order.index(name): told(default, number) for name, default in defaults.items()})
    return Split(target.keyspace, keys, time.numbered(number), time, listed)


def _with_defaults(tree: Any, target: Node, analysis: Analysis) -> Any:
    """The write with the defaults of a sharded table that are the same moment for all of its rows."""
    table = analysis.catalog.tables[target.table]
    defaults = moments(table, analysis.catalog) if isinstance(target.placement, Sharded) else {}
    return with_defaults(tree, defaults, _given(tree, analysis, defaults)) if defaults else tree


def _has_strange_default(target: Node, catalog: Catalog) -> bool:
    """Whether a default that is put into listed rows has what looks like a parameter there."""
    return any("$" in default for default in moments(catalog.tables[target.table], catalog).values())


def _given(tree: Any, analysis: Analysis, defaults: Mapping[str, str]) -> Sequence[str]:
    """The columns that an INSERT of a SELECT gives. Raises `UnsupportedQuery` where only the server knows."""
    if kind(tree) != "InsertStmt":
        return ()
    if tree.cols:
        return [column.res_target.name for column in tree.cols]
    width = analysis.inserted
    if width is None:
        raise UnsupportedQuery(
            f"how many columns this INSERT gives is not known, and {', '.join(defaults)} may get its default",
            detail="The rows of one statement have one moment, which is told to all shards.",
            hint="Name the columns: INSERT INTO table (…) SELECT ….",
        )
    names = [column.name for column in analysis.catalog.tables[analysis.writes[0].table].columns]
    return names[:width]


def analyse_write(analysis: Analysis, tree: Any, parent: Scope | None, ctes: Ctes) -> Level:
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


def _analyse_change(analysis: Analysis, tree: Any, node: Node, item: Item, scope: Scope, ctes: Ctes) -> None:
    """UPDATE and DELETE."""
    scope.items.append(item)
    scope.anchors = [] if isinstance(node.placement, Reference) else [node]
    for source in tree.from_clause if kind(tree) == "UpdateStmt" else tree.using_clause:
        scope.anchors = scope.anchors + analysis.from_item(inner(source), scope, ctes)
    if tree.HasField("where_clause"):
        analysis.condition(inner(tree.where_clause), scope, ctes, lambda node: True, scope.anchors)
    if kind(tree) == "UpdateStmt":
        analysis.visit_all(tree.target_list, scope, ctes)
        analysis.kept += _check_assigned(tree.target_list, node, may_be_kept=True)


def _check_assigned(
    targets: Sequence[Any], node: Node, *, excluded: bool = False, may_be_kept: bool = False
) -> list[Kept]:
    """The partition key may only be set to what it is already; gives what only the parameters can tell."""
    kept = []
    for target in targets:
        name, value = target.res_target.name, inner(target.res_target.val)
        if name not in node.key_columns:
            continue
        part = node.key_columns.index(name)
        const = constant(value)
        same = const is not None and any(
            isinstance(pin, In | Stored)
            and len(pin.consts) == 1
            and replace(pin.consts[0], holder=const.holder) == const
            for pin in node.pins[part]
        )
        if kind(value) == "ColumnRef":
            itself = [[node.alias, name], ["excluded", name]] if excluded else [[node.alias, name], [name]]
            same |= strings(value.fields) in itself
        if same:
            continue
        pinned = [pin.consts[0] for pin in node.pins[part] if isinstance(pin, In) and len(pin.consts) == 1]
        found = Kept(node.table, node.keyspace, part, name, const or Const(), tuple(pinned))
        if const is None or not pinned or not may_be_kept:
            raise found.refusal()
        kept.append(found)
    return kept


# -- INSERT --------------------------------------------------------------------------------------------------------


def _analyse_insert(analysis: Analysis, tree: Any, node: Node, item: Item, scope: Scope, ctes: Ctes) -> None:
    columns = _insert_columns(tree, item)
    select = inner(tree.select_stmt) if tree.HasField("select_stmt") else None
    if select is not None:
        level = analysis.query(select, scope.parent, ctes)
        analysis.inserted = len(level.columns) if level.is_counted else None
        holders = _holders(node, analysis.catalog)
        analysis.doubts += _tie_inserted(select, level, node, columns, holders, analysis.listed)
    scope.items.append(item)
    if tree.HasField("on_conflict_clause"):
        _analyse_conflict(analysis, tree.on_conflict_clause, node, item, scope, ctes, columns)


def _insert_columns(tree: Any, item: Item) -> list[str]:
    return [column.res_target.name for column in tree.cols] or [name for name, _ in item.columns]


def _holders(node: Node, catalog: Catalog) -> dict[str, Holder]:
    """By the name of the key column, what becomes of a value that is stored there."""
    found = {}
    for name in node.key_columns:
        column = catalog.tables[node.table].column(name)
        assert column is not None
        found[name] = Holder(varchar_length(column.type), not column.not_null)
    return found


def _stored(expression: Any, holder: Holder) -> Const | None:
    const = constant(expression)
    return const if const is None or const.holder == holder else replace(const, holder=holder)


def _tie_inserted(
    select: Any,
    level: Level,
    node: Node,
    columns: Sequence[str],
    holders: dict[str, Holder],
    listed: Listed | None,
) -> list[str]:
    """What the SELECT of an INSERT says about the keys of the new rows; gives what may change them on the way."""
    if select.values_lists:
        for part, name in enumerate(node.key_columns):
            consts = _consts(select, columns.index(name), holders[name], listed) if name in columns else []
            if consts and all(const is not None for const in consts):
                node.pins[part].append(Stored(tuple(const for const in consts if const is not None)))
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
            node.pins[part].append(Stored((replace(const, holder=holders[name]),)))
    return doubts


def _consts(select: Any, number: int, holder: Holder, listed: Listed | None) -> list[Const | None]:
    """What is stored in one column by each row of VALUES; None for an expression, and where the row is too short."""
    if listed is not None:
        cells = listed.column(number)
    else:
        rows = [row.list.items for row in select.values_lists]
        cells = [row[number] if number < len(row) else None for row in rows]
    return [None if cell is None else _stored(inner(cell), holder) for cell in cells]


def _selected_constant(select: Any, number: int) -> Const | None:
    """The constant that every row of a plain SELECT has in a column."""
    if len(select.target_list) <= number or select.larg.ByteSize():
        return None
    values = [inner(target.res_target.val) for target in select.target_list[: number + 1]]
    if any(kind(value) == "ColumnRef" and len(strings(value.fields)) != len(value.fields) for value in values):
        return None
    return constant(values[number])


def _analyse_conflict(
    analysis: Analysis, clause: Any, node: Node, item: Item, scope: Scope, ctes: Ctes, given: Sequence[str]
) -> None:
    inside = Scope(scope.parent, [item, Item("excluded", [(name, None) for name, _ in item.columns])])
    analysis.visit(clause, inside, ctes)
    refuse_conflicts_elsewhere(clause, node, analysis.catalog, given)
    _check_assigned(clause.target_list, node, excluded=True)


def _keys_of_values(
    tree: Any, node: Node, catalog: Catalog, listed: Listed | None
) -> tuple[tuple[Const, ...], ...] | None:
    """The keys of the rows of VALUES; None for an INSERT of another kind."""
    table = node.table.removeprefix("public.")
    if not tree.HasField("select_stmt"):
        raise UnsupportedQuery(f"INSERT … DEFAULT VALUES gives {table} no partition key", hint=_name_key(node))
    select = inner(tree.select_stmt)
    columns = [column.res_target.name for column in tree.cols]
    columns = columns or [column.name for column in catalog.tables[node.table].columns]
    missing = [name for name in node.key_columns if name not in columns]
    if missing:
        raise _without_key(table, node, missing)
    if not select.values_lists:
        return None
    if len({len(row.list.items) for row in select.values_lists}) > 1:
        raise psycopg.errors.SyntaxError("VALUES lists must all be the same length")
    if not tree.cols and len(select.values_lists[0].list.items) <= max(map(columns.index, node.key_columns)):
        missing = [name for name in node.key_columns if columns.index(name) >= len(select.values_lists[0].list.items)]
        raise _without_key(table, node, missing)
    rows, holders = [], _holders(node, catalog)
    by_part = [_consts(select, columns.index(name), holders[name], listed) for name in node.key_columns]
    for number, consts in enumerate(zip(*by_part, strict=True), 1):
        if any(const is None for const in consts):
            raise UnsupportedQuery(
                f"the partition key of row {number} of INSERT into {table} is an expression",
                detail="Where the row belongs can only be told from a literal or a parameter.",
                hint="Pass its value as a parameter.",
            )
        rows.append(tuple(const for const in consts if const is not None))
    return tuple(rows)


def _loose_keys(sql: str, tree: Any, node: Node, catalog: Catalog, listed: Listed | None) -> frozenset[int]:
    """The parameters that are keys of VALUES, and stand elsewhere too: not only for columns of the key's type.

    Only of named parameters there are several places: that is seen in the text, without a walk through many rows.
    """
    numbers = _PARAM.findall(sql)
    if len(set(numbers)) == len(numbers):
        return frozenset()
    table, select = catalog.tables[node.table], inner(tree.select_stmt)
    names = [column.res_target.name for column in tree.cols] or [column.name for column in table.columns]
    kinds = {_family(table.column(name)) for name in node.key_columns}
    places = Counter(int(number[1:]) for number in numbers)
    if len(kinds) == 1:
        for row in _lone_params(select) if listed is None else map(_lone_params_of, listed.cells):
            for name, number in zip(names, row, strict=False):
                if number and _family(table.column(name)) in kinds:
                    places[number] -= 1
    return frozenset(number for number, count in places.items() if count)


def _lone_params(select: Any) -> Iterator[list[int]]:
    """For each row of VALUES the numbers of the parameters in it that stand as they are; 0 for all else."""
    for row in select.values_lists:
        yield [value.number if kind(value) == "ParamRef" else 0 for value in map(inner, row.list.items)]


def _lone_params_of(cells: Sequence[str]) -> list[int]:
    return [int(cell[1:]) if _PARAM.fullmatch(cell) else 0 for cell in cells]


_PARAM = re.compile(r"\$[0-9]+")


def _family(column: Column | None) -> str:
    """The key type that a column can hold; its own type where it can hold none."""
    type_ = "" if column is None else column.type.split("(")[0]
    return next((key_type for key_type, types in COLUMN_TYPES.items() if type_ in types), type_)


def _is_divisible(tree: Any) -> bool:
    """Whether each row of VALUES can be inserted by itself."""
    select = inner(tree.select_stmt)
    limited = any(select.HasField(name) for name in ("with_clause", "limit_count", "limit_offset"))
    return not (limited or select.sort_clause or tree.HasField("with_clause"))


def _insert_refusal(tree: Any, node: Node, analysis: Analysis, is_values: bool) -> UnsupportedQuery | None:
    """Why the rows of an INSERT that is not plain VALUES cannot be inserted by each shard for itself."""
    table = node.table.removeprefix("public.")
    if is_values:
        return UnsupportedQuery(
            "VALUES with WITH, ORDER BY or LIMIT cannot be divided among shards",
            hint="Insert the rows by plain VALUES, or those of each partition key by themselves.",
        )
    if any(node in other.edges for other in analysis.nodes if other is not node):
        return None
    if all(node.pins):
        return None
    raise UnsupportedQuery(
        f"where the rows of this INSERT into {table} belong is not known before they are made",
        detail="The partition key of each new row is neither that of a row that is read, nor a constant.",
        hint="Read the rows with execute(), and write them with copy_into().",
    )


def _without_key(table: str, node: Node, missing: Sequence[str]) -> UnsupportedQuery:
    return UnsupportedQuery(f"INSERT into {table} without its partition key {', '.join(missing)}", hint=_name_key(node))


def _name_key(node: Node) -> str:
    return f"Give {', '.join(node.key_columns)} in every row: it says on which shard the row belongs."


def _split_refusal(tree: Any, analysis: Analysis, catalog: Catalog) -> UnsupportedQuery | None:
    """Why the rows of VALUES cannot go to several shards."""
    if analysis.tables[1:]:
        return UnsupportedQuery(
            "the rows of one INSERT that read other tables cannot be divided among shards",
            hint="Insert the rows of each partition key by themselves.",
        )
    impurity = first_impurity(tree, catalog, timeless=False)
    return None if impurity is None else _impure(impurity)


# -- several shards ------------------------------------------------------------------------------------------------


def _refusal(tree: Any, target: Node, analysis: Analysis, catalog: Catalog) -> UnsupportedQuery | None:
    """Why the write cannot be done by each shard for its own rows; None when it can."""
    name = verb(tree)
    if len(analysis.writes) > 1:
        return UnsupportedQuery(
            "a WITH clause that writes runs on one shard only", hint="Filter each of its parts on the partition key."
        )
    if kind(tree) == "MergeStmt" and not _matched_only(tree):
        return UnsupportedQuery(
            "MERGE runs on one shard only", hint="Compare the target's partition key with a constant in ON."
        )
    if anchor([target], analysis.nodes) is None:
        return UnsupportedQuery(
            f"{name} of {target.table.removeprefix('public.')} looks at rows that may be on other shards",
            detail="Each shard can do it when all tables are joined by the partition key, or are reference tables.",
            hint="Read what it needs first, or filter on the partition key.",
        )
    impurity = first_impurity(tree, catalog, timeless=False)
    if impurity is not None:
        return _impure(impurity)
    try:
        refuse_server_bound(tree, catalog)
    except UnsupportedQuery as error:
        return error
    return None


def _impure(what: str) -> UnsupportedQuery:
    return UnsupportedQuery(
        f"{what} would be evaluated by each shard for itself",
        detail="The rows of one statement would get different values.",
        hint="Pass its value as a parameter, or filter on the partition key.",
    )


def writing_with(analysis: Analysis) -> UnsupportedQuery:
    """The refusal of a reference table that is written in WITH."""
    found = next(node for node in analysis.writes if isinstance(node.placement, Reference))
    return UnsupportedQuery(
        f"a WITH clause that writes the reference table {found.table.removeprefix('public.')} has to reach every copy",
        hint="Write it by a statement of its own.",
    )


# -- MERGE ---------------------------------------------------------------------------------------------------------


def _analyse_merge(analysis: Analysis, tree: Any, node: Node, item: Item, scope: Scope, ctes: Ctes) -> None:
    scope.items.append(item)
    analysis.from_item(inner(tree.source_relation), scope, ctes)
    # Where only rows that match are written, ON leaves out rows of both. Else a row of the source that matches none may
    # be inserted; and where rows of the target that match none are written, ON leaves out none.
    clauses = [clause.merge_when_clause for clause in tree.merge_when_clauses]
    everything = any(when.match_kind == _NOT_MATCHED_BY_SOURCE for when in clauses)
    both = _matched_only(tree)
    analysis.condition(
        inner(tree.join_condition), scope, ctes, lambda found: both or (found is node and not everything), []
    )
    for clause in tree.merge_when_clauses:
        when = clause.merge_when_clause
        analysis.visit(when, scope, ctes)
        names = [target.res_target.name for target in when.target_list]
        if when.command_type == _CMD_INSERT:
            node_ = _inserted(when, node, names, item, _holders(node, analysis.catalog))
            analysis.nodes.append(node_)
        else:
            _check_assigned(when.target_list, node)


def _matched_only(tree: Any) -> bool:
    """Whether a MERGE writes rows only that match: like an UPDATE … FROM, or a DELETE … USING."""
    return all(clause.merge_when_clause.match_kind == _MATCHED for clause in tree.merge_when_clauses)


def _inserted(when: Any, node: Node, names: Sequence[str], item: Item, holders: dict[str, Holder]) -> Node:
    """A use for the rows that MERGE inserts, pinned by the constants of their key."""
    columns = list(names) or [name for name, _ in item.columns]
    found = Node(node.table, node.placement, node.relation, node.alias, node.keyspace, node.key_columns)
    found.pins = [[] for _ in node.key_columns]
    for part, name in enumerate(node.key_columns):
        if name in columns and columns.index(name) < len(when.values):
            const = _stored(inner(when.values[columns.index(name)]), holders[name])
            if const is not None:
                found.pins[part].append(Stored((const,)))
    return found
