"""What a statement does with which rows: its tables, their keys, and what can be answered by each shard for itself.

The question that is answered here: if every shard runs the statement on its own rows, is the union of what they answer
the answer? It is, when every row of it is made from rows of one shard: from a row of one table (the anchor), and rows
of the others that are tied to it by their keys. Where this cannot be shown, it is taken to be false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UnsupportedQuery
from ..topology import Reference, Sharded, Single, Topology, qualified
from .catalog import Catalog, Column, NeedsShard
from .conditions import CASTS, conjuncts, equality, pins_of
from .names import output_name
from .scopes import Columns, Item, Node, Origin, Scope, anchor
from .statement import children, copy, inner, kind, strings, walk
from .types import collation_of, type_of

# A statement with more occurrences of tables than this is not analysed further: each use of a CTE is one anew.
_NODES_MAX = 300
_OUTER = {"JOIN_LEFT": (1,), "JOIN_RIGHT": (0,), "JOIN_FULL": (), "JOIN_INNER": (0, 1)}
# Functions whose result in FROM is one column, named by its alias.
_ONE_COLUMN = frozenset("generate_series regexp_split_to_table string_to_table generate_subscripts".split())
_JSON = ("JsonArrayAgg", "JsonObjectAgg")

# Where a column of which only the type is known comes from.
_NOWHERE = Node()

Ctes = dict[str, Any]


@dataclass(slots=True)
class Level:
    """One query level: its output columns, the nodes below it, and the one that all its rows are anchored to.

    `anchor` is None when the level is not the union of what the shards make of it. `is_open`: some names of columns are
    not known; `is_counted`: how many there are is.
    """

    columns: Columns
    is_open: bool
    is_counted: bool
    nodes: list[Node]
    anchor: Node | None


@dataclass(slots=True)
class Top:
    """The outermost SELECT: what is to be done with the rows that the shards have made."""

    root: Node | None = None
    grouped: bool = False
    grouped_by_key: bool = False
    distinct: bool = False
    distinct_on: bool = False
    distinct_by_key: bool = False
    windows: bool = False
    windows_by_key: bool = False
    scope: Scope | None = None
    is_set_operation: bool = False
    columns: Columns | None = None


@dataclass(slots=True)
class Analysis:
    """Everything that is known of a statement by its text and the catalog."""

    topology: Topology
    catalog: Catalog
    nodes: list[Node] = field(default_factory=list)
    references: list[Node] = field(default_factory=list)
    functions: dict[str, str] = field(default_factory=dict)
    locks: bool = False
    writes: list[Node] = field(default_factory=list)
    recursive: bool = False
    outer_aggregates: bool = False
    top: Top = field(default_factory=Top)

    @property
    def tables(self) -> list[Node]:
        """The occurrences of tables of which not every shard has a copy."""
        return [node for node in self.nodes if node.table]

    # -- query levels --------------------------------------------------------------------------------------------

    def statement(self, tree: Any) -> None:
        """Analyse a whole SELECT."""
        self.query(tree, None, {}, self.top)

    def query(self, tree: Any, parent: Scope | None, ctes: Ctes, top: Top | None = None) -> Level:
        """A SELECT, a set operation, VALUES, or a write in a WITH clause."""
        if kind(tree) != "SelectStmt":
            from .writes import analyse_write

            level: Level = analyse_write(self, tree, parent, ctes)
            return level
        first = len(self.nodes)
        ctes, own = self.with_clause(tree, parent, ctes)
        if tree.larg.ByteSize() or tree.rarg.ByteSize():
            level = self._set_operation(tree, parent, ctes, top)
        elif tree.values_lists:
            self.visit_all(tree.values_lists, Scope(parent), ctes)
            width = len(tree.values_lists[0].list.items)
            level = Level([(f"column{n + 1}", None) for n in range(width)], False, True, [], None)
        else:
            level = self._select(tree, parent, ctes, top)
        self.unused(own)
        level.nodes = self.nodes[first:]
        return level

    def with_clause(self, tree: Any, parent: Scope | None, ctes: Ctes) -> tuple[Ctes, list[dict[str, Any]]]:
        own: list[dict[str, Any]] = []
        if not tree.HasField("with_clause"):
            return ctes, own
        clause = tree.with_clause
        seen = dict(ctes)
        everyone = dict(ctes)
        for item in clause.ctes:
            cte = item.common_table_expr
            entry: dict[str, Any] = {
                "tree": cte,
                "parent": parent,
                "used": False,
                "recursive": clause.recursive,
                "ctes": everyone if clause.recursive else dict(seen),
                "busy": False,
            }
            self.recursive |= bool(clause.recursive)
            seen[cte.ctename] = everyone[cte.ctename] = entry
            own.append(entry)
        return seen, own

    def unused(self, own: list[dict[str, Any]]) -> None:
        """A SELECT in WITH that nothing refers to is not run, but it has to make sense; a write is run."""
        for entry in own:
            if not entry["used"]:
                entry["used"] = True
                self.query(inner(entry["tree"].ctequery), entry["parent"], entry["ctes"])

    def _set_operation(self, tree: Any, parent: Scope | None, ctes: Ctes, top: Top | None) -> Level:
        arms = [self.query(tree.larg, parent, ctes), self.query(tree.rarg, parent, ctes)]
        scope = Scope(parent)
        self.visit_all([*tree.sort_clause], scope, ctes)
        self._limits(tree, scope, ctes)
        anchors = [arm.anchor for arm in arms]
        node = None
        columns: Columns = [(name, None) for name, _ in arms[0].columns]
        if top is not None:
            top.columns = columns if arms[0].is_counted else None
        if all(anchors) and not _has_limit(tree):
            node, columns = self._united(tree, arms, columns)
        if top is not None:
            top.is_set_operation, top.root = True, node
        return Level(columns, arms[0].is_open, arms[0].is_counted, [], node)

    def _united(self, tree: Any, arms: list[Level], columns: Columns) -> tuple[Node | None, Columns]:
        """The arms as one node. Without ALL, and but for UNION, equal rows must be on one shard: by the key."""
        first, second = arms
        assert first.anchor is not None and second.anchor is not None
        keyed = _shared_key(first, second)
        if not (tree.all and enum_name(tree, "op") == "SETOP_UNION") and keyed is None:
            return None, columns
        node = self._virtual(first.anchor.keyspace if keyed is not None else "", len(keyed or {}))
        node.edges.extend([first.anchor, second.anchor])
        if keyed is not None:
            for part, (number, origins) in keyed.items():
                columns[number] = columns[number][0], Origin(node, part)
                for origin in origins:
                    node.tie(origin.node, part)
        return node, columns

    def _select(self, tree: Any, parent: Scope | None, ctes: Ctes, top: Top | None) -> Level:
        first = len(self.nodes)
        scope = Scope(parent)
        anchors: list[Node] = []
        for item in tree.from_clause:
            anchors += self.from_item(inner(item), scope, ctes)
        scope.anchors = anchors
        if tree.HasField("where_clause"):
            self.condition(inner(tree.where_clause), scope, ctes, lambda node: True, anchors)
        expressions = [*tree.target_list, *tree.group_clause, *tree.sort_clause, *tree.window_clause]
        self.visit_all([*expressions, *tree.distinct_clause], scope, ctes)
        if tree.HasField("having_clause"):
            self.visit(inner(tree.having_clause), scope, ctes)
        self._limits(tree, scope, ctes)
        self.locks |= bool(tree.locking_clause)
        found = _Operations(self, tree, scope, anchors)
        root = anchor(anchors, (node for node in self.nodes[first:]))
        if top is not None:
            found.describe(top, root)
        columns, is_whole = self._columns(tree, scope)
        if top is not None:
            top.columns = columns if is_whole else None
        node = None
        if root is not None and found.are_local and not tree.locking_clause:
            node, columns = self._exported(root, anchors, columns)
        else:
            columns = [(name, _typed(origin)) for name, origin in columns]
        return Level(columns, not is_whole, is_whole, [], node)

    def _limits(self, tree: Any, scope: Scope, ctes: Ctes) -> None:
        for name in ("limit_count", "limit_offset"):
            if tree.HasField(name):
                self.visit(inner(getattr(tree, name)), scope, ctes)

    def _virtual(self, keyspace: str, parts: int) -> Node:
        node = Node(keyspace=keyspace, pins=[[] for _ in range(parts)])
        self.nodes.append(node)
        return node

    def _exported(self, root: Node, anchors: list[Node], columns: Columns) -> tuple[Node, Columns]:
        """A node for the rows of the level; it has a key when the level gives out all parts of one."""
        for source in anchors:
            parts = {origin.part for _, origin in columns if origin is not None and _is_key_of(source, origin)}
            if source.has_key and len(parts) == len(source.pins):
                node = self._virtual(source.keyspace, len(parts))
                for part in parts:
                    node.tie(source, part)
                    source.tie(node, part)
                break
        else:
            source, node = root, self._virtual("", 0)
        if root not in node.edges:
            node.edges.append(root)
        exported: Columns = [
            (name, replace(origin, node=node, part=_part(source, origin, node), column="") if origin else None)
            for name, origin in columns
        ]
        return node, exported

    def _columns(self, tree: Any, scope: Scope) -> tuple[Columns, bool]:
        """The output columns, and whether these are all of them."""
        found: Columns = []
        is_whole = True
        for target in tree.target_list:
            value = inner(target.res_target.val)
            name = target.res_target.name
            if kind(value) == "ColumnRef":
                fields = strings(value.fields)
                if len(fields) != len(value.fields):
                    is_whole &= self._star(fields, scope, found)
                    continue
                hit = scope.find(fields)
                found.append((name or fields[-1], hit[0] if hit and hit[1] == 0 else None))
                continue
            type_ = type_of(value, scope)
            origin = Origin(_NOWHERE, type=type_, collation=collation_of(value, scope)) if type_ else None
            found.append((output_name(target.res_target), origin))
        return found, is_whole

    def _star(self, fields: list[str], scope: Scope, found: Columns) -> bool:
        """Add the columns of `*` or `t.*`; whether these are all of them."""
        items = [item for item in scope.items if not fields or item.name == fields[-1]]
        found.extend(column for item in items for column in item.columns) if fields else found.extend(scope.star)
        return bool(items) and not any(item.is_open for item in items)

    # -- FROM ----------------------------------------------------------------------------------------------------

    def from_item(self, item: Any, scope: Scope, ctes: Ctes) -> list[Node]:
        """Add an item of FROM to the scope; gives the nodes of which each of its rows has a row."""
        if kind(item) == "JoinExpr":
            return self._join(item, scope, ctes)
        first = len(scope.items)
        anchors = self._single(item, scope, ctes)
        scope.star.extend(column for found in scope.items[first:] for column in found.columns)
        return anchors

    def _single(self, item: Any, scope: Scope, ctes: Ctes) -> list[Node]:
        match kind(item):
            case "RangeVar":
                return self._range_var(item, scope, ctes)
            case "RangeSubselect":
                # Without LATERAL it sees the levels around its own, not its siblings.
                level = self.query(inner(item.subquery), scope if item.lateral else scope.parent, ctes)
                return self._add_level(level, item.alias.aliasname, _column_names(item), scope)
            case "RangeFunction":
                self._range_function(item, scope, ctes)
                return []
            case "RangeTableSample":
                self.functions.setdefault("tablesample", "v")
                self.visit_all([*item.args, item.repeatable], scope, ctes)
                self.from_item(inner(item.relation), scope, ctes)
                return []
        # XMLTABLE, JSON_TABLE: expressions with columns that are not looked into.
        self.visit(item, scope, ctes)
        scope.items.append(Item(item.alias.aliasname if item.HasField("alias") else "", [], is_open=True))
        return []

    def _range_function(self, item: Any, scope: Scope, ctes: Ctes) -> None:
        self.visit_all([*item.functions, *item.coldeflist], scope, ctes)
        calls = [found for found in walk(item) if kind(found) == "FuncCall"]
        name = strings(calls[0].funcname)[-1] if calls else ""
        known = not item.ordinality and len(calls) == 1 and (name in _ONE_COLUMN or _is_plain_unnest(calls[0]))
        alias = item.alias.aliasname if item.HasField("alias") else name
        found = Item(alias, [(alias, None)] if known else [], is_open=not known)
        scope.items.append(found.renamed(alias, _column_names(item)) if known else found)

    def _range_var(self, item: Any, scope: Scope, ctes: Ctes) -> list[Node]:
        if not item.schemaname and item.relname in ctes:
            return self._cte(ctes[item.relname], item, scope)
        node, found = self.table(item)
        scope.items.append(found)
        if isinstance(node.placement, Reference):
            self.references.append(node)
            return []
        self.add(node)
        return [node]

    def add(self, node: Node) -> None:
        """Count a table's occurrence among those whose rows lie on some shards only."""
        self.nodes.append(node)
        if len(self.nodes) > _NODES_MAX:
            raise UnsupportedQuery(
                "the statement reads too many tables to be planned",
                detail=f"Each use of a table counts, in WITH each use of its name; {_NODES_MAX} are taken.",
                hint="Pass key=…, or divide it.",
            )

    def table(self, relation: Any) -> tuple[Node, Item]:
        """A table's node and its name with its columns; raises `UnknownTable` and `UnsupportedQuery`."""
        name = table_name(relation, self.catalog, self.topology)
        placement = self.topology.placement(name)
        alias = relation.alias.aliasname or relation.relname
        node = Node(name, placement, relation, alias)
        if isinstance(placement, Sharded):
            node.keyspace, node.key_columns = placement.keyspace, placement.key_columns
            node.pins = [[] for _ in placement.key_columns]
        parts = {column: part for part, column in enumerate(node.key_columns)}
        columns: Columns = [
            (column.name, self._origin(node, parts.get(column.name, -1), column))
            for column in self.catalog.tables[name].columns
        ]
        if relation.HasField("alias"):
            return node, Item(alias, columns).renamed(alias, _column_names(relation))
        return node, Item(alias, columns, table=name)

    def _origin(self, node: Node, part: int, column: Column) -> Origin:
        is_ordered = column.collation is None or self.catalog.sorts_by_bytes(column.collation)
        return Origin(node, part, column.name, column.type, column.collation, is_ordered)

    def _cte(self, entry: dict[str, Any], item: Any, scope: Scope) -> list[Node]:
        entry["used"] = True
        cte = entry["tree"]
        alias = item.alias.aliasname or cte.ctename
        if entry["busy"]:  # the recursive reference: nothing is known of its rows
            scope.items.append(Item(alias, [], is_open=True))
            return []
        entry["busy"] = True
        level = self.query(inner(cte.ctequery), entry["parent"], entry["ctes"])
        entry["busy"] = False
        if entry["recursive"] and _names_itself(cte):
            level = Level([], True, False, level.nodes, None)
        level = _renamed(level, strings(cte.aliascolnames))
        return self._add_level(level, alias, _column_names(item), scope)

    def _add_level(self, level: Level, alias: str, names: list[str], scope: Scope) -> list[Node]:
        level = _renamed(level, names)
        scope.items.append(Item(alias, level.columns, level.is_open))
        return [level.anchor] if level.anchor is not None else []

    def _join(self, join: Any, scope: Scope, ctes: Ctes) -> list[Node]:
        start, first, before, star = len(scope.items), len(self.nodes), scope.merged, len(scope.star)
        left, left_merged = self._side(join.larg, scope, ctes)
        left_star = scope.star[star:]
        lefts, middle = scope.items[start:], len(self.nodes)
        right, right_merged = self._side(join.rarg, scope, ctes)
        right_star = scope.star[star + len(left_star) :]
        rights = scope.items[start + len(lefts) :]
        type_ = enum_name(join, "jointype")
        sides = (set(self.nodes[first:middle]), set(self.nodes[middle:]))
        restricted = set().union(*(sides[number] for number in _OUTER.get(type_, ())))
        inside = Scope(scope.parent, lefts + rights, merged={**left_merged, **right_merged})
        if join.HasField("quals"):
            solid = {"JOIN_INNER": left + right, "JOIN_LEFT": right, "JOIN_RIGHT": left}.get(type_, [])
            self.condition(inner(join.quals), inside, ctes, restricted.__contains__, solid)
        using = strings(join.using_clause)
        if join.is_natural:
            names = [name for item in lefts for name, _ in item.columns]
            using = [name for name in dict.fromkeys(names) if any(item.find(name) for item in rights)]
        vague = join.is_natural and any(item.is_open for item in lefts + rights)
        pairs = [
            (None, None, name) if vague else (_one(lefts, left_merged, name), _one(rights, right_merged, name), name)
            for name in using
        ]
        for one, other, _ in pairs:
            if one is not None and other is not None:
                self._tie(one, other, restricted.__contains__)
        anchors = {"JOIN_INNER": left + right, "JOIN_LEFT": left, "JOIN_RIGHT": right}.get(type_, [])
        merged = {**left_merged, **right_merged}
        merged |= {name: (other if type_ == "JOIN_RIGHT" else one) for one, other, name in pairs}
        if type_ == "JOIN_FULL":
            anchors, full = self._full(join, inside, left, right, pairs)
            merged |= full
        rest = [column for column in (*left_star, *right_star) if column[0] not in using]
        scope.star[star:] = [(name, merged[name]) for name in using] + rest
        if vague:
            scope.items[start:] = [Item(item.name, [], True, item.table) for item in scope.items[start:]]
        if join.HasField("join_using_alias"):
            scope.items.append(Item(join.join_using_alias.aliasname, [(name, None) for name in using]))
        if join.HasField("alias"):
            self._join_alias(join, scope, start, star)
            merged = {}
        scope.merged = {**merged, **{name: None if name in merged else origin for name, origin in before.items()}}
        return anchors

    def _side(self, item: Any, scope: Scope, ctes: Ctes) -> tuple[list[Node], dict[str, Origin | None]]:
        scope.merged = {}
        anchors = self.from_item(inner(item), scope, ctes)
        return anchors, scope.merged

    def _full(
        self, join: Any, inside: Scope, left: list[Node], right: list[Node], pairs: list[Any]
    ) -> tuple[list[Node], dict[str, Origin | None]]:
        """A FULL JOIN by the whole key: each of its rows lies where the one or the other does."""
        merged: dict[str, Origin | None] = {name: None for *_, name in pairs}
        equal = [(one, other, name) for one, other, name in pairs if one is not None and other is not None]
        if join.HasField("quals"):
            for condition in conjuncts(inner(join.quals)):
                hits = equality(condition, inside)
                equal += [(one[0], other[0], "") for one, other in hits if one[1] == other[1] == 0]
        for one in left:
            for other in right:
                names = {
                    a.part: name for a, b, name in equal if {a.node, b.node} == {one, other} and a.part == b.part >= 0
                }
                if one.has_key and one.keyspace == other.keyspace and len(names) == len(one.pins):
                    node = self._virtual(one.keyspace, len(one.pins))
                    for part, name in names.items():
                        node.tie(one, part)
                        node.tie(other, part)
                        if name:
                            merged[name] = Origin(node, part)
                    return [node], merged
        return [], merged

    def _join_alias(self, join: Any, scope: Scope, start: int, star: int) -> None:
        columns = scope.star[star:]
        is_open = any(item.is_open for item in scope.items[start:])
        names = _column_names(join)
        found = Item("", [(name, None) for name, _ in columns] if is_open and names else columns, is_open)
        scope.items[start:] = [found.renamed(join.alias.aliasname, names)]
        scope.star[star:] = scope.items[start].columns

    # -- conditions ----------------------------------------------------------------------------------------------

    def condition(
        self,
        expression: Any,
        scope: Scope,
        ctes: Ctes,
        restricts: Callable[[Node], bool],
        solid: Sequence[Node],
    ) -> None:
        """A condition that every row that matters of the nodes that it `restricts` fulfils.

        What is not a comparison may be true of NULL, and so of rows that an outer join has made up: it is a filter only
        for `solid` nodes, of which every row that it looks at has a real one.
        """
        for condition in conjuncts(expression):
            for (node, part), pin in pins_of(condition, scope).items():
                if restricts(node):
                    node.pins[part].append(pin)
            for (one, depth), (other, other_depth) in equality(condition, scope):
                if depth == other_depth == 0:
                    self._tie(one, other, restricts)
                elif (depth == 0) is not (other_depth == 0):
                    outside, inside = (other, one) if depth == 0 else (one, other)
                    if restricts(inside.node) and inside.part == outside.part:
                        outside.node.tie(inside.node, inside.part)
            only = self._only_node(condition, scope)
            if only is not None and only in solid:
                only.filters.append(_in_own_names(condition, scope))
        self.visit(expression, scope, ctes)

    def _tie(self, one: Origin, other: Origin, restricts: Callable[[Node], bool]) -> None:
        """Two key parts are equal in each row that matters of a node that is restricted."""
        if one.part != other.part or one.part < 0:
            return
        for source, target in ((one.node, other.node), (other.node, one.node)):
            if restricts(target):
                source.tie(target, one.part)

    def _only_node(self, condition: Any, scope: Scope) -> Node | None:
        """The one table of this level whose columns are all that a condition looks at."""
        nodes = set()
        for found in walk(condition):
            if kind(found) == "SubLink":
                return None
            if kind(found) == "ColumnRef":
                hit = scope.find(strings(found.fields)) if len(strings(found.fields)) == len(found.fields) else None
                if hit is None or hit[0] is None or hit[1] != 0 or not hit[0].column:
                    return None
                nodes.add(hit[0].node)
        node = nodes.pop() if len(nodes) == 1 else None
        return node if node is not None and node.table else None

    # -- expressions ---------------------------------------------------------------------------------------------

    def visit_all(self, nodes: Iterable[Any], scope: Scope, ctes: Ctes) -> None:
        for node in nodes:
            found = inner(node)
            if found is not None:
                self.visit(found, scope, ctes)

    def visit(self, expression: Any, scope: Scope, ctes: Ctes) -> None:
        """Note the functions of an expression and analyse its subqueries."""
        match kind(expression):
            case "SubLink":
                self._sublink(expression, scope, ctes)
                return
            case "SelectStmt":
                self.query(expression, scope, ctes)
                return
            case "FuncCall":
                parts = strings(expression.funcname)
                self.functions.setdefault(parts[-1], ".".join(parts))
        for _, child in children(expression):
            self.visit(child, scope, ctes)

    def _sublink(self, link: Any, scope: Scope, ctes: Ctes) -> None:
        if link.HasField("testexpr"):
            self.visit(inner(link.testexpr), scope, ctes)
        level = self.query(inner(link.subselect), scope, ctes)
        self._check_outer_aggregates(link, scope)
        if enum_name(link, "sub_link_type") == "ANY_SUBLINK" and strings(link.oper_name) in ([], ["="]):
            self._semi_join(inner(link.testexpr), level, scope)

    def _semi_join(self, tests: Any, level: Level, scope: Scope) -> None:
        """`key IN (SELECT key …)`: of the subquery only rows with the same key matter.

        Neither side is ever NULL: else rows of other shards could turn false into NULL, which NOT makes a difference.
        """
        tested = [inner(arg) for arg in tests.args] if kind(tests) == "RowExpr" else [tests]
        if level.anchor is None or not level.is_counted or len(tested) != len(level.columns):
            return
        for test, (_, origin) in zip(tested, level.columns, strict=True):
            if kind(test) != "ColumnRef" or origin is None:
                continue
            hit = scope.find(strings(test.fields))
            if hit is None or hit[0] is None or hit[0].node not in scope.outer(hit[1]).anchors:
                continue
            if hit[0].part == origin.part:
                hit[0].node.tie(origin.node, origin.part)

    def _check_outer_aggregates(self, link: Any, scope: Scope) -> None:
        """An aggregate in a subquery over columns of this level only belongs to this level: rare, and not pushed."""
        for call in walk(link.subselect):
            if self.is_aggregate(call):
                references = [found for found in walk(call) if kind(found) == "ColumnRef"]
                if references and all(self._is_certainly_outer(ref, scope, link) for ref in references):
                    self.outer_aggregates = True

    def _is_certainly_outer(self, reference: Any, scope: Scope, link: Any) -> bool:
        fields = strings(reference.fields)
        if len(fields) > 1:
            aliases = {
                found.alias.aliasname or getattr(found, "relname", "")
                for found in walk(link.subselect)
                if kind(found) in ("RangeVar", "RangeSubselect", "RangeFunction")
            }
            return fields[-2] not in aliases
        return scope.find(fields) is not None

    def is_aggregate(self, call: Any) -> bool:
        """Whether an expression is the call of an aggregate, or may be."""
        if kind(call) in _JSON:
            return not call.constructor.HasField("over")
        if kind(call) != "FuncCall":
            return False
        name = strings(call.funcname)[-1]
        function = self.catalog.functions.get(name)
        if call.HasField("over"):
            return False
        return call.agg_star or call.agg_within_group or bool(function and function.is_aggregate)


