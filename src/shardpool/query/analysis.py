"""What a statement does with which rows: its tables, their keys, and what can be answered by each shard for itself.

The question that is answered here: if every shard runs the statement on its own rows, is the union of what they answer
the answer? It is, when every row of it is made from rows of one shard: from a row of one table (the anchor), and rows
of the others that are tied to it by their keys. Where this cannot be shown, it is taken to be false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import UnsupportedQuery
from ..topology import Reference, Sharded, Topology
from .catalog import Catalog, Column
from .conditions import CASTS, conjuncts, equality, pins_of
from .joins import join
from .levels import NOWHERE, Aggregate, Level, Top, is_key_of, part_of, renamed, shared_key, typed
from .listed import Listed
from .names import output_name
from .operations import Operations, is_aggregate
from .overloads import qualify
from .pins import Kept
from .scopes import Columns, Item, Mention, Node, Origin, Scope, anchor, column_names
from .statement import children, copy, enum_name, has_limit, inner, kind, strings, walk
from .tables import table_name
from .types import collation_of, type_of

# A statement with more occurrences of tables than this is not analysed further: each use of a CTE is one anew.
_NODES_MAX = 300
# Functions whose result in FROM is one column, named by its alias.
_ONE_COLUMN = frozenset("generate_series regexp_split_to_table string_to_table generate_subscripts".split())


Ctes = dict[str, Any]


@dataclass(slots=True)
class Analysis:
    """Everything that is known of a statement by its text and the catalog."""

    topology: Topology
    catalog: Catalog
    nodes: list[Node] = field(default_factory=list)
    references: list[Node] = field(default_factory=list)
    locks: bool = False
    writes: list[Node] = field(default_factory=list)
    # Assignments to keys that are no changes if the parameters say so.
    kept: list[Kept] = field(default_factory=list)
    # What may store other keys than those by which rows are placed.
    doubts: list[str] = field(default_factory=list)
    # Whether there is an aggregate of which it is not known whose level it belongs to.
    unclear_aggregates: bool = False
    # A function that is written as if it were a column, `t.count` for `count(t)`.
    disguised: str = ""
    top: Top = field(default_factory=Top)
    # Of an INSERT whose tree has only a sample of its rows: all of them.
    listed: Listed | None = None
    # How many columns the SELECT of an INSERT gives; None where only a server knows.
    inserted: int | None = None
    # The references to tables by their names, where these are asked for.
    mentions: list[Mention] | None = None
    # The aggregates in whose arguments is what is being looked at.
    _around: list[Aggregate] = field(default_factory=list)

    @property
    def tables(self) -> list[Node]:
        """The occurrences of tables of which not every shard has a copy."""
        return [node for node in self.nodes if node.table]

    @property
    def key_columns(self) -> set[str]:
        """The names of key columns that stand for no column of another type in the statement's tables."""
        types: dict[str, set[str]] = {}
        for node in (*self.tables, *self.references):
            for column in self.catalog.tables[node.table].columns:
                types.setdefault(column.name, set()).add(column.type)
        return {name for node in self.tables for name in node.key_columns if len(types[name]) == 1}

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
            level = self._values(tree, parent, ctes)
        else:
            level = self._select(tree, parent, ctes, top)
        self.unused(own)
        level.nodes = self.nodes[first:]
        return level

    def _values(self, tree: Any, parent: Scope | None, ctes: Ctes) -> Level:
        width = len(tree.values_lists[0].list.items)
        columns: Columns = [(f"column{number + 1}", None) for number in range(width)]
        self.visit_all(tree.values_lists, Scope(parent), ctes)
        scope = Scope(parent, [Item("*VALUES*", columns)])
        self.visit_all(tree.sort_clause, scope, ctes)
        self._limits(tree, scope, ctes)
        return Level(columns, False, True, [], None)

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
                "around": list(self._around),
            }
            seen[cte.ctename] = everyone[cte.ctename] = entry
            own.append(entry)
        return seen, own

    def unused(self, own: list[dict[str, Any]]) -> None:
        """A SELECT in WITH that nothing refers to is not run, but it has to make sense; a write is run."""
        for entry in own:
            if not entry["used"]:
                entry["used"] = True
                self._cte_level(entry)

    def _cte_level(self, entry: dict[str, Any]) -> Level:
        """What a WITH clause defines, as it is seen where it stands."""
        around, self._around = self._around, entry["around"]
        level = self.query(inner(entry["tree"].ctequery), entry["parent"], entry["ctes"])
        self._around = around
        return level

    def _set_operation(self, tree: Any, parent: Scope | None, ctes: Ctes, top: Top | None) -> Level:
        arms = [self.query(tree.larg, parent, ctes), self.query(tree.rarg, parent, ctes)]
        # ORDER BY names output columns only.
        self._limits(tree, Scope(parent), ctes)
        anchors = [arm.anchor for arm in arms]
        node = None
        columns: Columns = [(name, None) for name, _ in arms[0].columns]
        if top is not None:
            top.columns = columns if arms[0].is_counted else None
        if all(anchors) and not has_limit(tree):
            node, columns = self._united(tree, arms, columns)
        if top is not None:
            top.is_set_operation, top.root = True, node
        return Level(columns, arms[0].is_open, arms[0].is_counted, [], node)

    def _united(self, tree: Any, arms: list[Level], columns: Columns) -> tuple[Node | None, Columns]:
        """The arms as one node. Without ALL, and but for UNION, equal rows must be on one shard: by the key."""
        first, second = arms
        assert first.anchor is not None and second.anchor is not None
        keyed = shared_key(first, second)
        if not (tree.all and enum_name(tree, "op") == "SETOP_UNION") and keyed is None:
            return None, columns
        node = self.virtual(first.anchor.keyspace if keyed is not None else "", len(keyed or {}))
        node.edges.extend([first.anchor, second.anchor])
        if keyed is not None:
            for part, (number, origins) in keyed.items():
                nullable = any(origin.nullable for origin in origins)
                columns[number] = columns[number][0], Origin(node, part, nullable=nullable)
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
        self.visit_all([*tree.target_list, *tree.window_clause], scope, ctes)
        names = {output_name(target.res_target) for target in tree.target_list}
        self._visit_keys([*tree.sort_clause, *tree.distinct_clause], names, scope, ctes)
        self._visit_keys(tree.group_clause, {name for name in names if not scope.has_column(name)}, scope, ctes)
        if tree.HasField("having_clause"):
            self.visit(inner(tree.having_clause), scope, ctes)
        self._limits(tree, scope, ctes)
        self.locks |= bool(tree.locking_clause)
        found = Operations(tree, scope, anchors)
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
            columns = [(name, typed(origin)) for name, origin in columns]
        return Level(columns, not is_whole, is_whole, [], node)

    def _visit_keys(self, keys: Iterable[Any], names: Set[str], scope: Scope, ctes: Ctes) -> None:
        """Keys of ORDER BY, GROUP BY, DISTINCT ON; a bare name among the `names` is that of an output column."""
        for key in keys:
            value = inner(key.sort_by.node) if key.WhichOneof("node") == "sort_by" else inner(key)
            if kind(value) == "GroupingSet":
                self._visit_keys(value.content, names, scope, ctes)
                continue
            is_bare = kind(value) == "ColumnRef" and len(value.fields) == 1
            if value is not None and not (is_bare and set(strings(value.fields)) <= names):
                self.visit(value, scope, ctes)

    def _limits(self, tree: Any, scope: Scope, ctes: Ctes) -> None:
        for name in ("limit_count", "limit_offset"):
            if tree.HasField(name):
                self.visit(inner(getattr(tree, name)), scope, ctes)

    def virtual(self, keyspace: str, parts: int) -> Node:
        node = Node(keyspace=keyspace, pins=[[] for _ in range(parts)])
        self.nodes.append(node)
        return node

    def _exported(self, root: Node, anchors: list[Node], columns: Columns) -> tuple[Node, Columns]:
        """A node for the rows of the level; it has a key when the level gives out all parts of one."""
        for source in anchors:
            parts = {origin.part for _, origin in columns if origin is not None and is_key_of(source, origin)}
            if source.has_key and len(parts) == len(source.pins):
                node = self.virtual(source.keyspace, len(parts))
                for part in parts:
                    node.tie(source, part)
                    source.tie(node, part)
                break
        else:
            source, node = root, self.virtual("", 0)
        if root not in node.edges:
            node.edges.append(root)
        exported: Columns = [
            (name, replace(origin, node=node, part=part_of(source, origin, node), column="") if origin else None)
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
            origin = Origin(NOWHERE, type=type_, collation=collation_of(value, scope)) if type_ else None
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
            return join(self, item, scope, ctes)
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
                return self._add_level(level, item.alias.aliasname, column_names(item), scope)
            case "RangeFunction":
                self._range_function(item, scope, ctes)
                return []
            case "RangeTableSample":
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
        scope.items.append(found.renamed(alias, column_names(item)) if known else found)

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
            return node, Item(alias, columns, node=node).renamed(alias, column_names(relation))
        return node, Item(alias, columns, table=name, node=node)

    def _origin(self, node: Node, part: int, column: Column) -> Origin:
        is_ordered = column.collation is None or self.catalog.sorts_by_bytes(column.collation)
        return Origin(node, part, column.name, column.type, column.collation, is_ordered, not column.not_null)

    def _cte(self, entry: dict[str, Any], item: Any, scope: Scope) -> list[Node]:
        entry["used"] = True
        cte = entry["tree"]
        alias = item.alias.aliasname or cte.ctename
        if entry["busy"]:  # the recursive reference: nothing is known of its rows
            scope.items.append(Item(alias, [], is_open=True))
            return []
        entry["busy"] = True
        level = self._cte_level(entry)
        entry["busy"] = False
        if entry["recursive"] and names_itself(cte):
            level = Level([], True, False, level.nodes, None)
        level = renamed(level, strings(cte.aliascolnames))
        return self._add_level(level, alias, column_names(item), scope)

    def _add_level(self, level: Level, alias: str, names: list[str], scope: Scope) -> list[Node]:
        level = renamed(level, names)
        scope.items.append(Item(alias, level.columns, level.is_open))
        return [level.anchor] if level.anchor is not None else []

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
                    self.tie(one, other, restricts)
                elif (depth == 0) is not (other_depth == 0):
                    outside, inside = (other, one) if depth == 0 else (one, other)
                    if restricts(inside.node) and inside.part == outside.part:
                        outside.node.tie(inside.node, inside.part)
            only = self._only_node(condition, scope)
            if only is not None and only in solid:
                only.filters.append(_in_own_names(condition, scope))
        self.visit(expression, scope, ctes)

    def tie(self, one: Origin, other: Origin, restricts: Callable[[Node], bool]) -> None:
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
        """Analyse the subqueries of an expression."""
        match kind(expression):
            case "SubLink":
                self._sublink(expression, scope, ctes)
                return
            case "SelectStmt":
                self.query(expression, scope, ctes)
                return
            case "ColumnRef":
                self._look_for_call(expression, scope)
                self._look_for_level(expression, scope)
                self._look_for_table(expression, scope)
                return
            case "A_Indirection":
                self._look_for_call(expression, scope)
        qualify(expression, scope, self.catalog)
        if is_aggregate(expression, self.catalog):
            self._aggregate(expression, scope, ctes)
            return
        for _, child in children(expression):
            self.visit(child, scope, ctes)

    def _aggregate(self, call: Any, scope: Scope, ctes: Ctes) -> None:
        """The call of an aggregate; what is computed once, before WITHIN GROUP, has no say in where it belongs."""
        direct = call.args if kind(call) == "FuncCall" and call.agg_within_group else ()
        self.visit_all(direct, scope, ctes)
        found = Aggregate(scope)
        self._around.append(found)
        for name, child in children(call):
            if not (direct and name == "args"):
                self.visit(child, scope, ctes)
        self._around.pop()
        self.unclear_aggregates |= found.is_unclear
        found.level.has_aggregates = True

    def _look_for_level(self, reference: Any, scope: Scope) -> None:
        names = strings(reference.fields)
        if self._around and names:
            level = scope.level_of(names, is_row=len(names) < len(reference.fields))
            for aggregate in self._around:
                aggregate.holds(level)

    def _look_for_call(self, expression: Any, scope: Scope) -> None:
        """`t.f` and `(t).f` are the call f(t) when t has no column f."""
        if kind(expression) == "ColumnRef":
            fields = strings(expression.fields)
        else:
            row = inner(expression.arg)
            fields = strings(row.fields)[-1:] if kind(row) == "ColumnRef" else []
            fields += strings(expression.indirection)[:1]
        if len(fields) == 2 and self.catalog.has_function(fields[1]) and scope.has_no_column(fields):
            self.disguised = ".".join(fields)

    def _look_for_table(self, reference: Any, scope: Scope) -> None:
        if self.mentions is not None:
            item, is_row = scope.row_of(reference)
            if item is not None and item.node is not None:
                self.mentions.append(Mention(reference, item.node, is_row))

    def _sublink(self, link: Any, scope: Scope, ctes: Ctes) -> None:
        if link.HasField("testexpr"):
            self.visit(inner(link.testexpr), scope, ctes)
        level = self.query(inner(link.subselect), scope, ctes)
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
            if hit[0].part == origin.part and not (hit[0].nullable or origin.nullable):
                hit[0].node.tie(origin.node, origin.part)


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


def names_itself(cte: Any) -> bool:
    return any(kind(found) == "RangeVar" and found.relname == cte.ctename for found in walk(cte.ctequery))
