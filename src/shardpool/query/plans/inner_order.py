"""The order of a sorted inner level, said once more on the outermost level.

In `select * from (select … order by x) q limit 3` nothing between the two levels sorts or groups, so one PostgreSQL
gives q's rows in their order in every plan that it makes. The answers of several shards follow one another instead:
they have to be merged by `q.x`, so ORDER BY q.x is added outside; a key that q does not give out becomes one more
column of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from ...topology import Topology
from ..analysis.analysis import Analysis, names_itself
from ..analysis.catalog import Catalog
from ..analysis.facts import Ctes
from ..analysis.levels import Top
from ..analysis.operations import gives_sets, walk_own
from ..analysis.scopes import column_names
from ..text.statement import enum_name, expression, has_limit, inner, is_star, kind, quoted, strings, walk
from ..text.tree import copy, put
from .sorting import sortings

_QUERY = "_shardpool_q"


class Unfit(Exception):
    """The inner order matters, and only a server that has all the rows can keep it."""


@dataclass(frozen=True, slots=True)
class DroppedOrder:
    """An inner order that one PostgreSQL need not keep either, and what it ends at."""

    by: str


@dataclass(frozen=True, slots=True)
class _Key:
    """A column of a level by which its rows are sorted, and the item of ORDER BY that says how."""

    name: str
    clause: Any


def carried(tree: Any, topology: Topology, catalog: Catalog) -> tuple[Any, DroppedOrder | None]:
    """The SELECT with the order of its inner levels on the outside, itself when there is none; or what that ends at.

    Raises `Unfit`.
    """
    if tree.sort_clause or not any(kind(part) == "SelectStmt" and part.sort_clause for part in walk(tree)):
        return tree, None
    tree_with_order, lost = _Carrier(copy(tree), topology, catalog).carried()
    return tree if tree_with_order is None else tree_with_order, lost


class _Carrier:
    """Works on one statement, which it changes."""

    def __init__(self, tree: Any, topology: Topology, catalog: Catalog) -> None:
        self._tree = tree
        self._topology = topology
        self._catalog = catalog
        self._hidden = 0

    def carried(self) -> tuple[Any, DroppedOrder | None]:
        tree = self._tree
        order = self._order(tree, {}, outermost=True)
        if not order or isinstance(order, DroppedOrder):
            return None, order or None
        top, ctes = self._top(tree, {})
        for alias, key in self._inherited(tree, top, ctes):
            item = tree.sort_clause.add()
            item.sort_by.CopyFrom(key.clause)
            own = _own_name(top, _place(tree, top, alias, key.name))
            item.sort_by.node.CopyFrom(expression(quoted(own)) if own else _column(alias, key.name))
        return tree, None

    # -- whether there is an order -------------------------------------------------------------------------------

    def _order(self, select: Any, ctes: Ctes, *, outermost: bool = False) -> bool | DroppedOrder:
        """Whether a level gives its rows in an order, its own or an inner one; or what that order ended at.

        A level with a LIMIT is none that the shards answer for themselves, but for those whose rows have one key.
        """
        if kind(select) != "SelectStmt" or (has_limit(select) and not outermost):
            return False
        if select.sort_clause:
            return True
        inside = self._with(select, ctes)
        if _is_set_operation(select):
            return self._order_of_arms(select, inside, outermost)
        below = self._order_below(select, inside)
        if not below or isinstance(below, DroppedOrder):
            return below
        first, *others = _all_items(select)
        # What a function makes of each row comes in the order of the rows.
        if self._query(first, inside) is None or any(kind(item) != "RangeFunction" for item in others):
            return DroppedOrder("a join")
        return self._order_after(select, self._top(select, ctes)[0], outermost)

    def _order_of_arms(self, select: Any, ctes: Ctes, outermost: bool) -> bool | DroppedOrder:
        order = _first(self._order(arm, ctes) for arm in (select.larg, select.rarg))
        is_appended = select.all and enum_name(select, "op") == "SETOP_UNION"
        if order is True and not is_appended:
            return DroppedOrder("a set operation that compares rows")
        if order is True and outermost:
            raise Unfit("the arms of UNION ALL follow one another, each in an order of its own")
        return order

    def _order_below(self, select: Any, ctes: Ctes) -> bool | DroppedOrder:
        queries = (self._query(item, ctes) for item in _all_items(select))
        return _first(self._order(*query) for query in queries if query is not None)

    def _order_after(self, select: Any, top: Top, outermost: bool) -> bool | DroppedOrder:
        """What a level does with rows that come in an order."""
        if top.grouped:
            calls = [part for target in select.target_list for part in walk_own(target) if kind(part) == "FuncCall"]
            if (
                outermost
                and not top.grouped_by_key
                and any(strings(call.funcname)[-1] == "any_value" for call in calls)
            ):
                raise Unfit("any_value() is the first one in the order of a subquery")
            return DroppedOrder("GROUP BY or an aggregate")
        if top.distinct:
            if outermost and top.distinct_on and not top.distinct_by_key:
                raise Unfit("DISTINCT ON keeps the first rows in the order of a subquery")
            return DroppedOrder("DISTINCT")
        return DroppedOrder("a window") if top.windows else True

    def _query(self, item: Any, ctes: Ctes) -> tuple[Any, Ctes] | None:
        """The query that an item of FROM is, and what it finds by name in WITH."""
        if kind(item) == "RangeSubselect":
            return inner(item.subquery), ctes
        if kind(item) == "RangeVar" and not item.schemaname and item.relname in ctes:
            entry = ctes[item.relname]
            inside = entry["ctes"]
            if entry["recursive"]:
                if names_itself(entry["tree"]):
                    return None
                inside = {
                    name: inner_query
                    for name, inner_query in inside.items()
                    if name in ctes and inner_query is not entry
                }
            return inner(entry["tree"].ctequery), inside
        return None

    # -- its keys ------------------------------------------------------------------------------------------------

    def _inherited(self, select: Any, top: Top, ctes: Ctes) -> list[tuple[str, _Key]]:
        """The keys of the only item of FROM, each with the item's name."""
        if len(_all_items(select)) > 1:
            raise Unfit("a function in FROM makes rows of those of a sorted subquery")
        item = inner(select.from_clause[0])
        query_and_ctes = self._query(item, ctes)
        assert query_and_ctes is not None
        names, alias = column_names(item), item.alias.aliasname
        if kind(item) == "RangeVar":
            names = _over(names, strings(ctes[item.relname]["tree"].aliascolnames))
            alias = alias or item.relname
        elif not alias:
            item.alias.aliasname = alias = _QUERY
        hidden = self._hidden
        keys = self._keys(*query_and_ctes, names)
        if self._hidden > hidden:
            self._hide(select, item, alias, top)
        return [(alias, key) for key in keys]

    def _keys(self, select: Any, ctes: Ctes, aliases: list[str]) -> list[_Key]:
        """The keys of a level as columns by which the level around it can name them; `aliases` rename the first."""
        if _is_set_operation(select) and not select.sort_clause:
            raise Unfit("the arms of UNION ALL follow one another, each in an order of its own")
        if any(gives_sets(target, self._catalog) for target in select.target_list):
            raise Unfit("a function makes several rows of each of a sorted subquery")
        top, inside = self._top(select, ctes)

        def name(number: int | None, value: Any) -> str:
            return _own_name(top, number, aliases) or self._add(select, value)

        if select.sort_clause:
            keys = sortings(select, top)
            if keys is None:
                raise Unfit("ORDER BY of a subquery is not understood from its text")
            return _unique(_Key(name(key.column, key.expression), key.clause) for key in keys)
        return _unique(
            _Key(name(_place(select, top, alias, key.name), inner(_column(alias, key.name))), key.clause)
            for alias, key in self._inherited(select, top, inside)
        )

    def _add(self, select: Any, value: Any) -> str:
        """One more column of a level, with a name of its own."""
        if _is_set_operation(select) or select.distinct_clause:
            raise Unfit("ORDER BY of a subquery names no column that can be told apart outside")
        if any(kind(part) == "SubLink" for part in walk(value)):
            raise Unfit("ORDER BY of a subquery holds a subquery")
        self._hidden += 1
        target = select.target_list.add().res_target
        target.name = f"_shardpool_o{self._hidden}"
        put(target.val, value)
        return str(target.name)

    def _hide(self, select: Any, item: Any, alias: str, top: Top) -> None:
        """Columns were added to the item: let `*` stand for what it stood for before."""
        assert top.scope is not None
        names = [name for name, _ in top.scope.star]
        stars = [target for target in select.target_list if is_star(target.res_target)]
        is_used_twice = kind(item) == "RangeVar" and _uses(self._tree, item.relname) > 1
        # A level that only hands an order on has no other parts that name its columns.
        parts = [piece for part in (*select.target_list, select.where_clause) for piece in walk(part)]
        rows = [found for found in parts if kind(found) == "ColumnRef" and _is_row(found, alias, names)]
        is_known = bool(names) and len(set(names)) == len(names) and not any(found.is_open for found in top.scope.items)
        if is_used_twice or len(rows) > len(stars) or (stars and not is_known):
            raise Unfit("ORDER BY of a subquery names no column that it gives out")
        if stars:
            targets = [copied for target in select.target_list for copied in _expanded(target, alias, names)]
            del select.target_list[:]
            select.target_list.extend(targets)

    # -- levels --------------------------------------------------------------------------------------------------

    def _top(self, select: Any, ctes: Ctes) -> tuple[Top, Ctes]:
        """What is known of a level, and what it finds by name in WITH."""
        top = Top()
        Analysis(self._topology, self._catalog).query(select, None, ctes, top)
        return top, self._with(select, ctes)

    def _with(self, select: Any, ctes: Ctes) -> Ctes:
        return Analysis(self._topology, self._catalog).with_clause(select, None, ctes)[0]