class _Operations:
    """What a level does with whole sets of rows, and whether each set lies on one shard."""

    def __init__(self, analysis: Analysis, tree: Any, scope: Scope, anchors: list[Node]) -> None:
        self._analysis = analysis
        self._tree = tree
        self._scope = scope
        self._anchors = anchors
        own = [found for part in _own_parts(tree) for found in walk_own(part)]
        calls = [found for found in own if kind(found) == "FuncCall"]
        self.grouped = bool(tree.group_clause) or tree.HasField("having_clause")
        self.grouped |= any(analysis.is_aggregate(call) for call in own)
        self.grouped_by_key = bool(tree.group_clause) and self._keyed(tree.group_clause)
        self.distinct_on = any(node.WhichOneof("node") for node in tree.distinct_clause)
        self.distinct = bool(tree.distinct_clause)
        values = [target.res_target.val for target in tree.target_list]
        self.distinct_by_key = (
            self._keyed(tree.distinct_clause, output_first=True) if self.distinct_on else self._keyed(values)
        )
        over = [call.over for call in calls if call.HasField("over")]
        over += [call.constructor.over for call in own if kind(call) in _JSON if call.constructor.HasField("over")]
        self.windows = bool(over)
        named = {node.window_def.name: node.window_def for node in tree.window_clause}
        self.windows_by_key = all(self._window_keyed(window, named) for window in over)

    @property
    def are_local(self) -> bool:
        return (
            (not self.grouped or self.grouped_by_key)
            and (not self.distinct or self.distinct_by_key)
            and self.windows_by_key
            and not _has_limit(self._tree)
        )

    def describe(self, top: Top, root: Node | None) -> None:
        for name in ("grouped", "grouped_by_key", "distinct", "distinct_on", "distinct_by_key"):
            setattr(top, name, getattr(self, name))
        top.windows, top.windows_by_key = self.windows, self.windows_by_key
        top.root, top.scope = root, self._scope

    def _window_keyed(self, window: Any, named: dict[str, Any]) -> bool:
        names = [window.refname or window.name]
        while names[-1] in named and not window.partition_clause:
            window = named[names[-1]]
            if window.refname in names:
                break
            names.append(window.refname)
        return self._keyed(window.partition_clause, positions=False)

    def _keyed(self, expressions: Iterable[Any], *, output_first: bool = False, positions: bool = True) -> bool:
        """Whether the whole key of a table of which each row has a row is among the expressions."""
        parts: dict[Node, set[int]] = {}
        for expression in expressions:
            found = self._meant(inner(expression), output_first, positions)
            if kind(found) != "ColumnRef" or len(strings(found.fields)) != len(found.fields):
                continue
            hit = self._scope.find(strings(found.fields))
            if hit and hit[1] == 0 and hit[0] is not None and hit[0].part >= 0:
                parts.setdefault(hit[0].node, set()).add(hit[0].part)
        return any(node in self._anchors and len(found) == len(node.pins) for node, found in parts.items())

    def _meant(self, expression: Any, output_first: bool, positions: bool) -> Any:
        """Positions and names of output columns stand for expressions of the target list.

        A name is first of all one of FROM in GROUP BY, and one of an output column in DISTINCT ON.
        """
        targets = [node.res_target for node in self._tree.target_list]
        if positions and kind(expression) == "A_Const" and expression.WhichOneof("val") == "ival":
            number = expression.ival.ival
            if 1 <= number <= len(targets) and not any(_is_star(target) for target in targets):
                return inner(targets[number - 1].val)
        if not positions or kind(expression) != "ColumnRef" or len(strings(expression.fields)) != 1:
            return expression
        if output_first or self._scope.find(strings(expression.fields)) is None:
            names = strings(expression.fields)
            named = [inner(target.val) for target in targets if not _is_star(target) and [output_name(target)] == names]
            return named[0] if named else expression
        return expression


