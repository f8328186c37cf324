"""INSERT, UPDATE, DELETE and MERGE: where they go.

A write whose keys are known goes to one shard as it stands. UPDATE and DELETE of rows on several shards, and an INSERT
that reads the rows of the same keys, run on each shard for its own rows. The rows of VALUES are divided by their keys.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psycopg

from ...errors import UnsupportedQuery
from ...keys import COLUMN_TYPES
from ...topology import Reference, Sharded, Topology
from ..analysis.analysis import Analysis
from ..analysis.catalog import Catalog, Column
from ..analysis.listed import Listed
from ..analysis.pins import Const
from ..analysis.placing import Check, check_of, unseen
from ..analysis.purity import first_volatile, refuse_server_local
from ..analysis.scopes import Occurrence, anchor
from ..analysis.timing import moments, timed, told, with_defaults
from ..analysis.writes import consts_of, holders_of, is_matched_only
from ..text.statement import inner, kind, parse, verb, walk
from .copies import plan_copies
from .effects import refuse_effects
from .kept import keeps
from .made import made, needs_numbers
from .plan import Gathered, Made, Plan, Rekeyed, Split, Use, loose_params, uses_of
from .rekeyed import rekeyed


def plan_write(
    sql: str,
    tree: Any,
    topology: Topology,
    catalog: Catalog,
    listed: Listed | None = None,
    new: frozenset[str] = frozenset(),
) -> Plan:
    """The plan of a write; where its rows are `listed`, the tree has a sample of them.

    The columns `new` are given numbers that no row has.

    Raises `UnsupportedQuery`, `UnknownTable`.
    """
    analysis = Analysis(topology, catalog)
    analysis.listed, analysis.new = listed, new
    analysis.query(tree, None, {})
    target = analysis.writes[0]
    if listed is not None and not (
        isinstance(target.placement, Sharded) and _is_divisible(tree) and not _has_strange_default(target, catalog)
    ):
        return plan_write(sql, parse(sql)[0], topology, catalog, None, new)
    refuse_effects(tree, analysis)
    found = _plan(sql, tree, analysis, listed)
    if keeps(tree, analysis):
        found = replace(found, keeps=True)
    if not analysis.key_assignments:
        return found
    return replace(found, key_assignments=tuple(analysis.key_assignments), rekeyed=_rekeyed(tree, analysis))


def _plan(sql: str, tree: Any, analysis: Analysis, listed: Listed | None) -> Plan:
    target, topology, catalog = analysis.writes[0], analysis.topology, analysis.catalog
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
        if listed is None and needs_numbers(tree, analysis):
            return _plan_made(sql, tree, analysis, uses, _unnumbered(target), listed, always=True)
        try:
            keys = _keys_of_values(tree, target, catalog, listed)
            if keys is None:
                _refuse_unplaced(target, analysis)
        except UnsupportedQuery as reason:
            return _plan_made(sql, tree, analysis, uses, reason, listed)
        if keys is not None and _is_divisible(tree):
            split = _split(sql, tree, target, keys, catalog, listed)
            refusal = _split_refusal(tree, analysis, catalog)
            loose = _loose_keys(sql, tree, target, catalog, listed)
            if refusal is not None:
                return replace(_plan_made(sql, tree, analysis, uses, refusal, listed, check), loose=loose)
            return Plan(sql, "INSERT", uses, True, split, refusal, loose=loose, check=check)
        if keys is not None:
            return _plan_made(sql, tree, analysis, uses, _limited_values(), listed, check)
    refusal = refusal or _refusal(tree, target, analysis, catalog)
    scattered: Gathered | Made | None = None
    root: int | None = 0
    if refusal is not None and kind(tree) == "InsertStmt":
        with suppress(UnsupportedQuery):
            scattered, refusal, root = made(tree, analysis, refusal), None, None
    elif refusal is None:
        scattered = Gathered("write", sql, timed=timed(_with_defaults(tree, target, analysis)))
    loose = loose_params(tree, analysis.key_columns)
    return Plan(sql, verb(tree), uses, True, scattered, refusal, root=root, loose=loose, check=check)


def _rekeyed(tree: Any, analysis: Analysis) -> Rekeyed | UnsupportedQuery | None:
    """What is done where rows change their partition key, or why nothing is; None where an UPDATE in WITH would."""
    if len(analysis.writes) > 1:
        return None
    try:
        return rekeyed(tree, analysis, _refusal(tree, analysis.writes[0], analysis, analysis.catalog))
    except UnsupportedQuery as why:
        return why


def _plan_made(
    sql: str,
    tree: Any,
    analysis: Analysis,
    uses: tuple[Use, ...],
    reason: UnsupportedQuery,
    listed: Listed | None,
    check: Check | None = None,
    *,
    always: bool = False,
) -> Plan:
    """The plan of an INSERT whose rows one shard has to make before they can be divided; raises `reason` if none can.

    Where it has a `check`, its rows may be known to belong to one shard, and it runs there as it stands, but `always`.
    """
    if listed is not None:
        # The tree has a sample of the rows only.
        return plan_write(sql, parse(sql)[0], analysis.topology, analysis.catalog, None, analysis.new)
    known = all(all(use.pins) for use in uses)
    try:
        found, refusal = made(tree, analysis, reason), None
    except UnsupportedQuery as error:
        if always or not known:
            raise
        found, refusal = None, error
    loose = loose_params(tree, analysis.key_columns)
    return Plan(sql, "INSERT", uses, True, found, refusal, loose=loose, check=check)


def _split(
    sql: str,
    tree: Any,
    target: Occurrence,
    keys: tuple[tuple[Const, ...], ...],
    catalog: Catalog,
    listed: Listed | None,
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


def _with_defaults(tree: Any, target: Occurrence, analysis: Analysis) -> Any:
    """The write with the defaults of a sharded table that are the same moment for all of its rows."""
    table = analysis.catalog.tables[target.table]
    defaults = moments(table, analysis.catalog) if isinstance(target.placement, Sharded) else {}
    return with_defaults(tree, defaults, _given(tree, analysis, defaults)) if defaults else tree


def _has_strange_default(target: Occurrence, catalog: Catalog) -> bool:
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


# -- INSERT --------------------------------------------------------------------------------------------------------


def _keys_of_values(
    tree: Any, node: Occurrence, catalog: Catalog, listed: Listed | None
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
    rows, holders = [], holders_of(node, catalog)
    by_part = [consts_of(select, columns.index(name), holders[name], listed) for name in node.key_columns]
    for number, consts in enumerate(zip(*by_part, strict=True), 1):
        if any(const is None for const in consts):
            raise UnsupportedQuery(
                f"the partition key of row {number} of INSERT into {table} is an expression",
                detail="Where the row belongs can only be told from a literal or a parameter.",
                hint="Pass its value as a parameter.",
            )
        rows.append(tuple(const for const in consts if const is not None))
    return tuple(rows)


def _loose_keys(sql: str, tree: Any, node: Occurrence, catalog: Catalog, listed: Listed | None) -> frozenset[int]:
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


def _limited_values() -> UnsupportedQuery:
    return UnsupportedQuery(
        "VALUES with WITH, ORDER BY or LIMIT cannot be divided among shards",
        hint="Insert the rows by plain VALUES, or those of each partition key by themselves.",
    )


def _refuse_unplaced(node: Occurrence, analysis: Analysis) -> None:
    """Raise `UnsupportedQuery` where nothing tells before they are made where the rows of a SELECT belong."""
    table = node.table.removeprefix("public.")
    if any(node in other.edges for other in analysis.nodes if other is not node):
        return
    if all(node.pins):
        return
    raise UnsupportedQuery(
        f"where the rows of this INSERT into {table} belong is not known before they are made",
        detail="The partition key of each new row is neither that of a row that is read, nor a constant.",
        hint="Read the rows with execute(), and write them with copy_into().",
    )


def _unnumbered(node: Occurrence) -> UnsupportedQuery:
    table = node.table.removeprefix("public.")
    return UnsupportedQuery(
        f"the rows of this INSERT into {table} are numbered by the shard on which they are: numbers would come again",
        detail="How many there are is not known before it is run.",
        hint="Read the rows with execute(), and write them with copy_into().",
    )


def _without_key(table: str, node: Occurrence, missing: Sequence[str]) -> UnsupportedQuery:
    return UnsupportedQuery(f"INSERT into {table} without its partition key {', '.join(missing)}", hint=_name_key(node))


def _name_key(node: Occurrence) -> str:
    return f"Give {', '.join(node.key_columns)} in every row: it says on which shard the row belongs."


def _split_refusal(tree: Any, analysis: Analysis, catalog: Catalog) -> UnsupportedQuery | None:
    """Why the rows of VALUES cannot go to several shards."""
    if analysis.tables[1:]:
        return UnsupportedQuery(
            "the rows of one INSERT that read other tables cannot be divided among shards",
            hint="Insert the rows of each partition key by themselves.",
        )
    volatile = first_volatile(tree, catalog, timeless=False)
    return None if volatile is None else _volatile(volatile)


# -- several shards ------------------------------------------------------------------------------------------------


def _refusal(tree: Any, target: Occurrence, analysis: Analysis, catalog: Catalog) -> UnsupportedQuery | None:
    """Why the write cannot be done by each shard for its own rows; None when it can."""
    name = verb(tree)
    if len(analysis.writes) > 1:
        return UnsupportedQuery(
            "a WITH clause that writes runs on one shard only", hint="Filter each of its parts on the partition key."
        )
    if kind(tree) == "MergeStmt" and not is_matched_only(tree):
        return UnsupportedQuery(
            "MERGE runs on one shard only", hint="Compare the target's partition key with a constant in ON."
        )
    if anchor([target], analysis.nodes) is None:
        return UnsupportedQuery(
            f"{name} of {target.table.removeprefix('public.')} looks at rows that may be on other shards",
            detail="Each shard can do it when all tables are joined by the partition key, or are reference tables.",
            hint="Read what it needs first, or filter on the partition key.",
        )
    volatile = first_volatile(tree, catalog, timeless=False)
    if volatile is not None:
        return _volatile(volatile)
    try:
        refuse_server_local(tree, catalog)
    except UnsupportedQuery as error:
        return error
    return None


def _volatile(what: str) -> UnsupportedQuery:
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
