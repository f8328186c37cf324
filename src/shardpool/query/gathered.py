"""Statements whose rows each shard makes for itself, and that are put together without a server: see `plan.Gathered`."""

from __future__ import annotations

from typing import Any

from .analysis import Top
from .catalog import Catalog
from .plan import Gathered, SortKey
from .sorting import Limits, Sorting, decoder, limits, sortings
from .statement import copy, deparse, expression, inner, kind, strings
from .types import plain, type_of

_ADDED = {"count": "sum", "sum": "sum", "min": "min", "max": "max"}


def gathered(sql: str, tree: Any, top: Top, catalog: Catalog) -> Gathered | str:
    """The plan of a statement that every shard answers for itself; or why it needs a server to put together."""
    if top.grouped and not top.grouped_by_key:
        return _added(sql, tree, top, catalog)
    if top.distinct and not top.distinct_by_key:
        return "DISTINCT without the partition key compares rows of different shards"
    if top.windows and not top.windows_by_key:
        return "a window without the partition key spans rows of different shards"
    bounds = limits(tree)
    if not tree.sort_clause:
        if not bounds.is_known:
            return "LIMIT is an expression"
        if bounds.limit is None and bounds.offset is None:
            return Gathered("concatenate", sql)
        return Gathered("concatenate", limited(copy(tree), bounds), limit=bounds.limit, offset=bounds.offset)
    if top.is_set_operation:
        return "ORDER BY over a set operation is done by a server"
    keys = sortings(tree)
    if keys is None or not bounds.is_known:
        return "LIMIT is an expression, or keeps ties" if keys is not None else "ORDER BY USING is done by a server"
    decoders = [decoder(key, top, catalog) for key in keys]
    if None in decoders:
        return "the values of ORDER BY are of a type, or collation, that only a server compares"
    return _merged(copy(tree), keys, [name or "" for name in decoders], bounds)


def _merged(tree: Any, keys: list[Sorting], decoders: list[str], bounds: Limits) -> Gathered:
    """Keys that the caller does not see, or not in a form that can be compared, are added as last columns."""
    hidden: list[Any] = []
    found: list[SortKey] = []
    for key, name in zip(keys, decoders, strict=True):
        column = key.column
        if column is None or name.endswith("_send"):
            hidden.append(_sent(key.expression, name))
            column = -len(hidden)
        found.append(SortKey(column, name, key.descending, key.nulls_first))
    for node in hidden:
        tree.target_list.add().res_target.val.CopyFrom(node)
    # From the end: the last added is -1.
    keys_ = tuple(
        key if key.column >= 0 else SortKey(-len(hidden) - 1 - key.column, key.decoder, key.descending, key.nulls_first)
        for key in found
    )
    sql = limited(tree, bounds)
    return Gathered("merge", sql, hidden=len(hidden), sort=keys_, limit=bounds.limit, offset=bounds.offset)


def _sent(value: Any, name: str) -> Any:
    """A Node of the value, or of the bytes that its type sends."""
    if name.endswith("_send"):
        call = expression(f"pg_catalog.{name}(null)")
        del call.func_call.args[:]
        put(call.func_call.args.add(), value)
        return call
    node = expression("null")
    put(node, value)
    return node


def put(node: Any, value: Any) -> None:
    """Let a Node hold a message."""
    for descriptor in node.DESCRIPTOR.fields:
        if descriptor.message_type is value.DESCRIPTOR:
            getattr(node, descriptor.name).CopyFrom(value)
            return


def limited(tree: Any, bounds: Limits) -> str:
    """The SQL for one shard: as many rows as limit and offset together may need."""
    tree.ClearField("limit_count")
    tree.ClearField("limit_offset")
    tree.limit_option = 1
    if bounds.limit is None:
        return deparse(tree)
    parts = [_integer(const) for const in (bounds.limit, bounds.offset) if const is not None]
    return f"{deparse(tree)} LIMIT {' + '.join(parts)}"


def _integer(const: Any) -> str:
    value = f"${const.param}" if const.param else ("NULL" if const.value is None else f"'{const.value}'")
    return f"CAST({value} AS bigint)"


def _added(sql: str, tree: Any, top: Top, catalog: Catalog) -> Gathered | str:
    """Counts, sums of integers and the like, one row in all: their values are added here."""
    bounds = (*tree.group_clause, *tree.sort_clause, *tree.distinct_clause, *tree.window_clause)
    others = [tree.HasField(name) for name in ("having_clause", "limit_count", "limit_offset")]
    if bounds or any(others) or top.windows:
        return "groups of rows on several shards are put together by a server"
    ways = [_way(inner(target.res_target.val), top, catalog) for target in tree.target_list]
    if not ways or None in ways:
        return "aggregates over rows of several shards are put together by a server"
    return Gathered("add", sql, add=tuple(way or "" for way in ways))


def _way(value: Any, top: Top, catalog: Catalog) -> str | None:
    if kind(value) != "FuncCall" or value.HasField("over") or value.agg_distinct or value.agg_within_group:
        return None
    name = strings(value.funcname)[-1]
    function = catalog.functions.get(name)
    if name not in _ADDED or function is None or not function.built_in:
        return None
    assert top.scope is not None
    type_ = None if value.agg_star else type_of(value.args[0], top.scope)
    integers = type_ is not None and plain(type_) in ("smallint", "integer", "bigint")
    return _ADDED[name] if name == "count" or integers else None