def _own_parts(tree: Any) -> Iterator[Any]:
    yield from tree.target_list
    yield from tree.sort_clause
    yield from tree.distinct_clause
    yield from tree.window_clause
    if tree.HasField("having_clause"):
        yield tree.having_clause


def walk_own(node: Any) -> Iterator[Any]:
    """Everything below a node that belongs to the same query level."""
    found = inner(node)
    if found is None or kind(found) == "SelectStmt":
        return
    yield found
    for _, child in children(found):
        yield from walk_own(child)


def table_name(relation: Any, catalog: Catalog, topology: Topology) -> str:
    """The qualified name of the table that a RangeVar means; raises `UnknownTable` and `UnsupportedQuery`."""
    written = f"{relation.schemaname}.{relation.relname}" if relation.schemaname else relation.relname
    if relation.schemaname in ("pg_catalog", "information_schema") or (
        relation.relname.startswith("pg_") and not relation.schemaname
    ):
        raise UnsupportedQuery(
            f"{written} tells of one server only",
            hint="Ask every shard with scatter(), or one with shard(name).execute().",
        )
    placement = topology.placements.get(qualified(written))
    if isinstance(placement, Single) and placement.shard not in catalog.told_by:
        raise NeedsShard(placement.shard)
    name = catalog.resolve(relation.schemaname, relation.relname)
    if name is None or name not in topology.placements:
        topology.placement(written)
        raise UnsupportedQuery(
            f'the search_path of the shards does not find the table "{written}" of the topology',
            hint="Create it on every shard, or write its schema in the statement.",
        )
    if name not in catalog.tables:
        raise UnsupportedQuery(
            f'table "{written}" is in the topology, but not on the shards', hint="Create it on every shard."
        )
    table = catalog.tables[name]
    # A view that is declared as a reference or single table is the word of whoever declared it.
    is_view = table.kind not in "rp" and isinstance(topology.placement(name), Sharded)
    if is_view or table.row_security:
        raise UnsupportedQuery(
            f"{written} is {'under row security' if table.row_security else 'not a table'} on the shards",
            detail="What it gives depends on more than its rows.",
            hint="Pass key=…, or name the shard: shard(name).execute().",
        )
    return name


