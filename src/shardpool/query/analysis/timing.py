"""The time of the transaction, which one shard tells all that write."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..text.names import NAMELESS, output_name
from ..text.statement import assigned, expression, inner, is_star, kind, parse, walk
from ..text.template import Template, template, time_type
from ..text.tree import copy
from .catalog import Catalog, Table
from .purity import first_volatile

_MAY_BE_A_TIME = re.compile(r"\b(now|\w+_timestamp|current_(date|time)|localtime(stamp)?)\b", re.IGNORECASE)


def timed(tree: Any) -> Template | None:
    """The statement with places for the time of the transaction, which all shards are told; None without any."""
    if not any(time_type(part) for part in walk(tree)):
        return None
    copied = copy(tree)
    targets = [target for part in walk(copied) if kind(part) == "SelectStmt" for target in part.target_list]
    for target in (*targets, *copied.returning_clause.exprs):
        # A column that is named after what is replaced keeps its name.
        if not target.res_target.name and not is_star(target.res_target):
            name = output_name(target.res_target)
            target.res_target.name = "" if name == NAMELESS else name
    return template(copied)


# -- defaults --------------------------------------------------------------------------------------------------------


def moments(table: Table, catalog: Catalog) -> dict[str, str]:
    """By the name of the column its default, where one statement stores the same moment in all rows by it."""
    text_by_moment = {}
    for column in table.columns:
        default = column.default or ""
        if column.generated or not _MAY_BE_A_TIME.search(default):
            continue
        tree = expression(default)
        if any(map(time_type, walk(tree))) and first_volatile(inner(tree), catalog, timeless=False) is None:
            text_by_moment[column.name] = default
    return text_by_moment


def with_defaults(tree: Any, defaults: Mapping[str, str], columns: Sequence[str]) -> Any:
    """The write with these defaults in the places of DEFAULT, and for the columns that an INSERT does not give.

    `columns` are those that it gives.
    """
    if not defaults:
        return tree
    tree = copy(tree)
    trees = {name: expression(default) for name, default in defaults.items()}
    for name, node in _assigned(tree):
        _put(node, trees.get(name))
    if kind(tree) == "InsertStmt":
        _complete(tree, trees, columns)
    return tree


def told(default: str, time: int) -> str:
    """The default with `$time` for the time of the transaction, in parentheses."""
    return template(parse(f"values ({default})")[0]).numbered(time).removeprefix("VALUES ")


def _assigned(tree: Any) -> Iterator[tuple[str, Any]]:
    """What an UPDATE, ON CONFLICT or MERGE assigns, each with the name of its column."""
    match kind(tree):
        case "MergeStmt":
            holders = [clause.merge_when_clause for clause in tree.merge_when_clauses]
        case "InsertStmt":
            holders = [tree.on_conflict_clause]
        case _:
            holders = [tree] if kind(tree) == "UpdateStmt" else []
    for holder in holders:
        yield from assigned(holder.target_list)


def _put(node: Any, default: Any) -> None:
    if default is not None and kind(inner(node)) == "SetToDefault":
        node.CopyFrom(default)


def _complete(tree: Any, defaults: Mapping[str, Any], columns: Sequence[str]) -> None:
    missing = {name: default for name, default in defaults.items() if name not in columns}
    for name in [*(columns if missing and not tree.cols else ()), *missing]:
        tree.cols.add().res_target.name = name
    for select in _parts(inner(tree.select_stmt)):
        for row in select.values_lists:
            for name, item in zip(columns, row.list.items, strict=False):
                _put(item, defaults.get(name))
            row.list.items.extend(missing.values())
        if not select.values_lists:
            for default in missing.values():
                select.target_list.add().res_target.val.CopyFrom(default)


def _parts(select: Any) -> Iterator[Any]:
    """The SELECTs, or VALUES, that a set operation puts together."""
    if not select.HasField("larg"):
        yield select
        return
    for part in (select.larg, select.rarg):
        yield from _parts(part)
