"""What a statement does with which rows: its tables, their keys, and what can be answered by each shard for itself.

The question that is answered here: if every shard runs the statement on its own rows, is the union of what they answer
the answer? It is, when every row of it is made from rows of one shard: from a row of one table (the anchor), and rows
of the others that are tied to it by their keys. Where this cannot be shown, it is taken to be false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

from ...topology import Reference
from ..text.names import output_name
from ..text.statement import children, enum_name, has_limit, inner, kind, strings, walk
from .columns import output_columns
from .conditions import CASTS, conjuncts, equality, pins_of
from .facts import Ctes, Descent
from .joins import join
from .levels import Aggregate, Level, Top, is_key_of, part_of, renamed, shared_key, typed
from .operations import Operations, is_aggregate
from .overloads import qualify
from .scopes import Columns, Item, Mention, Occurrence, Origin, Scope, anchor, column_names
from .ties import in_own_names, only_node, semi_join
from .writes import analyse_write

# Functions whose result in FROM is one column, named by its alias.
_ONE_COLUMN = frozenset("generate_series regexp_split_to_table string_to_table generate_subscripts".split())


@dataclass(slots=True)
class Analysis(Descent):
    """The analysis of one statement by its text and the catalog."""

    # The aggregates in whose arguments is what is being looked at.
    _around: list[Aggregate] = field(default_factory=list)

    # -- query levels --------------------------------------------------------------------------------------------

    def statement(self, tree: Any) -> None:
        """Analyse a whole SELECT."""
        self.query(tree, None, {}, self.top)

    def query(self, tree: Any, parent: Scope | None, ctes: Ctes, top: Top | None = None) -> Level:
        """A SELECT, a set operation, VALUES, or a write in a WITH clause."""
        if kind(tree) != "SelectStmt":
            return analyse_write(self, tree, parent, ctes)
        first = len(self.nodes)
        ctes, own = self.with_clause(tree, parent, ctes)
        if tree.HasField("larg") or tree.HasField("rarg"):
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

    def _united(self, tree: Any, arms: list[Level], columns: Columns) -> tuple[Occurrence | None, Columns]:
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
        anchors: list[Occurrence] = []
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
        operations = Operations(tree, scope, anchors)
        root = anchor(anchors, (node for node in self.nodes[first:]))
        if top is not None:
            operations.describe(top, root)
        columns, is_whole = output_columns(tree, scope)
        if top is not None:
            top.columns = columns if is_whole else None
        node = None
        if root is not None and operations.are_local and not tree.locking_clause:
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

    def _exported(self, root: Occurrence, anchors: list[Occurrence], columns: Columns) -> tuple[Occurrence, Columns]:
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

    # -- FROM ----------------------------------------------------------------------------------------------------

    def from_item(self, item: Any, scope: Scope, ctes: Ctes) -> list[Occurrence]:
        """Add an item of FROM to the scope; gives the nodes of which each of its rows has a row."""
        if kind(item) == "JoinExpr":
            return join(self, item, scope, ctes)
        first = len(scope.items)
        anchors = self._single(item, scope, ctes)
        scope.star.extend(column for one in scope.items[first:] for column in one.columns)
        return anchors

    def _single(self, item: Any, scope: Scope, ctes: Ctes) -> list[Occurrence]:
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
        calls = [part for part in walk(item) if kind(part) == "FuncCall"]
        name = strings(calls[0].funcname)[-1] if calls else ""
        known = not item.ordinality and len(calls) == 1 and (name in _ONE_COLUMN or _is_plain_unnest(calls[0]))
        alias = item.alias.aliasname if item.HasField("alias") else name
        function_item = Item(alias, [(alias, None)] if known else [], is_open=not known)
        scope.items.append(function_item.renamed(alias, column_names(item)) if known else function_item)

    def _range_var(self, item: Any, scope: Scope, ctes: Ctes) -> list[Occurrence]:
        if not item.schemaname and item.relname in ctes:
            return self._cte(ctes[item.relname], item, scope)
        node, table_item = self.table(item)
        scope.items.append(table_item)
        if isinstance(node.placement, Reference):
            self.references.append(node)
            return []
        self.add(node)
        return [node]

    def _cte(self, entry: dict[str, Any], item: Any, scope: Scope) -> list[Occurrence]:
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

    def _add_level(self, level: Level, alias: str, names: list[str], scope: Scope) -> list[Occurrence]:
        level = renamed(level, names)
        scope.items.append(Item(alias, level.columns, level.is_open))
        return [level.anchor] if level.anchor is not None else []

    # -- conditions ----------------------------------------------------------------------------------------------

    def condition(
        self,
        expression: Any,
        scope: Scope,
        ctes: Ctes,
        restricts: Callable[[Occurrence], bool],
        solid: Sequence[Occurrence],
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
            only = only_node(condition, scope)
            if only is not None and only in solid:
                only.filters.append(in_own_names(condition, scope))
        self.visit(expression, scope, ctes)

    # -- expressions ---------------------------------------------------------------------------------------------

    def visit_all(self, nodes: Iterable[Any], scope: Scope, ctes: Ctes) -> None:
        for node in nodes:
            message = inner(node)
            if message is not None:
                self.visit(message, scope, ctes)

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
        aggregate = Aggregate(scope)
        self._around.append(aggregate)
        for name, child in children(call):
            if not (direct and name == "args"):
                self.visit(child, scope, ctes)
        self._around.pop()
        self.unclear_aggregates |= aggregate.is_unclear
        aggregate.level.has_aggregates = True

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
            semi_join(inner(link.testexpr), level, scope)


def _is_plain_unnest(call: Any) -> bool:
    """`unnest(… ::bigint[])`: of other arrays it is not known that their elements are single values."""
    if strings(call.funcname)[-1] != "unnest" or len(call.args) != 1:
        return False
    argument = inner(call.args[0])
    plain = kind(argument) == "TypeCast" and len(argument.type_name.array_bounds) == 1
    return plain and strings(argument.type_name.names)[-1] in CASTS


def names_itself(cte: Any) -> bool:
    return any(kind(part) == "RangeVar" and part.relname == cte.ctename for part in walk(cte.ctequery))