def _in_own_names(condition: Any, scope: Scope) -> Any:
    """A copy of a condition on one table in which columns have the names that the table gives them."""
    found = copy(condition)
    for reference in walk(found):
        if kind(reference) == "ColumnRef":
            hit = scope.find(strings(reference.fields))
            assert hit is not None and hit[0] is not None
            del reference.fields[:]
            reference.fields.add().string.sval = hit[0].column
    return found


def _is_plain_unnest(call: Any) -> bool:
    """`unnest(… ::bigint[])`: of other arrays it is not known that their elements are single values."""
    if strings(call.funcname)[-1] != "unnest" or len(call.args) != 1:
        return False
    argument = inner(call.args[0])
    plain = kind(argument) == "TypeCast" and len(argument.type_name.array_bounds) == 1
    return plain and strings(argument.type_name.names)[-1] in CASTS


def _column_names(item: Any) -> list[str]:
    return strings(item.alias.colnames)


def _renamed(level: Level, names: list[str]) -> Level:
    """The level with new names for its first columns."""
    if not names:
        return level
    if not level.is_counted:
        return Level([], True, False, level.nodes, level.anchor)
    columns = [
        (names[number] if number < len(names) else name, origin) for number, (name, origin) in enumerate(level.columns)
    ]
    is_open = level.is_open and len(names) < len(columns)
    return Level(columns, is_open, True, level.nodes, level.anchor)