def _first(orders: Iterable[bool | DroppedOrder]) -> bool | DroppedOrder:
    """The first one that there is, kept or lost."""
    return next((order for order in orders if order), False)


def _is_set_operation(select: Any) -> bool:
    return bool(select.HasField("larg") or select.HasField("rarg"))


def _all_items(select: Any) -> list[Any]:
    return [item for source in select.from_clause for item in _items(source)]


def _items(source: Any) -> Iterator[Any]:
    """The items of FROM that are joined, however deep."""
    message = inner(source)
    if kind(message) == "JoinExpr":
        yield from _items(message.larg)
        yield from _items(message.rarg)
    else:
        yield message


def _over(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """The first names, and from where they end the others."""
    return [*names, *others[len(names) :]]


def _unique(keys: Iterable[_Key]) -> list[_Key]:
    """The keys without those that name a column once more: they sort nothing."""
    key_by_name: dict[str, _Key] = {}
    for key in keys:
        key_by_name.setdefault(key.name, key)
    return list(key_by_name.values())


def _own_name(top: Top, number: int | None, aliases: Sequence[str] = ()) -> str:
    """The name of an output column, empty when others have it, too."""
    if top.columns is None or number is None:
        return ""
    names = _over(aliases, [name for name, _ in top.columns])
    return names[number] if names.count(names[number]) == 1 else ""


def _column(alias: str, name: str) -> Any:
    return expression(f"{quoted(alias)}.{quoted(name)}")


def _place(select: Any, top: Top, alias: str, name: str) -> int | None:
    """The number of the output column that is a column of the only item of FROM."""
    assert top.scope is not None
    star = [column for column, _ in top.scope.star]
    place = 0
    for target in select.target_list:
        if is_star(target.res_target):
            if name in star:
                return place + star.index(name)
            place += len(star)
            continue
        value = inner(target.res_target.val)
        if kind(value) == "ColumnRef" and strings(value.fields) in ([name], [alias, name]):
            return place
        place += 1
    return None


def _uses(tree: Any, name: str) -> int:
    return sum(kind(part) == "RangeVar" and not part.schemaname and part.relname == name for part in walk(tree))


def _is_row(reference: Any, alias: str, names: Sequence[str]) -> bool:
    """Whether a reference may be to all columns at once."""
    fields = strings(reference.fields)
    return len(fields) < len(reference.fields) or (fields == [alias] and alias not in names)


def _expanded(target: Any, alias: str, names: Sequence[str]) -> Iterator[Any]:
    if not is_star(target.res_target):
        yield target
        return
    for name in names:
        copied = copy(target)
        copied.res_target.val.CopyFrom(_column(alias, name))
        yield copied
