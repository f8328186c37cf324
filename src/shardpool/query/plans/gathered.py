"""Statements whose rows each shard makes for itself, put together without a server: see `plan.Gathered`."""

from __future__ import annotations

from typing import Any

from ..analysis.catalog import Catalog
from ..analysis.levels import Top
from ..text.statement import deparse, expression, inner, kind, quoted, strings
from ..text.tree import copy, put
from .aggregates import decomposition
from .plan import Gathered, SortKey
from .sorting import RowLimits, Sorting, decoder, limits, sortings


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
        return Gathered("concatenate", deparse(limited(copy(tree), bounds)), limit=bounds.limit, offset=bounds.offset)
    if top.is_set_operation:
        return "ORDER BY over a set operation is done by a server"
    keys = sortings(tree, top)
    if keys is None or not bounds.is_known:
        return "LIMIT is an expression, or keeps ties" if keys is not None else "ORDER BY USING is done by a server"
    if top.distinct and not top.distinct_on and any(key.column is None for key in keys):
        return "ORDER BY of SELECT DISTINCT names no output column"
    decoders = [decoder(key, top, catalog) for key in keys]
    if None in decoders:
        return "the values of ORDER BY are of a type, or collation, that only a server compares"
    return _merged(copy(tree), top, keys, [name or "" for name in decoders], bounds)


def _merged(tree: Any, top: Top, keys: list[Sorting], decoders: list[str], bounds: RowLimits) -> Gathered:
    """What a type sends, where that is what is compared, is selected around the statement: inside, with other columns
    than the caller's, a server would make each row anew before it sorts.
    """
    names = [name for name, _ in top.columns or []]
    inside: list[Any] = []
    outer: list[str] = []
    ways: list[tuple[str, int]] = []
    for key, name in zip(keys, decoders, strict=True):
        is_sent = name.endswith("_send")
        is_named = key.column is not None and key.column < len(names) and names.count(names[key.column]) == 1
        if key.column is not None and (is_named or not is_sent):
            column, place = quoted(names[key.column]) if is_named else "", ("own", key.column)
        else:
            column, place = f"_shardpool_k{len(inside) + 1}", ("inside", len(inside))
            target = tree.target_list.add().res_target
            target.name = column
            put(target.val, key.expression)
            inside.append(target)
        if is_sent:
            place = "outer", len(outer)
            # As hexadecimal digits: how a bytea is written depends on the session.
            outer.append(f"pg_catalog.encode(pg_catalog.{name}(q.{column}), 'hex')")
        ways.append(place)
    # The caller's columns come first, then those added inside, then those around; from the end their places are known.
    starts = {"own": 0, "inside": -len(inside) - len(outer), "outer": -len(outer)}
    sort = tuple(
        SortKey(starts[where] + number, name, key.descending, key.nulls_first)
        for key, name, (where, number) in zip(keys, decoders, ways, strict=True)
    )
    sql = deparse(limited(tree, bounds))
    if outer:
        listed = ", ".join(f"{column} AS _shardpool_s{number}" for number, column in enumerate(outer, 1))
        sql = f"SELECT q.*, {listed} FROM ({sql}) AS q"
    added = len(inside) + len(outer)
    return Gathered("merge", sql, hidden=added, sort=sort, limit=bounds.limit, offset=bounds.offset)


def limited(tree: Any, bounds: RowLimits) -> Any:
    """The tree for one shard, which is changed: as many rows as limit and offset together may need."""
    tree.ClearField("limit_count")
    tree.ClearField("limit_offset")
    tree.limit_option = 1
    if bounds.limit is not None:
        limit = _integer(bounds.limit)
        if bounds.offset is not None:
            # As numeric, since together they may pass what a bigint holds.
            plus = "OPERATOR(pg_catalog.+)"
            both = f"CAST({_integer(bounds.limit)} AS numeric) {plus} CAST({_integer(bounds.offset)} AS numeric)"
            limit = f"CAST(least({both}, 9223372036854775807) AS bigint)"
        tree.limit_option = 2
        tree.limit_count.CopyFrom(expression(limit))
    return tree


def _integer(const: Any) -> str:
    value = f"${const.param}" if const.param else "NULL" if const.value is None else str(const.value)
    if type(const.value) is str:
        value = "'" + const.value.replace("'", "''") + "'"
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
    function = catalog.function(strings(value.funcname))
    if function is None or not function.built_in:
        return None
    assert top.scope is not None
    partials = decomposition(value, top.scope)
    return partials.added if partials is not None and partials.added else None