def _one(items: list[Item], merged: dict[str, Origin | None], name: str) -> Origin | None:
    """The only column of that name on one side of a join."""
    if name in merged:
        return merged[name]
    hits = [origin for item in items for origin in item.find(name)]
    return hits[0] if len(hits) == 1 and not any(item.is_open for item in items) else None


def _typed(origin: Origin | None) -> Origin | None:
    """Of a column that does not say where its row lies, only the type."""
    return replace(origin, node=_NOWHERE, part=-1, column="") if origin is not None and origin.type else None


def _part(source: Node, origin: Origin, node: Node) -> int:
    return origin.part if node.has_key and _is_key_of(source, origin) else -1


def _is_key_of(node: Node, origin: Origin | None) -> bool:
    return origin is not None and origin.node is node and origin.part >= 0


def _names_itself(cte: Any) -> bool:
    return any(kind(found) == "RangeVar" and found.relname == cte.ctename for found in walk(cte.ctequery))


def _shared_key(first: Level, second: Level) -> dict[int, tuple[int, tuple[Origin, Origin]]] | None:
    """By part, the position of the column in which both arms have it; None unless these are all parts of one key."""
    if not (first.is_counted and second.is_counted and len(first.columns) == len(second.columns)):
        return None
    found: dict[int, tuple[int, tuple[Origin, Origin]]] = {}
    for number, ((_, one), (_, other)) in enumerate(zip(first.columns, second.columns, strict=True)):
        if one is None or other is None or one.part < 0 or one.part != other.part:
            continue
        if one.node.keyspace == other.node.keyspace and one.node.has_key:
            found[one.part] = number, (one, other)
    nodes = {origin.node for _, origins in found.values() for origin in origins}
    complete = bool(found) and len(nodes) == 2 and all(len(found) == len(node.pins) for node in nodes)
    return found if complete else None


def _is_star(target: Any) -> bool:
    value = inner(target.val)
    return kind(value) == "ColumnRef" and any(field.WhichOneof("node") == "a_star" for field in value.fields)


def _has_limit(tree: Any) -> bool:
    return bool(tree.HasField("limit_count") or tree.HasField("limit_offset"))


def enum_name(message: Any, field_name: str) -> str:
    descriptor = message.DESCRIPTOR.fields_by_name[field_name].enum_type
    return str(descriptor.values_by_number[getattr(message, field_name)].name)
